"""A weight that rises as a cosine."""

import math
from dataclasses import dataclass
from typing import ClassVar

from edm2_guidance.recipe.parts import Scheduled, StepInfo


@dataclass(frozen=True)
class Cosine(Scheduled):
    """From 1 at the noise up to 2 w - 1 at the data, as half a cosine over the steps; w is the mean."""

    kind: ClassVar[str] = "cosine"
    source: ClassVar[str] = "arXiv 2404.13040"
    formula: ClassVar[str] = "w_t = 1 + (w - 1) (1 - cos(pi p))"

    def value(self, step: StepInfo) -> float:
        return 1 + (self.w - 1) * (1 - math.cos(math.pi * step.progress))
