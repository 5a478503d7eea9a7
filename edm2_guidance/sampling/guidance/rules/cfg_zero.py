"""Guidance with the reference's velocity scaled to the main network's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Acting, Call, Rule, StepInfo
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CFGZero(Rule):
    """The reference's velocity is scaled by <v_m, v_g> / |v_g|^2, image by image; the first steps may stand still.

    Velocities are those of flow matching, v = (x - D) / sigma - D, as in the paper. In a step that stands still v is
    0, so D = x / (1 + sigma), which no network is asked for. That is so where a guide is on.
    """

    kind: ClassVar[str] = "cfg-zero"
    source: ClassVar[str] = "arXiv 2503.18886"
    formula: ClassVar[str] = (
        "v = (x - D) / sigma - D; s = <v_m, v_g> / |v_g|^2\n"
        "v = s v_g + w (v_m - s v_g); 0 in the first steps\n"
        "D = (x - sigma v) / (1 + sigma)"
    )

    zero: int = option(1, "How many of the first steps stand still", low=0)

    def still(self, step: StepInfo) -> bool:
        return step.index < self.zero

    def denoise(self, call: Call, guides: Sequence[Acting]) -> "Tensor":
        return call.x / (1 + call.sigma) if self.still(call.step) else super().denoise(call, guides)

    def shape(self, push: "Tensor", call: Call, memory: "dict[str, Tensor]") -> "Tensor":
        main = call.main()
        reference = main - push
        v_main, v_reference = ((call.x - each) / call.sigma - each for each in (main, reference))
        axes = tuple(range(1, main.ndim))
        products = (v_main * v_reference).sum(axes, keepdim=True)
        scale = products / ((v_reference**2).sum(axes, keepdim=True) + 1e-8)
        return (scale * v_reference - v_main) * (call.sigma / (1 + call.sigma))
