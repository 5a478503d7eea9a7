"""A rule of the user's own: a Python function."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from edm2_guidance.recipe import own
from edm2_guidance.recipe.parts import Acting, Call, Rule
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class OwnRule(Rule):
    """A function of your own, given in Python: rule(main, references, weights) -> D, docs/api.md."""

    kind: ClassVar[str] = "own-rule"
    name: str = option("", "The function")
    sha256: str = option("", "What it does (`recipe.own`)")

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Self:
        """ValueError as of `own.given`."""
        name, sha256 = own.given(function)
        return cls(name, sha256)

    def check_here(self) -> None:
        own.find(self.name, self.sha256, self.axis)

    def denoise(self, call: Call, guides: Sequence[Acting]) -> "Tensor":
        """ValueError for a function that recipes alone name, or that makes no tensor of the shape of D."""
        function, main = own.find(self.name, self.sha256, self.axis), call.main()
        pushes = [guide.push() for guide in guides]
        offered = {
            "main": main,
            "references": [main - push for push in pushes],
            "weights": [guide.weight(push) for guide, push in zip(guides, pushes, strict=True)],
            "x": call.x,
            "sigma": call.sigma,
            "step": call.step,
            "labels": call.labels,
        }
        made: Tensor = own.call(function, offered, self.name)
        if getattr(made, "shape", None) != main.shape:
            what = list(made.shape) if hasattr(made, "shape") else type(made).__name__
            raise ValueError(f"the rule {self.name} made {what} of {list(main.shape)}: return D, in the shape of main")
        return made.to(main)
