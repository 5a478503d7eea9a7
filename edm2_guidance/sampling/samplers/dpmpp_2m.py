"""DPM-Solver++ (2M): second order at one evaluation per step, by what the step before saw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Denoise, RandnLike, Sampler, Step, StepInfo

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DPMpp2M(Sampler):
    """DPM-Solver++ (2M) in its midpoint form, in EDM's coordinates: N evaluations for N steps, second order."""

    kind: ClassVar[str] = "dpmpp-2m"
    source: ClassVar[str] = "arXiv 2211.01095, Algorithm 2"
    formula: ClassVar[str] = (
        "h = log(sigma / sigma'), r = h_before / h\nx' = e^-h x + (1 - e^-h) (D + (D - D_before) / (2 r))"
    )
    memory: ClassVar[int] = 1

    def evaluations(self, levels: Sequence[float]) -> list[int]:
        return [1] * len(levels)

    def step(self, x: "Tensor", info: StepInfo, denoise: Denoise, randn_like: RandnLike, past: Sequence[Step]) -> Step:
        denoised = denoise(x, info.sigma)
        if info.sigma_next == 0:
            return Step(info, x, denoised, denoised)
        h = math.log(info.sigma / info.sigma_next)
        target = denoised
        if past:
            before = past[-1]
            r = math.log(before.info.sigma / info.sigma) / h
            target = denoised + (denoised - before.denoised) / (2 * r)
        return Step(info, x, denoised, math.exp(-h) * x - math.expm1(-h) * target)
