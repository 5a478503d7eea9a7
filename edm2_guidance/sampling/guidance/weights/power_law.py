"""A weight that grows with what main network and reference differ by."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edm2_guidance.recipe.parts import Seen, StepInfo, Weight
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PowerLaw(Weight):
    """1 + (w - 1) times the length of the difference to a power, image by image. Experimental.

    The length is that of the difference of scores over all pixels, push / sigma^2, as the paper's text says it: at low
    noise it is in the hundreds, so w - 1 is far below 1. The paper's own weights, up to 10, are in units that it does
    not give. norm=x0 takes the length of the push.
    """

    kind: ClassVar[str] = "power-law"
    source: ClassVar[str] = "arXiv 2502.07849"
    formula: ClassVar[str] = "w_t = 1 + (w - 1) |push / sigma^2|^alpha; norm=x0: |push|^alpha"

    alpha: float = option(0.9, "The power; 0 = constant", low=-3)
    norm: Literal["score", "x0"] = option("score", "What the length is of")

    def off(self, step: StepInfo) -> bool:
        return self.w == 1

    def at(self, step: StepInfo, seen: Seen) -> "Tensor":
        length = seen.push.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        if self.norm == "score":
            length = length / seen.sigma**2
        made: Tensor = 1 + (self.w - 1) * length.clamp_min(1e-12) ** self.alpha
        return made
