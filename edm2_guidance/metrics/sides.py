"""The two sides of a score, samples and reference, as they were named: statistics, or images still to be measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dnnlib.download import fetch
from dnnlib.places import find_file
from dnnlib.urls import is_url, without_secrets
from edm2_guidance.images.sources import StoredImages
from edm2_guidance.metrics import catalog
from edm2_guidance.metrics.detectors import Detector
from edm2_guidance.metrics.evaluation import StoredSet, measure, open_stored
from edm2_guidance.metrics.provenance import content_sha256
from edm2_guidance.metrics.reference import Statistics, holds_statistics, open_statistics
from edm2_guidance.metrics.scoring import Reference, prepare_reference


@dataclass(frozen=True)
class Side:
    """What was named. name: as it was typed, of a URL no secrets. path: where it is. statistics, or else images."""

    name: str
    path: Path
    statistics: Statistics | None
    images: StoredImages | None = None

    @property
    def metrics(self) -> set[str]:
        """The metrics that it has statistics of; none for images."""
        return set() if self.statistics is None else set(self.statistics.moments)


def open_side(
    name: str, metrics: Sequence[str] | None = None, *, reference: bool = False, offline: bool = False
) -> Side:
    """Looks at what was named: a statistics file, by path or URL, or a folder, ZIP or .npz of images.

    metrics: which to read of statistics; None reads all that this program has.

    OSError: nothing there. ValueError: neither of these, or damaged.
    """
    path = Path(fetch(name, offline=offline)) if is_url(name) else find_file(name)
    shown = without_secrets(name) if is_url(name) else name
    if holds_statistics(path, reference=reference):
        names = None if metrics is None else catalog.feature_names(metrics)
        keep = catalog.kept_features(metrics or ())
        return Side(shown, path, open_statistics(name, names, keep=keep, offline=offline))
    return Side(shown, path, None, StoredImages(path))


def common_metrics(*sides: Side | None) -> list[str]:
    """The metrics that all of the sides have that are statistics; none if all are images. ValueError if none is."""
    held = [side for side in sides if side is not None and side.statistics is not None]
    metrics = [name for name in catalog.extractors() if all(name in side.metrics for side in held)] if held else []
    if held and not metrics:
        found = "; ".join(f"{side.name} has {', '.join(sorted(side.metrics))[:200]}" for side in held)
        raise ValueError(f"no metric of this program is in all of the statistics: {found}")
    return metrics


@dataclass(frozen=True)
class ReferenceImages:
    """A reference of which the images are there, checked and to be measured by the detectors of the score."""

    name: str
    stored: StoredSet
    metrics: Sequence[str]

    def measure(self, detectors: Sequence[Detector], progress: Callable[[int], None] | None = None) -> Reference:
        """Its statistics. ValueError for images that cannot be scored, naming the first, as `measure`."""
        description = self.stored.description
        measured = measure(self.stored.source, detectors, self.stored.names, progress)
        statistics = Statistics(
            moments=measured.moments,
            source=self.name,
            sha256=description["content_sha256"],
            detectors={detector.name: detector.identity for detector in detectors},
            images=description,
        )
        return prepare_reference(statistics, self.metrics)


def open_reference_side(side: Side, metrics: Sequence[str], *, batch: int = 64) -> Reference | ReferenceImages:
    """The reference, with every check that can be made beforehand; all of its images count.

    ValueError as `prepare_reference` and `open_stored`.
    """
    if side.statistics is not None:
        return prepare_reference(side.statistics, metrics)
    stored = open_stored(side.images or side.path, metrics, batch=batch)
    known = ("kind", "num_images", "total", "subset_seed", "size")
    description = {
        **{key: stored.description[key] for key in known},
        "path": side.name,
        "content_sha256": content_sha256(stored.source),
        "generated": stored.description.get("recipe") is not None,
    }
    return ReferenceImages(side.name, replace(stored, description=description), metrics)
