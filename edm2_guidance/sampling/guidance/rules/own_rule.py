"""A rule of the user's own: a Python function."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.own import OwnFunction
from edm2_guidance.recipe.parts import Acting, Call, Rule
from edm2_guidance.sampling.guidance.own_code import call as call_own

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class OwnRule(OwnFunction, Rule):
    """A function of your own, FILE.py:FUNCTION: rule(main, references, weights) -> D, docs/api.md."""

    kind: ClassVar[str] = "own-rule"
    formula: ClassVar[str] = "D = rule(main=D_m, references=[D_g], weights=[w], ...)"
    offered: ClassVar[tuple[str, ...]] = ("main", "references", "weights", "x", "sigma", "step", "labels")

    def denoise(self, call: Call, guides: Sequence[Acting]) -> "Tensor":
        """ValueError for a function that recipes alone name, or that makes no tensor of the shape of D."""
        main = call.main()
        pushes = [guide.push() for guide in guides]
        weights = [guide.weight(push) for guide, push in zip(guides, pushes, strict=True)]
        values = (main, [main - push for push in pushes], weights, call.x, call.sigma, call.step, call.labels)
        made = call_own(self, dict(zip(self.offered, values, strict=True)))
        is_tensor = isinstance(made, type(main))
        if not is_tensor or made.shape != main.shape:
            what = list(made.shape) if is_tensor else type(made).__name__
            raise ValueError(f"the rule {self.name} made {what} of {list(main.shape)}: return D, in the shape of main")
        if not made.is_floating_point():
            raise ValueError(f"the rule {self.name} made {made.dtype}: return D, in floating point")
        denoised: Tensor = made.to(main)
        return denoised
