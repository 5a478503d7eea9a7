"""What the samplers of diffusion in discrete time share: the range of pixels, and where they start from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edm2_guidance.recipe.parts import Sampler
from edm2_guidance.recipe.spec import option


@dataclass(frozen=True)
class Discrete(Sampler):
    """A sampler that was published for x / sqrt(1 + sigma^2), which starts from unit noise; one evaluation a step.

    Here, as everywhere, x is data plus noise of standard deviation sigma: alpha bar is 1 / (1 + sigma^2).
    """

    clip: bool = option(True, "Hold D within [-1, 1], the range of pixels")

    @property
    def clips(self) -> bool:
        return self.clip

    def start(self, level: float) -> float:
        return math.hypot(1, level)

    def evaluations(self, levels: Sequence[float]) -> list[int]:
        return [1] * len(levels)
