"""What is scored: images that are stored, at hand or made now, or else statistics of some."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edm2_guidance.images.batch import ImageSource
from edm2_guidance.metrics import ledger
from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.metrics.evaluation import identities_of, measure, open_stored
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.provenance import describe_statistics
from edm2_guidance.metrics.scoring import moments_for
from edm2_guidance.metrics.sides import Side

if TYPE_CHECKING:
    from edm2_guidance.metrics.detectors import Detector


@dataclass(frozen=True)
class ImageSet:
    """Images to be measured, or `moments` that are known.

    Attributes:
        description: By `metrics.provenance`.
        num_images: None if nobody knows.
        source: The images, `batch` at a time; None where moments are known.
        names: Of the images' files, in order; None without.
        notes: What of the files is not read, a sentence each.
        identities: Of the detectors that made the moments.
    """

    description: Mapping[str, Any]
    num_images: int | None
    source: ImageSource | None = None
    batch: int | None = None
    names: Sequence[str] | None = None
    notes: Sequence[str] = ()
    moments: Mapping[str, Moments] = field(default_factory=dict)
    identities: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def measure(
        self, detectors: "Sequence[Detector]", progress: Callable[[int], None]
    ) -> tuple[Mapping[str, Moments], Mapping[str, Mapping[str, Any]], dict[str, Any]]:
        """Moments and identities of the detectors, by names of features; and what `scoring.ledger_record` has of a run.

        ValueError as `evaluation.measure`.
        """
        if self.source is None:
            return self.moments, self.identities, {}
        made = measure(self.source, detectors, self.names, progress)
        return made.moments, identities_of(detectors), {"batch": self.batch, "reduced": made.reduced}

    def fewer(self, asked: int | None) -> int | None:
        """As `scoring.score` takes it. asked: for how many images."""
        count = self.num_images or 0
        return count if self.source is not None and asked is None and count < ledger.STANDARD_NUM_IMAGES else None


def open_set(
    side: Side, metrics: Sequence[str], *, num: int | None, most: int | None, seed: int, batch: int
) -> ImageSet:
    """A side with every check that can be made beforehand. num, most, seed, batch: as `evaluation.open_stored`.

    ValueError as there, or as `scoring.moments_for`.
    """
    if side.statistics is None:
        there = side.images or side.path
        stored = open_stored(there, metrics, num=num, most=most, seed=seed, batch=batch)
        source, described = stored.source, {**stored.description, "path": side.name}
        return ImageSet(described, source.num_images, source, batch, stored.names, source.notes)
    moments = {find_metric(name).stored_as: moments_for(name, side.statistics, num) for name in metrics}
    count, statistics = next(iter(moments.values())).num_images, side.statistics
    return ImageSet(describe_statistics(statistics), count, moments=moments, identities=statistics.detectors)
