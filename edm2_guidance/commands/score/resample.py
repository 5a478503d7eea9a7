"""Choosing, from more images than needed, those that lower a Frechet distance."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnnlib.atomic import atomic_path, check_destination
from edm2_guidance.cli import metric_options as opt
from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.option_group import COUNT, OptionGroup, option, takes_options
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.say import say_notes
from edm2_guidance.commands.score.sides import (
    FrechetOptions,
    left_to_the_first,
    measured_reference,
    open_images_and_reference,
    settled_metrics,
    tell_sides,
)
from edm2_guidance.metrics.catalog import Metric, check_counts, find_metric
from edm2_guidance.papers.listing import as_csv, as_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.images.sources import StoredImages
    from edm2_guidance.metrics.evaluation import StoredSet
    from edm2_guidance.metrics.measures.gaussians import FactoredMoments
    from edm2_guidance.metrics.scoring import Reference
    from edm2_guidance.metrics.sides import ReferenceImages


class ResampleOptions(OptionGroup, heading="Choosing"):
    """How many are drawn, how their chances are found, and what is shown beside."""

    num: int | None = opt.num_option("a fifth of the candidates", "How many are drawn")
    control: list[str] | None = option(
        "Metrics to show before and after, too, such as fd_mnist_ae,recall/mnist", metavar="LIST", type=opt.Metrics(),
        heading="Scoring", first=True,
    )  # fmt: skip
    out: str = option(
        "The drawn images, or a table of all candidates with their weights", metavar="ZIP|DIR|CSV", required=True,
        heading="Output",
    )  # fmt: skip
    lr: float | None = option(
        "A step is the gradient times this  [default: 10, in proportion less for fewer than 5,000 candidates]",
        type=click.FloatRange(min=0, min_open=True), first=True,
    )  # fmt: skip
    iterations: int = option("Steps of gradient descent", type=COUNT, default=1000, first=True)
    top: int | None = option(
        "Match only which classes are an image's N likeliest, by the detector's logits; REFERENCE is images then",
        metavar="N", type=COUNT, first=True,
    )  # fmt: skip
    middle: int | None = option("Likewise the N in the middle of its order", metavar="N", type=COUNT)
    scored: FrechetOptions

    @property
    def classes(self) -> int | None:
        """How many classes of an image are matched; None to match features. A usage error for two answers."""
        if self.top is not None and self.middle is not None:
            raise click.UsageError("--top and --middle match different classes: give one of them")
        return self.middle if self.top is None else self.top


@click.command(cls=Command)
@click.argument("candidates")
@click.argument("reference")
@takes_options
def resample(candidates: str, reference: str, asked: ResampleOptions) -> None:
    """Choose, from more CANDIDATES than needed, images whose Frechet distance to REFERENCE is low.

    A trick to distrust the distance by: no image is made better. The candidates' weights are found by gradient descent
    on the distance, and images drawn by them, with replacement: the best of three draws. Other metrics beside it
    (--control) tell whether the set is better. Before is the same with equal weights.

    \b
    python calculate_metrics.py resample out/many.zip mnist16 --metrics=fd_mnist --num-images=1000 --out=out/chosen.zip
    """
    classes = asked.classes
    if left_to_the_first():
        return
    from edm2_guidance.metrics import evaluation, resampling
    from edm2_guidance.metrics.sensitivity import check_frechet

    metric, ref, dest = find_metric(asked.scored.metric), opt.reference_from(reference), Path(asked.out)
    beside, seed = resampling.logits_of(metric), asked.scored.stored.seed
    with bad_input():
        check_frechet(metric)
        check_output(dest, candidates)
        metrics = [metric.name, *(each for each in controls_of(asked, candidates, ref) if each != metric.name)]
        images, theirs, detectors = open_images_and_reference(asked.scored, candidates, ref, metrics, beside, keep=True)
        labels = labels_of(images, theirs)
        num = check_num(asked.num, images.source.num_images, metrics)
        if classes is not None:
            check_classes(classes, metric, theirs)
    against = measured_reference(theirs, detectors)
    tell_sides(candidates, images.source.num_images, against)
    say_notes(images.source.notes)
    with progress_bar(images.source.num_images, "images") as progress:
        moments = evaluation.measure(images.source, detectors, images.names, progress).moments
    measured = resampling.Candidates(metric, moments, against, labels)
    weights = find_weights(asked, *measured.to_match(classes, middle=asked.middle is not None))
    chosen = measured.drawn(weights, num, seed)
    write(dest, images.source, weights, chosen, f"{metric.name} against {Path(reference).name}")
    click.echo(as_text(measured.scores(metrics, measured.drawn(None, num, seed), chosen)))
    say_notes(measured.notes(metrics, chosen))
    if shown := measured.classes(chosen):
        click.echo(f"\n{as_text(shown.cells())}")
    different, worth = len(set(chosen.tolist())), 1 / float((weights**2).sum())
    click.echo(f"\n{dest}: {num:,} drawn, {different:,} different; the weights are worth {worth:,.0f} images")


def check_output(dest: Path, source: str) -> None:
    """ValueError or OSError if nothing could be written there."""
    from edm2_guidance.images.set_writer import check_set_destination

    if dest.suffix.lower() != ".csv":
        check_set_destination(dest, source)
    elif dest.is_file():
        raise FileExistsError(f"{dest} exists; give another --out, or move it away")
    else:
        check_destination(dest)


def controls_of(asked: ResampleOptions, candidates: str, ref: str) -> list[str]:
    """The metrics that are shown beside."""
    controls = asked.control or []
    if not opt.open_ended(controls):
        return controls
    return settled_metrics(controls, ref, candidates, asked.num, asked.scored.device.offline)


def check_num(asked: int | None, total: int, metrics: Sequence[str]) -> int:
    """How many are drawn. ValueError for more than the candidates, or too few for one of the metrics."""
    num = max(2, total // 5) if asked is None else asked
    if num > total:
        raise ValueError(f"{num} images cannot be chosen among {total} candidates: give more, or --num-images={total}")
    check_counts(metrics, num)
    return num


def check_classes(classes: int, metric: Metric, theirs: "Reference | ReferenceImages") -> None:
    """ValueError if nobody knows which classes are likeliest of candidates and reference, or these are all classes."""
    from edm2_guidance.metrics.sides import ReferenceImages

    known = metric.extractor.features.get("logits")
    if known is None:
        raise ValueError(f"--top and --middle need logits, which {metric.extractor.kind} does not give")
    if classes >= known:
        raise ValueError(f"{classes} of {known} classes say nothing: give fewer")
    if not isinstance(theirs, ReferenceImages):
        raise ValueError("--top and --middle need the images of the reference, to see their classes: give these")


def labels_of(images: "StoredSet", theirs: "Reference | ReferenceImages") -> "dict[str, NDArray[Any]]":
    """The labels of candidates and reference, as far as they have some; none without those of candidates."""
    import numpy as np

    from edm2_guidance.metrics.sides import ReferenceImages

    known = {"candidates": images.source.labels}
    if known["candidates"] is not None and isinstance(theirs, ReferenceImages):
        known["reference"] = theirs.stored.source.labels
    return {name: np.asarray(each) for name, each in known.items() if each is not None}


def find_weights(asked: ResampleOptions, rows: "NDArray[Any]", reference: "FactoredMoments") -> "NDArray[Any]":
    """The candidates' weights, which add up to 1."""
    import torch

    from edm2_guidance.metrics import resampling
    from torch_utils.distributed import pick_device

    device = pick_device(asked.scored.device.device)
    features = torch.from_numpy(rows).to(torch.float64).to(device if device.type == "cuda" else "cpu")  # MPS has none
    lr = min(10.0, len(rows) / 500) if asked.lr is None else asked.lr  # of fewer, each has a larger share of a step
    with progress_bar(asked.iterations, "descent", "step") as progress:
        found = resampling.matched(features, reference, lr=lr, iterations=asked.iterations, progress=progress)
    return resampling.shares(found)


def write(dest: Path, source: "StoredImages", weights: "NDArray[Any]", chosen: "NDArray[Any]", by: str) -> None:
    """The chosen images as a set, in the candidates' order, copies beside each other; or a table of all candidates.

    by: what they were chosen by, which the set says of itself, and scores of it with it.
    """
    import numpy as np

    from edm2_guidance.images.set_writer import image_set, pixels_name
    from edm2_guidance.images.sinks import pixels_of, png_bytes

    if dest.suffix.lower() == ".csv":
        counts, names = np.bincount(chosen, minlength=len(weights)), source.names or range(len(weights))
        rows = zip(names, weights.tolist(), counts.tolist(), strict=True)
        with atomic_path(dest) as temporary:
            table = as_csv([dict(zip(("image", "weight", "drawn"), row, strict=True)) for row in rows])
            temporary.write_text(f"{table}\n", encoding="utf-8")
        return
    labels = None if source.labels is None else [source.labels[row] for row in chosen]
    with image_set(dest, pixels_name, labels, origin={"chosen_by": by}) as add:
        for row, copies in zip(*np.unique(chosen, return_counts=True), strict=True):
            data = png_bytes(pixels_of(source.pick([int(row)]))[0])
            for _ in range(copies):
                add(data)
