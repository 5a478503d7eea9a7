"""DDIM, between the deterministic and the ancestral sampler."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Denoise, RandnLike, Step, StepInfo
from edm2_guidance.recipe.spec import option
from edm2_guidance.sampling.samplers.discrete import Discrete

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DDIM(Discrete):
    """DDIM: eta = 0 is Euler's method, eta = 1 has the noise of ancestral sampling with the posterior's variance."""

    kind: ClassVar[str] = "ddim"
    source: ClassVar[str] = "arXiv 2010.02502, Eqs. 12 and 16"
    formula: ClassVar[str] = (
        "V = eta^2 (1 - (sigma' / sigma)^2) sigma'^2\nx' = D + sqrt(sigma'^2 - V) / sigma (x - D) + sqrt(V) n"
    )

    eta: float = option(0.0, "Share of the ancestral sampler's noise, in standard deviations", low=0, high=1)

    def plan(self, info: StepInfo, levels: Sequence[float]) -> StepInfo:
        return replace(info, lands=math.sqrt(info.sigma_next**2 - self._variance(info)))

    def step(self, x: "Tensor", info: StepInfo, denoise: Denoise, randn_like: RandnLike, past: Sequence[Step]) -> Step:
        denoised, variance = denoise(x, info.sigma), self._variance(info)
        x_next = denoised + math.sqrt(info.sigma_next**2 - variance) / info.sigma * (x - denoised)
        if variance > 0:
            x_next = x_next + math.sqrt(variance) * randn_like(x)
        return Step(info, x, denoised, x_next)

    def _variance(self, info: StepInfo) -> float:
        """Of the noise that is added."""
        return self.eta**2 * (1 - (info.sigma_next / info.sigma) ** 2) * info.sigma_next**2
