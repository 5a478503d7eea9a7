"""Coverage: the share of the reference's balls in which there is an image.

coverage = (1 / M) #{i: there is a j with |r_i - y_j| < R_i}   (Naeem et al. 2020, Eq. 4)

R_i is the distance of r_i to its k-th nearest neighbour in the reference; the surface does not count, and k is 5, as in
the authors' program (prdc 0.2).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edm2_guidance.metrics.measures.base import Comparison, left_out
from edm2_guidance.metrics.measures.neighbours import NeighbourMeasure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.metrics.moments import Moments


@dataclass(frozen=True)
class Coverage(NeighbourMeasure):
    """Share of the reference's k-nearest-neighbour balls that hold an image: diversity."""

    kind = "coverage"
    limits = (0, 1)
    source = "arXiv 2002.09797, Eq. 4"
    few = "lower"
    shows = "diversity"

    def against(self, reference: "Moments", name: str) -> Comparison:
        self.rows(reference, "reference images", name)
        counts = self.counts(reference)
        return lambda images: {self.kind: float((counts(images).by_reference > 0).mean())}

    def influence(self, images: "Moments", reference: "Moments") -> "NDArray[Any]":
        """By leaving out groups of images."""
        found = self.counts(reference)(images)
        return left_out([float((each > 0).mean()) for each in found.without])
