"""A weight that rises in a straight line."""

from dataclasses import dataclass
from typing import ClassVar

from edm2_guidance.recipe.parts import Scheduled, StepInfo


@dataclass(frozen=True)
class Linear(Scheduled):
    """From 1 at the noise up to 2 w - 1 at the data, in a straight line over the steps; w is the mean."""

    kind: ClassVar[str] = "linear"
    source: ClassVar[str] = "arXiv 2404.13040"
    formula: ClassVar[str] = "w_t = 1 + 2 (w - 1) p"

    def value(self, step: StepInfo) -> float:
        return 1 + 2 * (self.w - 1) * step.progress
