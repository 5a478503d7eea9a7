"""Precision: the share of the images that lie in the manifold of the reference (`manifold.py`)."""

from dataclasses import dataclass

from edm2_guidance.metrics.measures.manifold import Manifold


@dataclass(frozen=True)
class Precision(Manifold):
    """Share of images within the k-nearest-neighbour manifold of the reference: fidelity."""

    kind = "precision"
    source = "arXiv 1904.06991, Eq. 1"
    around = "reference"
