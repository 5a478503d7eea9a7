"""MIND: the squared Wasserstein distance of two sets, over random directions.

3 D mean_u mean_j (sort(X u)_j - sort(Y u)_j)^2   (arXiv 2605.06797; as torch-fidelity after 0.4.0 has it)

Over 1000 directions u of length 1, with equal numbers of images: the larger set is cut to a random part. Draws are
those of torch-fidelity, part before directions, from one generator of seed 2020; it projects in float32, here it is
float64, which moves the value by 1e-6 of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edm2_guidance.metrics.measures.base import Comparison, Measure, features_of
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor

    from edm2_guidance.metrics.moments import Moments

SEED = 2020
SCALE = 3
_AT_ONCE = 16  # directions


@dataclass(frozen=True)
class Mind(Measure):
    """Sliced Wasserstein distance, squared, over random directions, times 3 D."""

    kind = "mind"
    source = "arXiv 2605.06797"
    needs = "features"
    needs_reference = "features"

    directions: int = option(1000, "Random directions", low=1)

    def against(self, reference: "Moments", name: str) -> Comparison:
        theirs = features_of(reference)

        def compare(images: "Moments") -> Mapping[str, float]:
            x, y, directions = self.drawn(features_of(images), theirs)
            gaps = [
                float((_sorted(x, some) - _sorted(y, some)).square().mean(dim=0).sum())
                for some in directions.split(_AT_ONCE)
            ]
            return {self.kind: SCALE * x.shape[1] * sum(gaps) / self.directions}

        return compare

    def drawn(self, x: "Tensor", y: "Tensor") -> "tuple[Tensor, Tensor, Tensor]":
        """Equal numbers of both sets, and the directions, float64 [directions, D]."""
        import torch

        draws, least = torch.Generator().manual_seed(SEED), min(len(x), len(y))
        if len(x) != len(y):
            kept = torch.randperm(max(len(x), len(y)), generator=draws)[:least]
            x, y = (x[kept], y) if len(x) > len(y) else (x, y[kept])
        found = torch.randn(self.directions, x.shape[1], generator=draws, dtype=torch.float32)
        return x, y, (found / found.norm(dim=1, keepdim=True).clamp(min=1e-12)).double()


def _sorted(rows: "Tensor", directions: "Tensor") -> "Tensor":
    return (rows.double() @ directions.T).sort(dim=0).values
