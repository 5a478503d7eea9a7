"""Precision: the share of the images that lie in the manifold of the reference (`manifold.py`)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edm2_guidance.metrics.measures.manifold import Manifold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.metrics.moments import Moments


@dataclass(frozen=True)
class Precision(Manifold):
    """Share of images within the k-nearest-neighbour manifold of the reference: fidelity."""

    kind = "precision"
    source = "arXiv 1904.06991, Eq. 1"
    few = ""
    shows = "fidelity"
    around = "reference"

    def influence(self, images: "Moments", reference: "Moments") -> "NDArray[Any]":
        """It is a mean over images: whether each lies in the manifold."""
        return self.held(reference)(images).astype(float)
