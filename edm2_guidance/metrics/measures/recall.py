"""Recall: the share of the reference that lies in the manifold of the images (`manifold.py`)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edm2_guidance.metrics.measures.base import left_out
from edm2_guidance.metrics.measures.manifold import Manifold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.metrics.moments import Moments


@dataclass(frozen=True)
class Recall(Manifold):
    """Share of reference images within the k-nearest-neighbour manifold of the images: diversity."""

    kind = "recall"
    source = "arXiv 1904.06991, Eq. 2"
    few = "lower"
    shows = "diversity"
    around = "images"

    def influence(self, images: "Moments", reference: "Moments") -> "NDArray[Any]":
        """By leaving out groups of images: balls are gone, and others reach farther."""
        found = self.in_balls(reference)(images)
        return left_out([float((each > 0).mean()) for each in found.without])
