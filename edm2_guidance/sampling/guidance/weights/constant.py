"""One weight for all steps."""

from dataclasses import dataclass
from typing import ClassVar

from edm2_guidance.recipe.parts import Scheduled, StepInfo


@dataclass(frozen=True)
class Constant(Scheduled):
    """The same weight at all steps (of the guide's interval)."""

    kind: ClassVar[str] = "constant"
    source: ClassVar[str] = "arXiv 2207.12598"
    formula: ClassVar[str] = "w_t = w"

    def value(self, step: StepInfo) -> float:
        return self.w
