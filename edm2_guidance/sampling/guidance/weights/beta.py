"""A weight by a Beta density over the steps, with a push of set length."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Seen, StepInfo, Weight
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Beta(Weight):
    """From the reference's noise estimate, w B(p) times the difference over its length to the power gamma.

    p is the share of the steps, 0 at the noise. B is the density of Beta(a, b): 0 at both ends for a, b > 1, where D is
    that of the reference, not that of the main network (both are evaluated). The length
    is of the difference of noise estimates, over an image.
    """

    kind: ClassVar[str] = "beta"
    source: ClassVar[str] = "arXiv 2502.10574"
    formula: ClassVar[str] = "B(p) = p^(a - 1) (1 - p)^(b - 1) / Beta(a, b)\nw_t = w B(p) / |push / sigma|^gamma"

    a: float = option(2.0, "First parameter of the density", low=1, high=100)
    b: float = option(2.0, "Second parameter of the density", low=1, high=100)
    w: float = option(1.0, "What the density is times; 0 = D of the reference")
    gamma: float = option(1.0, "Power of the length that is divided by; 0 = none", low=0, high=3)

    @property
    def moves(self) -> bool:
        return True

    def off(self, step: StepInfo) -> bool:
        return False

    def at(self, step: StepInfo, seen: Seen) -> "float | Tensor":
        amount = self.w * self._density(step.progress)
        if self.gamma == 0 or amount == 0:
            return amount
        length = seen.push.flatten(1).norm(dim=1).view(-1, 1, 1, 1) / seen.sigma
        made: Tensor = amount / length.clamp_min(1e-12) ** self.gamma
        return made

    def _density(self, p: float) -> float:
        log_beta = math.lgamma(self.a) + math.lgamma(self.b) - math.lgamma(self.a + self.b)
        return float(p ** (self.a - 1) * (1 - p) ** (self.b - 1) / math.exp(log_beta))
