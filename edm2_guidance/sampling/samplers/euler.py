"""Euler's first-order sampler, with optional churn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Denoise, RandnLike, Step, StepInfo
from edm2_guidance.sampling.samplers.churn import Churned

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Euler(Churned):
    """Euler's method, which is DDIM: N evaluations for N steps, with optional churn."""

    kind: ClassVar[str] = "euler"
    source: ClassVar[str] = "arXiv 2206.00364, Algorithm 2 without lines 7 and 8; arXiv 2010.02502"
    formula: ClassVar[str] = "d = (x - D) / sigma\nx' = x + (sigma' - sigma) d"

    def evaluations(self, levels: Sequence[float]) -> list[int]:
        return [1] * len(levels)

    def step(self, x: "Tensor", info: StepInfo, denoise: Denoise, randn_like: RandnLike, past: Sequence[Step]) -> Step:
        x = self.churned(x, info, randn_like)
        denoised = denoise(x, info.sigma)
        slope = (x - denoised) / info.sigma
        return Step(info, x, denoised, x + (info.sigma_next - info.sigma) * slope)
