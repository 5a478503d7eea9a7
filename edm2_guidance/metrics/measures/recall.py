"""Recall: the share of the reference that lies in the manifold of the images (`manifold.py`)."""

from dataclasses import dataclass

from edm2_guidance.metrics.measures.manifold import Manifold


@dataclass(frozen=True)
class Recall(Manifold):
    """Share of reference images within the k-nearest-neighbour manifold of the images: diversity."""

    kind = "recall"
    source = "arXiv 1904.06991, Eq. 2"
    around = "images"
