"""Noise levels of the variance-preserving process."""

import math
from dataclasses import dataclass
from typing import ClassVar

from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.recipe.spec import option


@dataclass(frozen=True)
class VP(Schedule):
    """Even in the time t of the process, from 1 to `end`: sigma^2 = exp(rise t^2 / 2 + least t) - 1.

    With the constants as published from 152.2 down to 0.0105.
    """

    kind: ClassVar[str] = "vp"
    source: ClassVar[str] = "arXiv 2206.00364, Table 1 (VP)"
    formula: ClassVar[str] = "t_i = 1 + i / (n - 1) (end - 1)\nsigma_i = sqrt(exp(rise t_i^2 / 2 + least t_i) - 1)"

    rise: float = option(19.9, "How far beta rises over time", above=0, high=100)
    least: float = option(0.1, "beta at time 0", low=0, high=100)
    end: float = option(0.001, "Time of the lowest level", above=0, high=0.999)

    def levels(self, num_steps: int) -> list[float]:
        times = [1 + index / max(num_steps - 1, 1) * (self.end - 1) for index in range(num_steps)]
        return [math.sqrt(math.expm1(self.rise * t**2 / 2 + self.least * t)) for t in times]
