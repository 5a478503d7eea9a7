"""One weight for all steps."""

from dataclasses import dataclass
from typing import ClassVar

from edm2_guidance.recipe.parts import Seen, StepInfo, Weight


@dataclass(frozen=True)
class Constant(Weight):
    """The same weight at all steps (of the guide's interval)."""

    kind: ClassVar[str] = "constant"

    def at(self, step: StepInfo, seen: Seen) -> float:
        return self.w
