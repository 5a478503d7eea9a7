"""Fresh noise before a step: what EDM's stochastic samplers share (arXiv 2206.00364, Algorithm 2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edm2_guidance.recipe.parts import RandnLike, Sampler, StepInfo
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Churned(Sampler):
    """A sampler that may add noise before each step: S_churn in total, where S_min <= sigma <= S_max."""

    S_churn: float = option(0.0, "Stochasticity, over all steps", low=0)
    S_min: float = option(0.0, "Churn at or above this noise level", unit="sigma", low=0)
    S_max: float = option(math.inf, "Churn at or below this noise level", unit="sigma", low=0)
    S_noise: float = option(1.0, "Scale of the churned noise")

    def check(self) -> None:
        if not self.S_min <= self.S_max:
            raise ValueError(f"S_min {self.S_min:g}, S_max {self.S_max:g}: need 0 <= S_min <= S_max")

    def plan(self, info: StepInfo, levels: Sequence[float]) -> StepInfo:
        if self.S_churn == 0 or not self.S_min <= info.level <= self.S_max:
            return info
        return replace(info, sigma=info.level * (1 + min(self.S_churn / info.num_steps, math.sqrt(2) - 1)))

    def churned(self, x: "Tensor", info: StepInfo, randn_like: RandnLike) -> "Tensor":
        """x [N,C,H,W] at the planned sigma; no noise is drawn where the plan adds none."""
        if info.sigma <= info.level:
            return x
        return x + math.sqrt(info.sigma**2 - info.level**2) * self.S_noise * randn_like(x)
