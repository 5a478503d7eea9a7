"""A weight that rises to the middle and falls again."""

import math
from dataclasses import dataclass
from typing import ClassVar

from edm2_guidance.recipe.parts import Scheduled, StepInfo
from edm2_guidance.recipe.spec import option


@dataclass(frozen=True)
class TV(Scheduled):
    """From 1 at both ends up to 2 w - 1 at the peak, in straight lines over the steps; w is the mean. Experimental.

    The paper takes the mean over the model's own time, here it is over the steps. From a port, not from the paper.
    """

    kind: ClassVar[str] = "tv"
    source: ClassVar[str] = "arXiv 2509.22007, at second hand"
    formula: ClassVar[str] = (
        "i = 0, ..., n - 1; top = ceil(n peak)\n"
        "r_i = 1 + 2 (w - 1) i / top up to the top, then 1 + 2 (w - 1) (n - i) / (n - top)\n"
        "w_i = n w r_i / sum(r)"
    )
    one_way: ClassVar[bool] = True

    peak: float = option(0.5, "Where the peak is, as a share of the steps", above=0, high=1)

    def check(self) -> None:
        super().check()
        if self.w <= 0:
            raise ValueError(f"{self.kind}: w={self.w:g}: must be above 0, to be the mean of the weights")

    def value(self, step: StepInfo) -> float:
        top = math.ceil(step.num_steps * self.peak)
        raw = [self._raw(index, step.num_steps, top) for index in range(step.num_steps)]
        if top < step.num_steps:  # then the mean of the r_i is w, and the first weight exactly 1, which is off
            return raw[step.index]
        return raw[step.index] * self.w * step.num_steps / math.fsum(raw)

    def _raw(self, index: int, num_steps: int, top: int) -> float:
        share = index / top if index <= top else (num_steps - index) / (num_steps - top)
        return 1 + 2 * (self.w - 1) * share
