"""Heun's second-order sampler, with optional churn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Denoise, Probe, RandnLike, Step, StepInfo
from edm2_guidance.sampling.samplers.churn import Churned

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Heun(Churned):
    """Heun's method on the probability-flow ODE: 2 N - 1 evaluations for N steps, with optional churn."""

    kind: ClassVar[str] = "heun"
    source: ClassVar[str] = "arXiv 2206.00364, Algorithm 2"
    formula: ClassVar[str] = (
        "d = (x - D) / sigma; d' the same at sigma', where Euler's step leads\nx' = x + (sigma' - sigma) (d + d') / 2"
    )
    probes: ClassVar[bool] = True

    def evaluations(self, levels: Sequence[float]) -> list[int]:
        return [2] * (len(levels) - 1) + [1]

    def step(self, x: "Tensor", info: StepInfo, denoise: Denoise, randn_like: RandnLike, past: Sequence[Step]) -> Step:
        x = self.churned(x, info, randn_like)
        sigma, sigma_next = info.sigma, info.sigma_next
        denoised = denoise(x, sigma)
        slope = (x - denoised) / sigma
        x_next = x + (sigma_next - sigma) * slope
        probe = None
        if sigma_next > 0:
            probe = Probe(x_next, denoise(x_next, sigma_next), sigma_next)
            slope_next = (x_next - probe.denoised) / sigma_next
            x_next = x + (sigma_next - sigma) * (slope + slope_next) / 2
        return Step(info, x, denoised, x_next, probe)


@dataclass(frozen=True)
class HeunEDM(Heun):
    """Heun's sampler that draws noise at every step, also where the churn adds none, as EDM's own code does.

    With S_min and S_max, only so a seed gives the image that it gives there, in float64. Without churn it is Heun's.
    """

    kind: ClassVar[str] = "heun-edm"

    def churned(self, x: "Tensor", info: StepInfo, randn_like: RandnLike) -> "Tensor":
        if info.sigma <= info.level and self.S_churn > 0:
            randn_like(x)
        return super().churned(x, info, randn_like)
