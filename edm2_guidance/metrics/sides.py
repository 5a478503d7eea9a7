"""The two sides of a score, samples and reference, as they were named: statistics, or images still to be measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dnnlib.download import fetch
from dnnlib.places import find_file
from dnnlib.urls import is_url, without_secrets
from edm2_guidance.images.sources import StoredImages, content_sha256
from edm2_guidance.metrics import catalog
from edm2_guidance.metrics.evaluation import StoredSet, check_image_sizes, identities_of, measure, open_stored
from edm2_guidance.metrics.reference import Statistics, holds_statistics, open_statistics, shows_images
from edm2_guidance.metrics.scoring import Reference, moments_for, prepare_reference

if TYPE_CHECKING:
    from edm2_guidance.metrics.detectors import Detector


@dataclass(frozen=True)
class Side:
    """What was named. name: as it was typed, of a URL no secrets. path: where it is.

    statistics, or else images; or both, of guided-diffusion's references, where metrics need features of the latter.
    """

    name: str
    path: Path
    statistics: Statistics | None
    images: StoredImages | None = None

    @property
    def metrics(self) -> set[str]:
        """The metrics that it has statistics of; none for images."""
        return set() if self.statistics is None else set(self.statistics.moments)


def open_side(
    name: str,
    metrics: Sequence[str] | None = None,
    *,
    reference: bool = False,
    offline: bool = False,
    keep: bool = False,
) -> Side:
    """Looks at what was named: a statistics file, by path or URL, or a folder, ZIP or .npz of images.

    metrics: which to read of statistics; None reads all that this program has. keep: with their features, if these are
    there, also where the metrics need none.

    OSError: nothing there. ValueError: neither of these, or damaged.
    """
    path = Path(fetch(name, offline=offline)) if is_url(name) else find_file(name)
    shown = without_secrets(name) if is_url(name) else name
    if holds_statistics(path, reference=reference):
        wanted, images = metrics or (), None
        if reference and shows_images(path) and catalog.kept_features(wanted, reference=True):
            wanted, images = _by_moments(wanted), StoredImages(path)
        names = None if metrics is None else catalog.feature_names(wanted, reference=reference)
        kept = (catalog.feature_names if keep else catalog.kept_features)(wanted, reference=reference)
        return Side(shown, path, open_statistics(name, names, keep=kept, offline=offline), images)
    return Side(shown, path, None, StoredImages(path))


def _by_moments(metrics: Sequence[str]) -> list[str]:
    """The metrics that need mean and covariance of a reference."""
    return [name for name in metrics if catalog.find_metric(name).needs(reference=True) == "moments"]


def common_metrics(*sides: Side | None) -> list[str]:
    """The metrics that all of the sides have that are statistics; none if all are images. ValueError if none is."""
    held = [side for side in sides if side is not None and side.statistics is not None]
    metrics = [name for name in catalog.extractors() if all(name in side.metrics for side in held)] if held else []
    if held and not metrics:
        found = "; ".join(f"{side.name} has {', '.join(sorted(side.metrics))[:200]}" for side in held)
        raise ValueError(f"no metric of this program is in all of the statistics: {found}")
    return metrics


class Settled(NamedTuple):
    """Metrics in place of `catalog.ALL`, and why others are left out, a sentence each."""

    metrics: list[str]
    left_out: list[str]


def settled(
    asked: Sequence[str], reference: str, samples: str | None, num: int | None, *, offline: bool = False
) -> Settled:
    """Metrics as asked for; in place of `catalog.ALL` those that both sides have enough for.

    samples: as named; None for images that are not there yet. num: how many images; None takes all.

    OSError and ValueError as `open_side`; ValueError if nothing of `catalog.ALL` is left.
    """
    spaces = spaces_of(open_side(reference, reference=True, offline=offline))
    every = {text: [each for space in _space_of(text, spaces) for each in catalog.all_of(space)] for text in asked}
    of_all = [each for text in asked for each in every[text]]
    theirs = _open_what_is_there(reference, of_all, reference=True, offline=offline)
    ours = None if samples is None else _open_what_is_there(samples, of_all, offline=offline)
    found, reasons = Settled([], []), dict[str, list[str]]()
    for metric in dict.fromkeys(each for text in asked for each in every[text] or [text]):
        try:
            if metric not in asked:
                _check(metric, theirs, None, reference=True)
                _check(metric, ours, num)
            found.metrics.append(metric)
        except ValueError as error:
            reasons.setdefault(str(error).removeprefix(f"{metric}: "), []).append(metric)
    found.left_out.extend(f"left out: {', '.join(metrics)}: {reason}" for reason, metrics in reasons.items())
    if not found.metrics:
        raise ValueError(f"nothing is left of {', '.join(asked)}: {'; '.join(found.left_out)[:500]}")
    return found


def settled_for(asked: Sequence[str], images: str) -> list[str]:
    """The same where images are to be a reference themselves, which says later what they are too few for."""
    spaces = spaces_of(open_side(images)) if catalog.ALL in asked else []
    every = [[each for space in _space_of(text, spaces) for each in catalog.all_of(space)] or [text] for text in asked]
    return list(dict.fromkeys(each for part in every for each in part))


def _space_of(text: str, at_hand: Sequence[str]) -> Sequence[str]:
    """The extractors whose features a text means, if it is no metric."""
    word, slash, space = text.partition("/")
    return () if word != catalog.ALL else [space] if slash else at_hand


def spaces_of(side: Side) -> list[str]:
    """The extractors at hand: those of statistics; those made for images of this size, or the first for any."""
    known = catalog.extractors()
    if side.images is None:
        found = [each.kind for name, each in known.items() if name in side.metrics]
    else:
        size = side.images.image_size
        found = [each.kind for each in known.values() if (each.image_size, each.image_size) == size]
    return found or [next(each.kind for each in known.values() if each.image_size is None)]


def _open_what_is_there(name: str, metrics: Sequence[str], *, reference: bool = False, offline: bool = False) -> Side:
    """A side, with what it has of the metrics."""
    side = open_side(name, reference=reference, offline=offline)
    if side.statistics is None:
        return side
    there = {*side.metrics, *(catalog.dims() if reference and shows_images(side.path) else ())}
    held = [each for each in metrics if catalog.find_metric(each).stored_as in there]
    return open_side(name, held, reference=reference, offline=offline)


def _check(metric: str, side: Side | None, num: int | None, *, reference: bool = False) -> None:
    """ValueError if a side has not enough for a metric. num: images that are taken, of those that are there."""
    found = catalog.find_metric(metric)
    needs, count = found.needs(reference=reference), num
    if needs == "nothing":
        return
    if side is not None and side.images is not None and (side.statistics is None or needs == "features"):
        check_image_sizes([metric], side.images.image_size)
        count = side.images.num_images if num is None else min(num, side.images.num_images)
    elif side is not None and side.statistics is not None:
        there = side.statistics.moments.get(found.stored_as)
        if there is None:
            ships = catalog.shipped_reference(found.stored_as)
            other = f": those that ship are {ships}" if ships else ""
            raise ValueError(f"{side.name} has no statistics for {found.stored_as}{other}")
        if needs == "features" and there.features is None:
            how = f"ref --metrics={catalog.ALL}/{found.extractor.kind}"
            raise ValueError(f"{side.name} holds mean and covariance alone ({how} keeps features beside them)")
        count = moments_for(metric, side.statistics, reference=reference).num_images  # or of another size
    if count is not None and needs == "features":
        found.measure.check_count(count, "reference images" if reference else "images", metric)


@dataclass(frozen=True)
class ReferenceImages:
    """A reference of which the images are there, checked and to be measured by the detectors of the score.

    statistics: those that lie beside the images, and are of more than these.
    """

    name: str
    stored: StoredSet
    metrics: Sequence[str]
    statistics: Statistics | None = None

    def measure(self, detectors: "Sequence[Detector]", progress: Callable[[int], None] | None = None) -> Reference:
        """Its statistics. ValueError for images that cannot be scored, naming the first, as `measure`."""
        keep = catalog.kept_features(self.metrics, reference=True)
        names = keep if self.statistics is not None else catalog.feature_names(self.metrics, reference=True)
        wanted = [each for each in (detector.only(names, keep) for detector in detectors) if each.dims]
        moments = measure(self.stored.source, wanted, self.stored.names, progress).moments if wanted else {}
        if self.statistics is not None:
            return prepare_reference(replace(self.statistics, shown=moments), self.metrics)
        description = self.stored.description
        statistics = Statistics(
            moments=moments,
            source=self.name,
            sha256=description["content_sha256"],
            detectors=identities_of(wanted),
            images=description,
        )
        return prepare_reference(statistics, self.metrics)


def open_reference_side(side: Side, metrics: Sequence[str], *, batch: int = 64) -> Reference | ReferenceImages:
    """The reference, with every check that can be made beforehand; all of its images count.

    ValueError as `prepare_reference` and `open_stored`.
    """
    if side.statistics is not None and side.images is None:
        return prepare_reference(side.statistics, metrics)
    seen = [name for name in metrics if catalog.find_metric(name).needs(reference=True) != "nothing"]
    if side.statistics is not None:
        prepare_reference(side.statistics, by_moments := _by_moments(metrics))
        seen = [name for name in seen if name not in by_moments]
    stored = open_stored(side.images or side.path, seen, batch=batch, scored=False)
    by_features = [name for name in seen if catalog.find_metric(name).needs(reference=True) == "features"]
    catalog.check_counts(by_features, stored.source.num_images, f"images of {stored.source.path}")
    known = ("kind", "num_images", "total", "subset_seed", "size")
    description = {
        **{key: stored.description[key] for key in known},
        "path": side.name,
        "content_sha256": content_sha256(stored.source),
        "generated": stored.description.get("recipe") is not None,
    }
    return ReferenceImages(side.name, replace(stored, description=description), metrics, side.statistics)
