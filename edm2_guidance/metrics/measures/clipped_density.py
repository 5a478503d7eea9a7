"""Clipped density: density that no image and no ball can dominate, 1 for a perfect set.

Of images y_j and reference images r_i, with R_i the distance of r_i to its k-th nearest neighbour in the reference and
C_i = min(R_i, median of R) (Salvy et al. 2025):

    a = mean_j min(#{i: |r_i - y_j| <= C_i} / k, 1)
    b = mean_l min(#{i: r_l is one of the k neighbours of r_i, within C_i} / k, 1)
    clipped density = min(a / b, 1)

Made for DINOv2's features and k = 5.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edm2_guidance.metrics.measures.base import Comparison
from edm2_guidance.metrics.measures.neighbours import Balls, NeighbourMeasure, own_nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.metrics.moments import Moments


@dataclass(frozen=True)
class ClippedDensity(NeighbourMeasure):
    """Density with radii and counts clipped, over that of the reference itself: fidelity, from 0 to 1."""

    kind = "clipped-density"
    limits = (0, 1)
    source = "arXiv 2507.01761"
    few = ""
    shows = "fidelity"
    ranks = True

    def against(self, reference: "Moments", name: str) -> Comparison:
        self.rows(reference, "reference images", name)
        self.counts(reference, closed=True, clipped=True)  # asked before images come
        return lambda images: {self.kind: min(float(self.influence(images, reference).mean()), 1.0)}

    def influence(self, images: "Moments", reference: "Moments") -> "NDArray[Any]":
        """It is a mean over images, up to its clipping at 1: the share of k balls that each lies in, over b."""
        found = self.counts(reference, closed=True, clipped=True)(images)
        held: NDArray[Any] = self._clipped(found.by_image) / self._clipped(self._among_themselves(reference)).mean()
        return held

    def _clipped(self, counts: "NDArray[Any]") -> Any:
        return (counts / self.k).clip(max=1)

    def _among_themselves(self, reference: "Moments") -> "NDArray[Any]":
        """In how many balls each point of the reference lies, as one of the k nearest of their centres."""
        import numpy as np

        found, radii = own_nearest(reference, self.k), Balls("reference", self.k, True, clipped=True).radii(reference)
        inside = found.squared[:, : self.k] <= radii[:, None]
        return np.bincount(found.place[:, : self.k][inside].numpy(), minlength=len(inside))
