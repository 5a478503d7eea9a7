"""DEIS: polynomials through the slopes of past steps, integrated exactly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edm2_guidance.recipe.parts import Denoise, RandnLike, Sampler, Step, StepInfo
from edm2_guidance.recipe.spec import option
from edm2_guidance.sampling.samplers.quadrature import growing_moments, lowered, plain_moments, seen, weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DEIS(Sampler):
    """DEIS: N evaluations for N steps, by the slopes of up to three past steps.

    poly=log: polynomials in log sigma, with fewer slopes in the last steps, as diffusers has it. poly=rho: in sigma,
    which is Adams-Bashforth for uneven steps, also known as LMS.
    """

    kind: ClassVar[str] = "deis"
    source: ClassVar[str] = "arXiv 2204.13902"
    formula: ClassVar[str] = (
        "d = (x - D) / sigma\n"
        "x' = x + integral over s in [sigma, sigma'] of P(s)\n"
        "P: the polynomial through the last slopes d, in log sigma (poly=log) or sigma (poly=rho)"
    )
    memory: ClassVar[int] = 3

    order: int = option(3, "Slopes that a step uses", low=1, high=4)
    poly: Literal["log", "rho"] = option("log", "What polynomials are in")

    def evaluations(self, levels: Sequence[float]) -> list[int]:
        return [1] * len(levels)

    def step(self, x: "Tensor", info: StepInfo, denoise: Denoise, randn_like: RandnLike, past: Sequence[Step]) -> Step:
        denoised = denoise(x, info.sigma)
        sigma, after = info.sigma, info.sigma_next
        used = (lowered if self.poly == "log" else seen)(info, past, self.order)
        looked = [*reversed(past)][: used - 1]
        levels = [sigma, *(each.info.sigma for each in looked)]
        if self.poly == "log":
            end = math.log(after / sigma) if after > 0 else -math.inf
            found = weights([math.log(each / sigma) for each in levels], growing_moments(used, end))
            found = [sigma * each for each in found]
        else:
            found = weights([each - sigma for each in levels], plain_moments(used, after - sigma))
        slopes = [(x - denoised) / sigma, *((each.start - each.denoised) / each.info.sigma for each in looked)]
        return Step(info, x, denoised, x + sum(w * slope for w, slope in zip(found, slopes, strict=True)))
