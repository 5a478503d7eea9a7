"""Vendi Score: the effective number of different images.

exp(-sum_i l_i log l_i), l the eigenvalues of K / n, with K the inner products of features of length 1 (Friedman and
Dieng 2023, Eq. 2). These are the eigenvalues of the D x D second moment, too, and the smaller of the two is formed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edm2_guidance.metrics.measures.base import Comparison, Measure, features_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from edm2_guidance.metrics.moments import Moments

_PIECE = 4096  # images at once in float64


@dataclass(frozen=True)
class Vendi(Measure):
    """Vendi Score: the effective number of different images, by cosine similarity; no reference is needed."""

    kind = "vendi"
    limits = (1, math.inf)
    source = "arXiv 2210.02410, Eq. 2"
    few = "lower"
    needs = "features"
    needs_reference = "nothing"
    better = "higher"

    def against(self, reference: "Moments", name: str) -> Comparison:
        def compare(images: "Moments") -> Mapping[str, float]:
            import torch

            values = torch.linalg.eigvalsh(similarity(features_of(images)))
            return {self.kind: effective_number(values)}

        return compare

    def influence(self, images: "Moments", reference: "Moments") -> "NDArray[Any]":
        """exp(H) (-x^T log(K / n) x) of each image, K / n as the second moment of features of length 1."""
        import torch

        rows = features_of(images)
        values, vectors = torch.linalg.eigh(similarity(rows))
        logs = values.clamp(min=torch.finfo(torch.float64).tiny).log()
        if len(rows) < rows.shape[1]:
            each = len(rows) * vectors.square() @ (values.clamp(min=0) * logs)
        else:
            each = torch.cat([(of_length_1(piece) @ vectors).square() @ logs for piece in rows.split(_PIECE)])
        found: NDArray[Any] = (-effective_number(values) * each).numpy()
        return found


def effective_number(values: "Tensor") -> float:
    """exp of the entropy of eigenvalues; those that rounding put below zero are zero."""
    values = values[values > 0]
    return float((-values @ values.log()).exp())


def of_length_1(rows: "Tensor") -> "Tensor":
    """Features over their length, float64; a row of zeros is kept as it is."""
    import torch

    wide: Tensor = rows.double()
    lengths: Tensor = wide.norm(dim=1, keepdim=True)
    return wide / lengths.clamp(min=torch.finfo(torch.float64).tiny)


def similarity(rows: "Tensor") -> "Tensor":
    """A matrix with the nonzero eigenvalues of K / n, float64, of features [N, D]."""
    import torch

    if len(rows) < rows.shape[1]:
        short = of_length_1(rows)
        return short @ short.T / len(rows)
    found: Tensor = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for piece in map(of_length_1, rows.split(_PIECE)):
        found.addmm_(piece.T, piece)
    return found / len(rows)
