"""Choosing, from more images than needed, those that lower a Frechet distance."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnnlib.atomic import atomic_path, check_destination
from edm2_guidance.cli import metric_options as opt
from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.option_group import COUNT, OptionGroup, option, takes_options
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.commands.score.sides import (
    FrechetOptions,
    left_to_the_first,
    measured_reference,
    open_images_and_reference,
    settled_metrics,
    tell_sides,
)
from edm2_guidance.metrics.catalog import Metric, check_counts, find_metric, value_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.images.sources import StoredImages
    from edm2_guidance.metrics.moments import Moments
    from edm2_guidance.metrics.resampling import Classes
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
    lr: float = option(
        "A step is the gradient times this", type=click.FloatRange(min=0, min_open=True), default=10.0, first=True
    )
    iterations: int = option("Steps of gradient descent", type=COUNT, default=1000, first=True)
    scored: FrechetOptions


@click.command(cls=Command)
@click.argument("candidates")
@click.argument("reference")
@takes_options
def resample(candidates: str, reference: str, asked: ResampleOptions) -> None:
    """Choose, from more CANDIDATES than needed, images whose Frechet distance to REFERENCE is low.

    A trick to distrust the distance by: no image is made better. The candidates' weights are found by gradient descent
    on the distance, and images drawn by them, with replacement. Other metrics beside it (--control) tell whether the
    set is better. Before is a subset by chance, of as many images.

    \b
    python calculate_metrics.py resample out/many.zip mnist16 --metrics=fd_mnist --num-images=1000 --out=out/chosen.zip
    """
    if left_to_the_first():
        return
    from edm2_guidance.images.archive import select_subset
    from edm2_guidance.metrics import evaluation
    from edm2_guidance.metrics.sensitivity import check_frechet

    metric, ref = find_metric(asked.scored.metric), opt.reference_from(reference)
    with bad_input():
        check_frechet(metric)
        check_output(Path(asked.out), candidates)
        metrics = [metric.name, *(each for each in controls_of(asked, candidates, ref) if each != metric.name)]
        images, theirs, detectors = open_images_and_reference(
            asked.scored, candidates, ref, metrics, logits_of(metric), keep=True
        )
        total = images.source.num_images
        num = max(2, total // 5) if asked.num is None else asked.num
        if num > total:
            raise ValueError(f"{candidates} holds {total} images: {num} cannot be chosen among them")
        check_counts(metrics, num)
    against = measured_reference(theirs, detectors)
    tell_sides(candidates, total, against)
    with progress_bar(total, "images") as progress:
        moments = evaluation.measure(images.source, detectors, images.names, progress).moments
    weights, chosen = choose(asked, features_in(moments, metric), against.moments[metric.name], num)
    by_chance = select_subset(total, num, asked.scored.stored.seed)
    click.echo(scores_table(metrics, moments, against, by_chance, chosen))
    if classes := classes_of(metric, images.source, moments, against, theirs, chosen):
        click.echo(f"\n{classes.table()}")
    write(Path(asked.out), images.source, weights, chosen)
    different, worth = len(set(chosen.tolist())), 1 / float((weights**2).sum())
    click.echo(f"\n{asked.out}: {num:,} drawn, {different:,} different; the weights are worth {worth:,.0f} images")


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


def logits_of(metric: Metric) -> list[str]:
    """A metric of the logits of the same extractor, which tell its top-1 classes; none if it has none."""
    return [f"fd/{metric.extractor.kind}.logits"] if "logits" in metric.extractor.features else []


def features_in(moments: "Mapping[str, Moments]", metric: Metric) -> "NDArray[Any]":
    """The features of a metric, [N, D]."""
    from edm2_guidance.metrics.measures.base import rows_of

    return rows_of(moments[metric.stored_as])


def choose(
    asked: ResampleOptions, features: "NDArray[Any]", reference: "Moments", num: int
) -> "tuple[NDArray[Any], NDArray[Any]]":
    """The candidates' weights, which add up to 1, and the images that are drawn, ascending."""
    import torch

    from edm2_guidance.metrics import resampling
    from edm2_guidance.metrics.measures.gaussians import factor_of
    from torch_utils.distributed import pick_device

    factored, device = factor_of(reference, "the reference"), pick_device(asked.scored.device.device)
    where = device if device.type == "cuda" else "cpu"  # float64 is not everywhere
    with progress_bar(asked.iterations, "descent", "step") as progress:
        rows = torch.from_numpy(features).to(where, torch.float64)
        log_weights = resampling.matched(rows, factored, lr=asked.lr, iterations=asked.iterations, progress=progress)
    weights = resampling.shares(log_weights)
    return weights, resampling.drawn(weights, num, features, factored, asked.scored.stored.seed)


def scores_table(
    metrics: Sequence[str], moments: "Mapping[str, Moments]", reference: "Reference", *sets: "Sequence[int]"
) -> str:
    """Metrics of a subset by chance and of the one that was chosen."""
    from edm2_guidance.metrics.resampling import aligned, moments_of

    lines: list[Sequence[str]] = [("metric", "better", "before", "after", "change")]
    for name in metrics:
        metric = find_metric(name)
        rows = features_in(moments, metric)
        before, after = (next(iter(reference.comparisons[name](moments_of(rows[each])).values())) for each in sets)
        change = f"{100 * (after / before - 1):+.1f} %" if before else ""
        lines.append((name, metric.measure.better, value_text(name, before), value_text(name, after), change))
    return aligned(lines)


def classes_of(
    metric: Metric, source: "StoredImages", moments: "Mapping[str, Moments]", against: "Reference",
    theirs: "Reference | ReferenceImages", chosen: "NDArray[Any]",
) -> "Classes | None":  # fmt: skip
    """Top-1 classes by the detector's logits, or labels if it has none, of candidates, chosen and reference."""
    import numpy as np

    from edm2_guidance.metrics.resampling import Classes
    from edm2_guidance.metrics.sides import ReferenceImages

    labels: dict[str, NDArray[Any]] = {}
    for name in logits_of(metric):
        ours, other = features_in(moments, find_metric(name)), against.moments.get(name)
        labels["candidates"] = ours.argmax(axis=1)
        if other is not None and other.sample is not None:
            labels["reference"] = other.sample.argmax(axis=1)
    if not labels and source.labels is not None:
        labels["candidates"] = np.asarray(source.labels)
        known = theirs.stored.source.labels if isinstance(theirs, ReferenceImages) else None
        if known is not None:
            labels["reference"] = np.asarray(known)
    if not labels:
        return None
    candidates = labels.pop("candidates")
    return Classes.of({"candidates": candidates, "chosen": candidates[chosen], **labels})


def write(dest: Path, source: "StoredImages", weights: "NDArray[Any]", chosen: "NDArray[Any]") -> None:
    """The chosen images as a set, in the candidates' order, copies beside each other; or a table of all candidates."""
    import numpy as np

    from edm2_guidance.images.set_writer import image_set, pixels_name
    from edm2_guidance.images.sinks import pixels_of, png_bytes

    if dest.suffix.lower() == ".csv":
        counts, names = np.bincount(chosen, minlength=len(weights)), source.names or range(len(weights))
        with atomic_path(dest) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("image", "weight", "drawn"))
            writer.writerows(zip(names, weights.tolist(), counts.tolist(), strict=True))
        return
    labels = None if source.labels is None else [source.labels[row] for row in chosen]
    with image_set(dest, pixels_name, labels) as add:
        for row, copies in zip(*np.unique(chosen, return_counts=True), strict=True):
            data = png_bytes(pixels_of(source.pick([int(row)]))[0])
            for _ in range(copies):
                add(data)
