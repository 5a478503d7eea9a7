"""Clipped density: density that no image and no ball can dominate, 1 for a perfect set.

Of images y_j and reference images r_i, with R_i the distance of r_i to its k-th nearest neighbour in the reference and
C_i = min(R_i, median of R) (Salvy et al. 2025):

    a = mean_j min(#{i: |r_i - y_j| <= C_i} / k, 1)
    b = mean_l min(#{i: r_l is one of the k neighbours of r_i, within C_i} / k, 1)
    clipped density = min(a / b, 1)

Made for DINOv2's features and k = 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edm2_guidance.metrics.measures.base import Comparison
from edm2_guidance.metrics.measures.neighbours import Balls, NeighbourMeasure, Neighbours, own_nearest

if TYPE_CHECKING:
    from edm2_guidance.metrics.moments import Moments


@dataclass(frozen=True)
class ClippedDensity(NeighbourMeasure):
    """Density with radii and counts clipped, over that of the reference itself: fidelity, from 0 to 1."""

    kind = "clipped-density"
    source = "arXiv 2507.01761"

    def against(self, reference: "Moments", name: str) -> Comparison:
        self.rows(reference, "reference images", name)
        balls = Balls("reference", self.k, closed=True, clipped=True)
        counts = Neighbours.of(reference).ask(balls)

        def compare(images: "Moments") -> Mapping[str, float]:
            itself = self._clipped(_neighbour_counts(reference, balls))
            return {self.kind: min(self._clipped(counts(images).by_image) / itself, 1.0)}

        return compare

    def _clipped(self, counts: Any) -> float:
        return float((counts / self.k).clip(max=1).mean())


def _neighbour_counts(reference: "Moments", balls: Balls) -> Any:
    """In how many balls each point of the reference lies, as one of the k nearest of their centres."""
    import numpy as np

    found = own_nearest(reference, balls.k)
    inside = found.squared[:, : balls.k] <= balls.radii(reference)[:, None]
    return np.bincount(found.place[:, : balls.k][inside].numpy(), minlength=len(inside))
