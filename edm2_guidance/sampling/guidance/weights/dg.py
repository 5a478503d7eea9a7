"""A weight by how much a variance-preserving process has left to decide."""

import math
from dataclasses import dataclass
from typing import ClassVar

from edm2_guidance.recipe.parts import Scheduled, StepInfo

_BETA_0, _BETA_1 = 0.1, 20.0  # of the linear variance-preserving process


@dataclass(frozen=True)
class DG(Scheduled):
    """1 + C (w - 1) (1 - a) sqrt(a) / beta(t), with C such that its mean over t is w. Experimental.

    a = 1 / (1 + sigma^2) and t are those of the variance-preserving process with beta from 0.1 to 20 that has the same
    noise level. The paper has such models alone; the way to others is ours.
    """

    kind: ClassVar[str] = "dg"
    source: ClassVar[str] = "arXiv 2607.19725, at second hand"
    formula: ClassVar[str] = (
        "a = 1 / (1 + sigma^2), beta(t) = 0.1 + 19.9 t\n"
        "w_t = 1 + C (w - 1) (1 - a) sqrt(a) / beta(t), where C makes the mean over t w"
    )
    one_way: ClassVar[bool] = True

    def value(self, step: StepInfo) -> float:
        times = [_time(level) for level in step.levels]
        passed = [a - b for a, b in zip(times, [*times[1:], 0.0], strict=True)]
        area = math.fsum(_shape(level) * part for level, part in zip(step.levels, passed, strict=True))
        return 1 + (self.w - 1) * _shape(step.level) * math.fsum(passed) / area


def _time(sigma: float) -> float:
    """t in [0, 1] and above, where log(1 + sigma^2) = beta_0 t + (beta_1 - beta_0) t^2 / 2."""
    slope = _BETA_1 - _BETA_0
    return (math.sqrt(_BETA_0**2 + 2 * slope * math.log1p(sigma**2)) - _BETA_0) / slope


def _shape(sigma: float) -> float:
    kept = 1 / (1 + sigma**2)
    return (1 - kept) * math.sqrt(kept) / (_BETA_0 + (_BETA_1 - _BETA_0) * _time(sigma))
