"""What the commands share that score: their options, both sides of a score, and what is said of it."""

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from dnnlib.workers import launched
from edm2_guidance.cli import metric_options as opt
from edm2_guidance.cli.command import bad_input
from edm2_guidance.cli.option_group import OptionGroup, option
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.say import note, say, say_notes, warn
from edm2_guidance.cli.start import as_started
from edm2_guidance.metrics.catalog import find_metric, score_text
from edm2_guidance.metrics.ledger import STANDARD_NUM_IMAGES
from edm2_guidance.recipe import catalog

if TYPE_CHECKING:
    from edm2_guidance.metrics.detectors import Detector
    from edm2_guidance.metrics.evaluation import StoredSet
    from edm2_guidance.metrics.image_sets import ImageSet
    from edm2_guidance.metrics.moments import Moments
    from edm2_guidance.metrics.score_output import Record
    from edm2_guidance.metrics.scoring import Reference
    from edm2_guidance.metrics.sides import ReferenceImages


class ScoreOptions(OptionGroup):
    """How stored sets are scored, and where scores go."""

    metrics: list[str] = opt.scored_metrics_option()
    num: int | None = opt.num_option(f"{STANDARD_NUM_IMAGES} if there are more, else all")
    stored: opt.StoredOptions
    detectors: opt.DetectorOptions
    ledger: opt.LedgerOptions
    device: opt.DeviceOptions


class FeatureOptions(OptionGroup):
    """In whose features images are compared, and how many."""

    features: str | None = option(
        "Whose features distances are in  [default: those for images of this size, or inception]",
        type=click.Choice(catalog.kinds("extractor")), heading="Scoring",
    )  # fmt: skip
    num: int | None = opt.num_option("all", "So many of the samples")
    stored: opt.StoredOptions
    detectors: opt.DetectorOptions
    device: opt.DeviceOptions


class FrechetOptions(OptionGroup, heading="Scoring"):
    """One Frechet distance of stored images, which are looked at one by one."""

    metric: str = option(
        "A Frechet distance: fid, fd_dinov2, fd_mnist, fd/inception.logits, ...", "--metrics", metavar="NAME",
        type=opt.OneMetric(), default="fid", first=True,
    )  # fmt: skip
    stored: opt.StoredOptions
    detectors: opt.DetectorOptions
    device: opt.DeviceOptions


def settled_metrics(metrics: list[str], ref: str, images: str | None, num: int | None, offline: bool) -> list[str]:
    """The metrics that "all" among these stands for; says what is left out, and why."""
    from edm2_guidance.metrics.sides import settled

    with bad_input():
        found = settled(metrics, ref, images, num, offline=offline)
    say_notes(found.left_out)
    return found.metrics


def measured_reference(
    theirs: "Reference | ReferenceImages", detectors: "Sequence[Detector]", *, quiet: bool = False
) -> "Reference":
    """A reference as it was opened: measured now if it is images."""
    from edm2_guidance.metrics.sides import ReferenceImages

    if not isinstance(theirs, ReferenceImages):
        return theirs
    if not quiet:
        path = shlex.quote(str(theirs.stored.source.path))
        how = f"calculate_metrics.py ref --images={path} --out=NAME.npz keeps them"
        note(f"the statistics of {theirs.name} are computed now; {as_started(how)}")
    with progress_bar(theirs.stored.source.num_images, "reference", quiet=quiet) as progress:
        return theirs.measure(detectors, progress)


