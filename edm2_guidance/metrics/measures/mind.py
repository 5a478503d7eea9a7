"""MIND: the squared Wasserstein distance of two sets, over random directions.

3 D mean_u mean_j (sort(X u)_j - sort(Y u)_j)^2   (arXiv 2605.06797; as torch-fidelity after 0.4.0 has it)

Over 1000 directions u of length 1, with equal numbers of images: the larger set is cut to a random part. Draws are
those of torch-fidelity, part before directions, from one generator of seed 2020; it projects in float32, here it is
float64, which moves the value by 1e-6 of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edm2_guidance.metrics.measures.base import Comparison, Measure, features_of
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from edm2_guidance.metrics.moments import Moments

SEED = 2020
SCALE = 3
_AT_ONCE = 16  # directions


@dataclass(frozen=True)
class Mind(Measure):
    """Sliced Wasserstein distance, squared, over random directions, times 3 D."""

    kind = "mind"
    limits = (0, math.inf)
    source = "arXiv 2605.06797"
    needs = "features"
    needs_reference = "features"

    directions: int = option(1000, "Random directions", low=1)

    def against(self, reference: "Moments", name: str) -> Comparison:
        theirs = features_of(reference)

        def compare(images: "Moments") -> Mapping[str, float]:
            ours = features_of(images)
            chosen, others, directions = self.drawn(ours, theirs)
            x, y = ours[chosen], theirs[others]
            gaps = [
                float((_sorted(x, some) - _sorted(y, some)).square().mean(dim=0).sum())
                for some in directions.split(_AT_ONCE)
            ]
            return {self.kind: SCALE * x.shape[1] * sum(gaps) / self.directions}

        return compare

    def influence(self, images: "Moments", reference: "Moments") -> "NDArray[Any]":
        """By Kantorovich's potential along each direction, whose slope is twice the way to the counterpart."""
        import torch

        ours, theirs = features_of(images), features_of(reference)
        chosen, others, directions = self.drawn(ours, theirs)
        x, y, each = ours[chosen], theirs[others], torch.zeros(len(chosen), dtype=torch.float64)
        for some in directions.split(_AT_ONCE):
            places = (x.double() @ some.T).sort(dim=0)
            slopes = 2 * (places.values - _sorted(y, some))
            steps = places.values.diff(dim=0) * (slopes[1:] + slopes[:-1]) / 2
            potential = torch.cat([torch.zeros_like(slopes[:1]), steps.cumsum(dim=0)])
            each += torch.zeros_like(potential).scatter_(0, places.indices, potential).sum(dim=1)
        found = torch.zeros(len(ours), dtype=torch.float64)
        found[chosen] = (each - each.mean()) * SCALE * x.shape[1] / self.directions * len(ours) / len(chosen)
        return found.numpy()

    def drawn(self, x: "Tensor", y: "Tensor") -> "tuple[Tensor, Tensor, Tensor]":
        """Places of equal numbers of both sets, and the directions, float64 [directions, D]."""
        import torch

        draws, least = torch.Generator().manual_seed(SEED), min(len(x), len(y))
        places = [torch.arange(len(rows)) for rows in (x, y)]
        if len(x) != len(y):
            places[len(y) > len(x)] = torch.randperm(max(len(x), len(y)), generator=draws)[:least]
        found = torch.randn(self.directions, x.shape[1], generator=draws, dtype=torch.float32)
        return places[0], places[1], (found / found.norm(dim=1, keepdim=True).clamp(min=1e-12)).double()


def _sorted(rows: "Tensor", directions: "Tensor") -> "Tensor":
    return (rows.double() @ directions.T).sort(dim=0).values
