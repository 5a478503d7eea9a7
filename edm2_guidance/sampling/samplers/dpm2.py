"""DPM-Solver-2: the midpoint method in log sigma."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Denoise, Probe, RandnLike, Sampler, Step, StepInfo

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DPM2(Sampler):
    """DPM-Solver-2, the midpoint in log sigma: 2 N - 1 evaluations for N steps, second order."""

    kind: ClassVar[str] = "dpm2"
    source: ClassVar[str] = "arXiv 2206.00927"
    formula: ClassVar[str] = (
        "d = (x - D) / sigma; m = sqrt(sigma sigma'); d_m the same at m, where Euler's step leads\n"
        "x' = x + (sigma' - sigma) d_m"
    )
    probes: ClassVar[bool] = True

    def evaluations(self, levels: Sequence[float]) -> list[int]:
        return [2] * (len(levels) - 1) + [1]

    def step(self, x: "Tensor", info: StepInfo, denoise: Denoise, randn_like: RandnLike, past: Sequence[Step]) -> Step:
        sigma, after = info.sigma, info.sigma_next
        denoised = denoise(x, sigma)
        slope = (x - denoised) / sigma
        probe = None
        if after > 0:
            middle = math.sqrt(sigma * after)
            half = x + (middle - sigma) * slope
            probe = Probe(half, denoise(half, middle), middle)
            slope = (half - probe.denoised) / middle
        return Step(info, x, denoised, x + (after - sigma) * slope, probe)
