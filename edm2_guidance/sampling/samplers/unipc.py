"""UniPC: a multistep predictor whose next evaluation also corrects the step before."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edm2_guidance.recipe.parts import Denoise, RandnLike, Sampler, Step, StepInfo
from edm2_guidance.recipe.spec import option
from edm2_guidance.sampling.samplers.quadrature import decaying_moments, weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class UniPC(Sampler):
    """UniPC in its data form: N evaluations for N steps; of the order of its predictor plus 1.

    D is evaluated where the predictor led, and corrects that place before the next step starts from it: what a step
    yields is the predicted x. Near the end and at the start fewer steps are looked at. base: bh1 or bh2 of the paper,
    which differ in steps that look at one value more than none.
    """

    kind: ClassVar[str] = "unipc"
    source: ClassVar[str] = "arXiv 2302.04867"
    memory: ClassVar[int] = 3

    order: int = option(3, "Values that the predictor uses", low=1, high=3)
    base: Literal["bh2", "bh1"] = option("bh2", "The paper's B(h)")

    def evaluations(self, levels: Sequence[float]) -> list[int]:
        return [1] * len(levels)

    def step(self, x: "Tensor", info: StepInfo, denoise: Denoise, randn_like: RandnLike, past: Sequence[Step]) -> Step:
        denoised = denoise(x, info.sigma)
        if past:
            x = x + self._correction(info, denoised, past)
        if info.sigma_next == 0:
            return Step(info, x, denoised, denoised)
        h = math.log(info.sigma / info.sigma_next)
        made = math.exp(-h) * x
        for weight, value in self._predictor(info, denoised, past):
            made = made + weight * value
        return Step(info, x, denoised, made)

    def _predictor(self, info: StepInfo, denoised: "Tensor", past: Sequence[Step]) -> list[tuple[float, "Tensor"]]:
        """Weights and values of D that the step at `info` goes by."""
        h = math.log(info.sigma / info.sigma_next)
        used = self._used(info)
        values = [denoised, *(each.denoised for each in reversed(past))][:used]
        nodes = [0.0, *(math.log(info.sigma / each.info.sigma) for each in reversed(past))][:used]
        if used == 2:  # the paper fixes the coefficient, which is not that of the polynomial
            share = -self._size(h) / 2 / (nodes[1] / h)
            return [(-math.expm1(-h) - share, values[0]), (share, values[1])]
        return list(zip(weights(nodes, decaying_moments(used, h)), values, strict=True))

    def _correction(self, info: StepInfo, denoised: "Tensor", past: Sequence[Step]) -> "Tensor":
        """From the predicted to the corrected x, at the start of the step at `info`: x itself cancels."""
        *earlier, last = past
        h = math.log(last.info.sigma / info.sigma)
        used = self._used(last.info)
        values = [last.denoised, *(each.denoised for each in reversed(earlier))][:used]
        nodes = [0.0, *(math.log(last.info.sigma / each.info.sigma) for each in reversed(earlier))][:used]
        if used == 1:
            share = -self._size(h) / 2
            found = [-math.expm1(-h) - share, share]
        else:
            found = weights([*nodes, h], decaying_moments(used + 1, h))
        corrected = [*zip(found, [*values, denoised], strict=True)]
        predicted = [(-w, value) for w, value in self._predictor(last.info, last.denoised, earlier)]
        made: Tensor = sum(w * value for w, value in [*corrected, *predicted])  # type: ignore[assignment]
        return made

    def _used(self, info: StepInfo) -> int:
        return min(self.order, info.index + 1, info.num_steps - info.index)

    def _size(self, h: float) -> float:
        """B, which is negative."""
        return -h if self.base == "bh1" else math.expm1(-h)
