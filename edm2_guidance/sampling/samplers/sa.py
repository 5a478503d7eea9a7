"""SA-Solver: a multistep predictor and corrector for the stochastic equation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Step, StepInfo
from edm2_guidance.recipe.spec import option
from edm2_guidance.sampling.samplers.predictor_corrector import PredictorCorrector, looked_back, weighed
from edm2_guidance.sampling.samplers.quadrature import decaying_moments, weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SA(PredictorCorrector):
    """SA-Solver in its data form: N evaluations for N steps, with noise of strength tau where lo <= sigma <= hi.
    Experimental: these two ends are remembered from the paper, and were not looked up.

    Near the end and at the start fewer steps are looked at. With two values the authors' code takes half of h^2 for an
    integral that is a little less; exact=true takes the integral.
    """

    kind: ClassVar[str] = "sa"
    source: ClassVar[str] = "arXiv 2309.05019"
    formula: ClassVar[str] = (
        "k = 1 + tau^2\n"
        "x' = e^(-k h) x + k integral over u in [0, h] of e^(k (u - h)) P(u) + sigma' sqrt(1 - e^(-2 tau^2 h)) n\n"
        "P: the polynomial in log sigma through the last values of D; the next D, once known, is put among them"
    )
    memory: ClassVar[int] = 4

    predictor: int = option(3, "Values that the predictor uses", low=1, high=4)
    corrector: int = option(4, "Values that the corrector uses, the new one with them", low=1, high=4)
    tau: float = option(1.0, "Strength of the noise; 0 = none", low=0)
    lo: float = option(0.05, "Noise at or above this noise level", unit="sigma", low=0)
    hi: float = option(50.0, "Noise at or below this noise level", unit="sigma", low=0, endless=True)
    exact: bool = option(False, "Exact integrals with two values, too")

    def check(self) -> None:
        super().check()
        if self.lo > self.hi:
            raise ValueError(f"{self.kind}: lo={self.lo:g} is above hi={self.hi:g}: for no noise anywhere, tau=0")

    def strength(self, sigma: float) -> float:
        return self.tau if self.lo <= sigma <= self.hi else 0.0

    def predicted(self, info: StepInfo, denoised: "Tensor", past: Sequence[Step]) -> "Tensor":
        used = min(self.predictor, info.index + 1, info.left)
        return self._integral(info, [(0.0, denoised), *looked_back(info, past)][:used])

    def correction(self, info: StepInfo, denoised: "Tensor", past: Sequence[Step]) -> "Tensor":
        *earlier, last = past
        h = math.log(last.info.sigma / info.sigma)
        used = min(self.corrector, last.info.index + 2, last.info.left + 1)
        known = [(h, denoised), (0.0, last.denoised), *looked_back(last.info, earlier)][:used]
        return self._integral(last.info, known) - self.predicted(last.info, last.denoised, earlier)

    def _integral(self, info: StepInfo, known: Sequence[tuple[float, "Tensor"]]) -> "Tensor":
        """Of the polynomial through these nodes, in log sigma from the step's start, and values of D."""
        h, rate = math.log(info.sigma / info.sigma_next), 1 + self.strength(info.sigma) ** 2
        moments = decaying_moments(len(known), h, rate)
        if len(known) == 2 and not self.exact:
            moments[1] = rate * h**2 / 2
        return weighed(weights([node for node, _ in known], moments), known)
