"""Multistep solvers whose next evaluation also corrects the step before: what UniPC and SA-Solver share."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edm2_guidance.recipe.parts import Denoise, RandnLike, Sampler, Step, StepInfo

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """N evaluations for N steps, in the data form x' = e^(-(1 + tau^2) h) x + what D brings + noise.

    D is evaluated where the predictor led, and corrects that place, under the same noise, before the next step starts
    from it: what a step yields is the predicted x.
    """

    def evaluations(self, levels: Sequence[float]) -> list[int]:
        return [1] * len(levels)

    def step(self, x: "Tensor", info: StepInfo, denoise: Denoise, randn_like: RandnLike, past: Sequence[Step]) -> Step:
        denoised = denoise(x, info.sigma)
        if past:
            x = x + self.correction(info, denoised, past)
        if info.sigma_next == 0:
            return Step(info, x, denoised, denoised)
        h, tau = math.log(info.sigma / info.sigma_next), self.strength(info.sigma)
        made = math.exp(-(1 + tau**2) * h) * x + self.predicted(info, denoised, past)
        if tau > 0:
            made = made + info.sigma_next * math.sqrt(-math.expm1(-2 * tau**2 * h)) * randn_like(x)
        return Step(info, x, denoised, made)

    def strength(self, sigma: float) -> float:
        """tau, of the noise of a step that starts at this level."""
        return 0.0

    @abstractmethod
    def predicted(self, info: StepInfo, denoised: "Tensor", past: Sequence[Step]) -> "Tensor":
        """What the values of D bring to the step at `info`."""

    @abstractmethod
    def correction(self, info: StepInfo, denoised: "Tensor", past: Sequence[Step]) -> "Tensor":
        """From the predicted to the corrected x, at the start of the step at `info`: x and its noise cancel."""


def looked_back(info: StepInfo, past: Sequence[Step]) -> list[tuple[float, "Tensor"]]:
    """Past values of D [N,C,H,W], the last one first, and where: in log sigma from the start of the step at `info`."""
    return [(math.log(info.sigma / each.info.sigma), each.denoised) for each in reversed(past)]


def weighed(weights: Sequence[float], known: Sequence[tuple[float, "Tensor"]]) -> "Tensor":
    """The sum [N,C,H,W] of the values of D, each times its weight."""
    made: Tensor = sum(w * value for w, (_, value) in zip(weights, known, strict=True))  # type: ignore[assignment]
    return made
