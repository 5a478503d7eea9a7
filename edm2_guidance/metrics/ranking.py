"""The images of a set one by one: a score each, and how far each is from the nearest image of the reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edm2_guidance.images.sources import StoredImages
from edm2_guidance.metrics.catalog import DISTANCE
from edm2_guidance.metrics.measures.base import Measure, features_of
from edm2_guidance.metrics.measures.neighbours import nearest
from edm2_guidance.metrics.moments import Moments

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Ranking:
    """Images of a set with their scores, in the order of the set.

    Attributes:
        measure: Which gives the scores, as text.
        scores: float64 [N], high ones better.
        distance: To the nearest reference image in the features, float64 [N]; 0 for a copy.
        nearest: Which that is, counted from 0, int64 [N].
        reference_names: Of the reference's files; None for statistics, and for an array.
    """

    measure: str
    scores: "NDArray[Any]"
    distance: "NDArray[Any]"
    nearest: "NDArray[Any]"
    reference_names: Sequence[str] | None = None

    @classmethod
    def of(cls, measure: Measure, ours: Moments, theirs: Moments, names: Sequence[str] | None = None) -> "Ranking":
        """By the features of the images and of the reference. measure: one that ranks. names: of the reference."""
        found = nearest(features_of(ours), features_of(theirs), 1)
        distance, place = found.squared[:, 0].sqrt().numpy(), found.place[:, 0].numpy()
        return cls(str(measure), measure.influence(ours, theirs), distance, place, names)

    def values(self, by: str) -> "NDArray[Any]":
        """What images are ranked by: `DISTANCE`, or the scores."""
        return self.distance if by == DISTANCE else self.scores

    def order(self, by: str) -> "NDArray[Any]":
        """Places of the images, int64 [N], the best first; by `DISTANCE` the nearest. Equals are in the set's order."""
        return np.argsort(self.distance if by == DISTANCE else -self.scores, kind="stable")

    def rows(self, by: str, images: StoredImages) -> list[dict[str, Any]]:
        """What is known of the images, the best first. name, nearest: the number from 0 where these are an array."""
        count = len(self.scores)
        known = {
            "name": images.names or images.numbers,
            "seed": images.seeds or [None] * count,
            "label": images.labels or [None] * count,
            self.measure: self.scores.tolist(),
            DISTANCE: self.distance.tolist(),
            "nearest": [self.reference_names[at] if self.reference_names else at for at in self.nearest.tolist()],
        }
        order = self.order(by).tolist()
        return [
            {"rank": rank, **{name: column[place] for name, column in known.items()}}
            for rank, place in enumerate(order, start=1)
        ]
