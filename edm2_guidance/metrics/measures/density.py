"""Density: in how many of the reference's balls an image lies, where k are to be expected.

density = (1 / (k N)) sum_j #{i: |r_i - y_j| < R_i}   (Naeem et al. 2020, Eq. 3)

R_i is the distance of r_i to its k-th nearest neighbour in the reference; the surface does not count, and k is 5, as in
the authors' program (prdc 0.2). It may be above 1.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edm2_guidance.metrics.measures.base import Comparison
from edm2_guidance.metrics.measures.neighbours import NeighbourMeasure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.metrics.moments import Moments


@dataclass(frozen=True)
class Density(NeighbourMeasure):
    """Mean number of the reference's k-nearest-neighbour balls that hold an image, over k: fidelity."""

    kind = "density"
    limits = (0, math.inf)
    source = "arXiv 2002.09797, Eq. 3"
    few = ""
    shows = "fidelity"
    ranks = True

    def against(self, reference: "Moments", name: str) -> Comparison:
        self.rows(reference, "reference images", name)
        counts = self.counts(reference)
        return lambda images: {self.kind: float(counts(images).by_image.mean()) / self.k}

    def influence(self, images: "Moments", reference: "Moments") -> "NDArray[Any]":
        """It is a mean over images."""
        return self.counts(reference)(images).by_image / self.k
