"""Guidance corrected by the gradient of the denoiser."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Call, Rule

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class REG(Rule):
    """The push times d(sum of D_m) / dx, pixel by pixel; one gradient of the main network per evaluation.

    The authors' code multiplies by its guidance scale where this rule has w - 1: their 2.0 is w = 3.
    """

    kind: ClassVar[str] = "reg"
    source: ClassVar[str] = "arXiv 2501.18865"
    formula: ClassVar[str] = "D = D_m + (w - 1) g push, g = d(sum of D_m) / dx, pixel by pixel"
    takes_gradient: ClassVar[bool] = True

    def shape(self, push: "Tensor", call: Call, memory: "dict[str, Tensor]") -> "Tensor":
        return call.gradient * push
