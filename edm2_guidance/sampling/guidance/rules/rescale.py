"""Guidance whose result has the contrast of the main network's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Acting, Call, Rule
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rescale(Rule):
    """The linear rule's D, scaled towards the standard deviation of D_m: phi std(D_m) / std(D) + 1 - phi times D.

    Over all channels and pixels of an image, n - 1 in the denominator. The paper scales v; here it is D, as for every
    rule, which is another scale, so the same phi is another strength. D without any contrast stays.
    """

    kind: ClassVar[str] = "rescale"
    source: ClassVar[str] = "arXiv 2305.08891, Eqs. 14 to 16"
    formula: ClassVar[str] = "L = D_m + (w - 1) push\nD = L (phi std(D_m) / std(L) + 1 - phi)"

    phi: float = option(0.7, "How far the contrast is scaled back; 0 = the linear rule", low=0, high=1)

    def denoise(self, call: Call, guides: Sequence[Acting]) -> "Tensor":
        main, guided = call.main(), super().denoise(call, guides)
        axes = tuple(range(1, main.ndim))
        contrast = guided.std(axes, keepdim=True)
        spread = (main.std(axes, keepdim=True) / contrast).where(contrast > 0, 1)
        return guided * (self.phi * spread + 1 - self.phi)
