"""What the main network made of the step before."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Call, Reference

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PreviousStep(Reference):
    """D of the main network at the start of the step before, which costs no evaluation. Experimental.

    The first step is not guided. A corrector has the same reference as its predictor. The push does not vanish with the
    noise, and a corrector enlarges it there: end the guide's interval before. It is the simplest reading of a history
    as the reference; arXiv 2509.22300 averages and filters it.
    """

    kind: ClassVar[str] = "previous-step"
    source: ClassVar[str] = "after arXiv 2509.22300"
    formula: ClassVar[str] = "D_g = D_m at the start of the step before"
    of_main: ClassVar[bool] = True
    of_other: ClassVar[bool] = False
    remembers: ClassVar[bool] = True

    def evaluations(self) -> int:
        return 0

    def denoise(self, call: Call) -> "Tensor":
        return call.memory.get("before", call.main())

    def observe(self, main: "Tensor", memory: "dict[str, Tensor]") -> None:
        memory["before"] = main
