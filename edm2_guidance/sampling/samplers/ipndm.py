"""iPNDM: Adams-Bashforth's constants on any levels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Denoise, RandnLike, Sampler, Step, StepInfo
from edm2_guidance.recipe.spec import option
from edm2_guidance.sampling.samplers.quadrature import seen

if TYPE_CHECKING:
    from torch import Tensor

_CONSTANTS = ([1.0], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24])


@dataclass(frozen=True)
class IPNDM(Sampler):
    """iPNDM: N evaluations for N steps, by the slopes of up to three past steps.

    Its constants are those of even steps, so on other levels its order is 2 at most; at few steps it is good all the
    same.
    """

    kind: ClassVar[str] = "ipndm"
    source: ClassVar[str] = "arXiv 2204.13902"
    formula: ClassVar[str] = (
        "d = (x - D) / sigma\n"
        "x' = x + (sigma' - sigma) (55 d - 59 d_1 + 37 d_2 - 9 d_3) / 24, with the slopes of the last steps"
    )
    memory: ClassVar[int] = 3

    order: int = option(4, "Slopes that a step uses", low=1, high=4)

    def evaluations(self, levels: Sequence[float]) -> list[int]:
        return [1] * len(levels)

    def step(self, x: "Tensor", info: StepInfo, denoise: Denoise, randn_like: RandnLike, past: Sequence[Step]) -> Step:
        denoised = denoise(x, info.sigma)
        used = seen(info, past, self.order)
        earlier = [(each.start - each.denoised) / each.info.sigma for each in reversed(past)]
        slopes = [(x - denoised) / info.sigma, *earlier]
        slope = sum(c * each for c, each in zip(_CONSTANTS[used - 1], slopes, strict=False))
        return Step(info, x, denoised, x + (info.sigma_next - info.sigma) * slope)
