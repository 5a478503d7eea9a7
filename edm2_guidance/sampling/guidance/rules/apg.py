"""Guidance without what is along D_m, with momentum and a longest push."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Call, Rule
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class APG(Rule):
    """The push plus `momentum` times the one before; shortened to `radius`; of what is along D_m, the share `parallel`.

    Lengths and projections are of an image, in float64; the radius is in the network's own scale (pixels or latents of
    standard deviation 0.5). What is kept is the sum before it is shortened, of a step's first evaluation: the paper
    knows one per step, so a corrector takes the same sum before it as the predictor.
    """

    kind: ClassVar[str] = "apg"
    source: ClassVar[str] = "arXiv 2410.02416"
    formula: ClassVar[str] = (
        "s = push + momentum s_before\n"
        "s' = s min(1, radius / |s|)\n"
        "D = D_m + (w - 1) (s' - (1 - parallel) <s', D_m> / |D_m|^2 D_m)"
    )

    momentum: float = option(-0.75, "Share of the sum before that is added; negative: against it", above=-1, high=1)
    radius: float = option(2.5, "Longest push; inf = any", above=0, endless=True)
    parallel: float = option(0.0, "Share of what is along D_m; 1 = all of it", low=0, high=1)

    def shape(self, push: "Tensor", call: Call, memory: "dict[str, Tensor]") -> "Tensor":
        if call.first and "sum" in memory:
            memory["before"] = memory["sum"]
        total = push + self.momentum * memory["before"] if "before" in memory else push
        if call.first:
            memory["sum"] = total
        axes = tuple(range(1, push.ndim))
        wide, main = total.double(), call.main().double()
        length = (wide**2).sum(axes, keepdim=True).sqrt().clamp_min(1e-300)
        wide = wide * (self.radius / length).clamp_max(1)
        along = (wide * main).sum(axes, keepdim=True) / (main**2).sum(axes, keepdim=True).clamp_min(1e-300)
        return (wide - (1 - self.parallel) * along * main).to(push.dtype)
