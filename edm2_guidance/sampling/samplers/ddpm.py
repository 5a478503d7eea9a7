"""Ancestral sampling, with the variance that the network learned."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Denoise, RandnLike, Step, StepInfo
from edm2_guidance.sampling.samplers.discrete import Discrete

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DDPM(Discrete):
    """Ancestral sampling. Its noise has the variance that the network learned, or else the posterior's.

    The posterior's, beta tilde, is the least; the largest is beta. Both are arXiv 2006.11239's, times 1 + sigma_next^2
    in these coordinates.
    """

    kind: ClassVar[str] = "ddpm"
    source: ClassVar[str] = "arXiv 2006.11239, Algorithm 2; arXiv 2102.09672, Eq. 15"
    formula: ClassVar[str] = (
        "r = (sigma' / sigma)^2\nx' = D + r (x - D) + sqrt(V) n, V from (1 - r) sigma'^2 up, as the network learned"
    )
    ancestral: ClassVar[bool] = True

    def plan(self, info: StepInfo, levels: Sequence[float]) -> StepInfo:
        sigma, after = info.sigma, info.sigma_next
        largest = (sigma**2 - after**2) * (1 + after**2) / (1 + sigma**2)
        least = (1 - (after / sigma) ** 2) * after**2
        if after == 0:  # no noise, and no logarithm: of the step before, as published; only guidance asks for it
            before = min((level for level in levels if level > sigma), default=math.inf)
            least = (1 - (sigma / before) ** 2) * sigma**2 / (1 + sigma**2)
        return replace(info, variances=(least, largest), lands=after**2 / sigma)

    def step(self, x: "Tensor", info: StepInfo, denoise: Denoise, randn_like: RandnLike, past: Sequence[Step]) -> Step:
        made = denoise.predict(x, info.sigma)
        x_next = made.denoised + (info.sigma_next / info.sigma) ** 2 * (x - made.denoised)
        if info.sigma_next > 0:
            x_next = x_next + info.variance(made.mix) ** 0.5 * randn_like(x)
        return Step(info, x, made.denoised, x_next)
