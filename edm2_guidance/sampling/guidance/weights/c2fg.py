"""A weight that grows exponentially."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from edm2_guidance.recipe.parts import Scheduled, StepInfo
from edm2_guidance.recipe.spec import option


@dataclass(frozen=True)
class C2FG(Scheduled):
    """w exp(rate (1 - t)): from w at the noise, t = 1, to w exp(rate) at the data, t = 0. Experimental.

    t is the model's own time over its largest. For EDM networks the paper does not say which that is: by default the
    share of the steps that is left; by the noise level (level over the first) nearly all growth is in the first steps.
    """

    kind: ClassVar[str] = "c2fg"
    source: ClassVar[str] = "arXiv 2603.08155"
    formula: ClassVar[str] = "w_t = w exp(rate (1 - t))"

    w: float = option(1.0, "Guidance weight at the noise; 1 = off with rate=0 alone")
    rate: float = option(0.05, "How fast it grows", low=-100, high=100)
    time: Literal["steps", "sigma"] = option("steps", "What t is")

    @property
    def moves(self) -> bool:
        return self.w != 1 or self.rate != 0

    def value(self, step: StepInfo) -> float:
        left = 1 - step.progress if self.time == "steps" else step.level / step.levels[0]
        return self.w * math.exp(self.rate * (1 - left))
