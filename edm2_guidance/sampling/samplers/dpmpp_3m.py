"""DPM-Solver++ (3M): one evaluation per step, by what the two steps before saw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edm2_guidance.recipe.parts import Denoise, RandnLike, Sampler, Step, StepInfo
from edm2_guidance.recipe.spec import option
from edm2_guidance.sampling.samplers.quadrature import lowered, seen

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DPMpp3M(Sampler):
    """DPM-Solver++ (3M), in EDM's coordinates: N evaluations for N steps.

    As published, in paper and code, its last term is half of what it should be, and its order 2. form=true has the
    whole of it, and order 3. end=lower takes fewer past steps for the last ones, end=tail for the last one alone.
    """

    kind: ClassVar[str] = "dpmpp-3m"
    source: ClassVar[str] = "arXiv 2211.01095"
    formula: ClassVar[str] = (
        "h = log(sigma / sigma'); differences of D over steps: D1 (first), D2 (second), in units of h\n"
        "x' = e^-h x + (1 - e^-h) D + c2 D1 - c3 D2\n"
        "c2 = 1 - (1 - e^-h) / h; c3 = c2 / h - 1/2, twice that with form=true"
    )
    memory: ClassVar[int] = 2

    form: Literal["published", "true"] = option("published", "The last term")
    end: Literal["lower", "tail"] = option("lower", "What the last steps look back at")

    def evaluations(self, levels: Sequence[float]) -> list[int]:
        return [1] * len(levels)

    def step(self, x: "Tensor", info: StepInfo, denoise: Denoise, randn_like: RandnLike, past: Sequence[Step]) -> Step:
        denoised = denoise(x, info.sigma)
        if info.sigma_next == 0:
            return Step(info, x, denoised, denoised)
        h = math.log(info.sigma / info.sigma_next)
        made = math.exp(-h) * x - math.expm1(-h) * denoised
        used = (lowered if self.end == "lower" else seen)(info, past, 3)
        if used > 1:
            made = made + self._correction(used, h, info, denoised, past)
        return Step(info, x, denoised, made)

    def _correction(self, used: int, h: float, info: StepInfo, denoised: "Tensor", past: Sequence[Step]) -> "Tensor":
        before = past[-1]
        r0 = math.log(before.info.sigma / info.sigma) / h
        first = (denoised - before.denoised) / r0
        if used == 2:
            return -math.expm1(-h) / 2 * first
        earlier = past[-2]
        r1 = math.log(earlier.info.sigma / before.info.sigma) / h
        second = (first - (before.denoised - earlier.denoised) / r1) / (r0 + r1)
        c2 = 1 + math.expm1(-h) / h
        c3 = (c2 / h - 0.5) * (2 if self.form == "true" else 1)
        return c2 * (first + r0 * second) - c3 * second
