"""Vendi Score: the effective number of different images.

exp(-sum_i l_i log l_i), l the eigenvalues of K / n, with K the inner products of features of length 1 (Friedman and
Dieng 2023, Eq. 2). These are the eigenvalues of the D x D second moment, too, and the smaller of the two is formed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edm2_guidance.metrics.measures.base import Comparison, Measure, features_of

if TYPE_CHECKING:
    from torch import Tensor

    from edm2_guidance.metrics.moments import Moments

_PIECE = 4096  # images at once in float64


@dataclass(frozen=True)
class Vendi(Measure):
    """Vendi Score: the effective number of different images, by cosine similarity; no reference is needed."""

    kind = "vendi"
    source = "arXiv 2210.02410, Eq. 2"
    needs = "features"
    needs_reference = "nothing"
    better = "higher"

    def against(self, reference: "Moments", name: str) -> Comparison:
        def compare(images: "Moments") -> Mapping[str, float]:
            import torch

            values = torch.linalg.eigvalsh(similarity(features_of(images)))
            values = values[values > 0]
            return {self.kind: float((-values @ values.log()).exp())}

        return compare


def similarity(rows: "Tensor") -> "Tensor":
    """A matrix with the nonzero eigenvalues of K / n, float64: of features [N, D], a row of zeros is kept as it is."""
    import torch

    def of_length_1(piece: "Tensor") -> "Tensor":
        wide: Tensor = piece.double()
        lengths: Tensor = wide.norm(dim=1, keepdim=True)
        return wide / lengths.clamp(min=torch.finfo(torch.float64).tiny)

    if len(rows) < rows.shape[1]:
        short = of_length_1(rows)
        return short @ short.T / len(rows)
    found: Tensor = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for piece in map(of_length_1, rows.split(_PIECE)):
        found.addmm_(piece.T, piece)
    return found / len(rows)