def open_images_and_reference(
    asked: FrechetOptions, samples: str, ref: str, metrics: Sequence[str], beside: Sequence[str] = (),
    *, num: int | None = None, keep: bool = False,
) -> "tuple[StoredSet, Reference | ReferenceImages, list[Detector]]":  # fmt: skip
    """Samples that are images, a reference, and the detectors of the metrics, with every check beforehand.

    beside: metrics that a reference of statistics need not have. keep: the features of the samples. ValueError, OSError
    and usage errors for what does not fit.
    """
    from edm2_guidance.metrics.evaluation import open_stored
    from edm2_guidance.metrics.sides import open_reference_side, open_side

    batch, offline = asked.stored.batch, asked.device.offline
    other = open_side(ref, metrics, reference=True, offline=offline)
    theirs = open_reference_side(other, [*metrics, *(() if other.statistics else beside)], batch=batch)
    side = open_side(samples, [], offline=offline)
    if side.images is None:
        raise ValueError(f"{samples} holds statistics; give the images themselves")
    images = open_stored(side.images, metrics, num=num, seed=asked.stored.seed, batch=batch, scored=False)
    choices = asked.detectors.choices([*metrics, *beside], keep=keep)
    return images, theirs, open_detectors(choices, asked.device.device, offline=offline)


def tell_sides(samples: str, count: int | None, reference: "Reference") -> None:
    """Say on stderr which side is which, and how many images stand behind it."""
    statistics = reference.statistics
    numbers = [count, *(each.num_images for each in [*statistics.moments.values()][:1])]
    known = ["an unknown number of images" if number is None else f"{number:,} images" for number in numbers]
    known += [f"with features of {each.num_images:,} of them" for each in [*statistics.shown.values()][:1]]
    say(f"samples: {samples}, {known[0]}; reference: {', '.join([statistics.source, *known[1:]])}")


def left_to_the_first() -> bool:
    """Whether this is a further worker: reading stored images is the work of one, and it says so."""
    with bad_input():
        workers = launched()
    if workers.rank > 0:
        say(f"{workers.prefix}nothing to do: worker 0 reads all stored images")
    return workers.rank > 0


def open_detectors(choices: opt.Choices, device: str, *, offline: bool) -> "list[Detector]":
    """The detectors, in the order of `choices`; without any, torch is imported for a named device alone."""
    if not choices and device == "auto":
        return []
    from edm2_guidance.metrics.detectors import load_detector
    from torch_utils.distributed import pick_device

    where = pick_device(device)
    return [load_detector(name, where, offline=offline, **choice) for name, choice in choices.items()]


class Opened(NamedTuple):
    """Both sides of a score, checked. name: of the samples, as typed. detectors: those that run."""

    name: str
    metrics: list[str]
    images: "ImageSet"
    theirs: "Reference | ReferenceImages"
    detectors: "list[Detector]"


def open_sides(
    asked: ScoreOptions, images: str, ref: str, metrics: list[str] | None, most: int | None, *, keep: bool = False
) -> Opened | None:
    """Opens images, or statistics of images, and a reference; None for a further worker, which has nothing to do.

    metrics: None = those that both sides have. most: images that are scored without --num-images; None = all. keep:
    the features of all images, also where no metric needs them.
    """
    if metrics is not None and not opt.open_ended(metrics):
        asked.detectors.choices(metrics)  # refused before anything opens
    if left_to_the_first():
        return None
    if metrics is not None and opt.open_ended(metrics):
        metrics = settled_metrics(metrics, ref, images, most if asked.num is None else asked.num, asked.device.offline)
    from edm2_guidance.metrics import ledger
    from edm2_guidance.metrics.image_sets import open_set
    from edm2_guidance.metrics.sides import ReferenceImages, common_metrics, open_reference_side, open_side

    num, stored, device, offline = asked.num, asked.stored, asked.device.device, asked.device.offline
    with bad_input():
        ledger.check_writable(asked.ledger.ledger)
        other = open_side(ref, metrics, reference=True, offline=offline)
        ours = open_side(images, offline=offline) if metrics is None else None
        metrics = metrics or common_metrics(ours, other) or opt.STANDARD_METRICS
        theirs = open_reference_side(other, metrics, batch=stored.batch)  # what is wrong with it is said first
        ours = ours or open_side(images, metrics, offline=offline)
        found = open_set(ours, metrics, num=num, most=most, seed=stored.seed, batch=stored.batch)
        needed = found.source is not None or isinstance(theirs, ReferenceImages)
        choices = asked.detectors.choices(metrics, keep=keep) if needed else {}
        return Opened(ours.name, metrics, found, theirs, open_detectors(choices, device, offline=offline))


