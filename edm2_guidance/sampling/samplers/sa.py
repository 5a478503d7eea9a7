"""SA-Solver: a multistep predictor and corrector for the stochastic equation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Denoise, RandnLike, Sampler, Step, StepInfo
from edm2_guidance.recipe.spec import option
from edm2_guidance.sampling.samplers.quadrature import decaying_moments, weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SA(Sampler):
    """SA-Solver in its data form: N evaluations for N steps, with noise of strength tau where lo <= sigma <= hi.

    D is evaluated where the predictor led, and corrects that place, under the same noise, before the next step starts
    from it: what a step yields is the predicted x. Near the end and at the start fewer steps are looked at. With two
    values the authors' code takes half of h^2 for an integral that is a little more; exact=true takes the integral.
    """

    kind: ClassVar[str] = "sa"
    source: ClassVar[str] = "arXiv 2309.05019"
    memory: ClassVar[int] = 4

    predictor: int = option(3, "Values that the predictor uses", low=1, high=4)
    corrector: int = option(4, "Values that the corrector uses, the new one with them", low=1, high=4)
    tau: float = option(1.0, "Strength of the noise; 0 = none", low=0)
    lo: float = option(0.05, "Noise at or above this noise level", unit="sigma", low=0)
    hi: float = option(50.0, "Noise at or below this noise level", unit="sigma", low=0)
    exact: bool = option(False, "Exact integrals with two values, too")

    def evaluations(self, levels: Sequence[float]) -> list[int]:
        return [1] * len(levels)

    def step(self, x: "Tensor", info: StepInfo, denoise: Denoise, randn_like: RandnLike, past: Sequence[Step]) -> Step:
        denoised = denoise(x, info.sigma)
        if past:
            x = x + self._correction(info, denoised, past)
        if info.sigma_next == 0:
            return Step(info, x, denoised, denoised)
        h, tau = math.log(info.sigma / info.sigma_next), self._tau(info.sigma)
        made = math.exp(-(1 + tau**2) * h) * x + self._predicted(info, denoised, past)
        if tau > 0:
            made = made + info.sigma_next * math.sqrt(-math.expm1(-2 * tau**2 * h)) * randn_like(x)
        return Step(info, x, denoised, made)

    def _tau(self, sigma: float) -> float:
        return self.tau if self.lo <= sigma <= self.hi else 0.0

    def _predicted(self, info: StepInfo, denoised: "Tensor", past: Sequence[Step]) -> "Tensor":
        """What the values of D bring to the step at `info`."""
        used = min(self.predictor, info.index + 1, info.num_steps - info.index)
        known = [(0.0, denoised), *_looked_back(info, past)][:used]
        return self._integral(info, known)

    def _correction(self, info: StepInfo, denoised: "Tensor", past: Sequence[Step]) -> "Tensor":
        """From the predicted to the corrected x, at the start of the step at `info`: x and its noise cancel."""
        *earlier, last = past
        h = math.log(last.info.sigma / info.sigma)
        used = min(self.corrector, last.info.index + 2, last.info.num_steps - last.info.index + 1)
        known = [(h, denoised), (0.0, last.denoised), *_looked_back(last.info, earlier)][:used]
        return self._integral(last.info, known) - self._predicted(last.info, last.denoised, earlier)

    def _integral(self, info: StepInfo, known: Sequence[tuple[float, "Tensor"]]) -> "Tensor":
        """Of the polynomial through these nodes, in log sigma from the step's start, and values of D."""
        h, rate = math.log(info.sigma / info.sigma_next), 1 + self._tau(info.sigma) ** 2
        moments = decaying_moments(len(known), h, rate)
        if len(known) == 2 and not self.exact:
            moments[1] = rate * h**2 / 2
        found = weights([node for node, _ in known], moments)
        made: Tensor = sum(w * value for w, (_, value) in zip(found, known, strict=True))  # type: ignore[assignment]
        return made


def _looked_back(info: StepInfo, past: Sequence[Step]) -> list[tuple[float, "Tensor"]]:
    return [(math.log(info.sigma / each.info.sigma), each.denoised) for each in reversed(past)]