def scores_there(
    asked: ScoreOptions, images: "ImageSet", reference: "Reference", detectors: "Sequence[Detector]"
) -> "list[Record] | None":
    """The ledger's lines of this very score, with the same note, if it has one per metric."""
    from edm2_guidance.metrics import scoring
    from edm2_guidance.metrics.evaluation import identities_of
    from edm2_guidance.metrics.ledger import Index

    sha256 = reference.statistics.sha256
    if sha256 is None:
        return None
    index, found = Index(asked.ledger.ledger, scoring.keys_of), []
    identities = identities_of(detectors) if images.source is not None else images.identities
    for metric in reference.comparisons:
        detector = identities.get(find_metric(metric).stored_as)
        asks = {"metric": metric, "images": images.description, "detector": detector, "reference": {"sha256": sha256}}
        lines = [line for key in scoring.keys_of(asks) for line in index.find(key)]
        same = next((line for line in lines if line.get("note") == asked.ledger.note), None)
        if same is None:
            return None
        found.append(same)
    return found


def score_set(
    asked: ScoreOptions,
    name: str,
    images: "ImageSet",
    reference: "Reference",
    detectors: "Sequence[Detector]",
) -> "tuple[Mapping[str, Moments], list[dict[str, Any]]]":
    """Measures a set, appends its scores to the ledger, and prints them. Arguments and result as `measured_set`."""
    from edm2_guidance.metrics import ledger

    moments, records = measured_set(asked, name, images, reference, detectors)
    for record in records:
        ledger.append(asked.ledger.ledger, record)
    tell_scores(records)
    return moments, records


def measured_set(
    asked: ScoreOptions,
    name: str,
    images: "ImageSet",
    reference: "Reference",
    detectors: "Sequence[Detector]",
) -> "tuple[Mapping[str, Moments], list[dict[str, Any]]]":
    """The moments of a set, and its scores as lines for the ledger; says which side is which.

    name: as it was typed. detectors: those that run; none, if statistics are compared.
    """
    from edm2_guidance.metrics import provenance, scoring
    from edm2_guidance.metrics.environment import environment

    count = images.num_images
    tell_sides(name, count, reference)
    if images.source is not None and asked.num is None and count != (total := images.description["total"]):
        chosen = f"{count:,} of the {total:,} samples are scored, chosen by --seed={asked.stored.seed}"
        note(f"{chosen}; --num-images={total} takes all")
    say_notes(images.notes)
    with progress_bar(count or 0, "images", quiet=images.source is None) as progress:
        moments, identities, ran = images.measure(detectors, progress)
    around = environment(detectors[0].device if detectors else "cpu", vae=provenance.vae_ran(images.description))
    given, tags = (reference, moments, identities, images.description, around), {"note": asked.ledger.note}
    return moments, scoring.score_lines(*given, fewer=images.fewer(asked.num), tags=tags, **ran)


def tell_scores(records: "Sequence[Record]") -> None:
    """Prints lines of the ledger, and says on stderr what to mind, once each."""
    for record in records:
        click.echo(f"{record['name']:<15} {score_text(record)}")
    say_warnings(records)


def say_warnings(records: "Sequence[Record]") -> None:
    """Says on stderr what to mind of lines of the ledger, once each, and of which if not of all."""
    warned: dict[str, list[str]] = {}
    for record in records:
        for text in record.get("flags") or ():
            warned.setdefault(text, []).append(record["metric"])
    for text, metrics in warned.items():
        of = "" if len(metrics) == len(records) else f"{', '.join(metrics)}: "
        warn(f"{of}{text}")
