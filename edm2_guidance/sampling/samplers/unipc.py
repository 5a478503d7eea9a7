"""UniPC: a multistep predictor whose next evaluation also corrects the step before."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edm2_guidance.recipe.parts import Step, StepInfo
from edm2_guidance.recipe.spec import option
from edm2_guidance.sampling.samplers.predictor_corrector import PredictorCorrector, looked_back, weighed
from edm2_guidance.sampling.samplers.quadrature import decaying_moments, weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class UniPC(PredictorCorrector):
    """UniPC in its data form: N evaluations for N steps; of the order of its predictor plus 1.

    Near the end and at the start fewer steps are looked at. There the paper fixes a coefficient at 1/2, which makes the
    two choices of its B(h) differ.
    """

    kind: ClassVar[str] = "unipc"
    source: ClassVar[str] = "arXiv 2302.04867"
    formula: ClassVar[str] = (
        "x' = e^-h x + integral over u in [0, h] of e^(u - h) P(u)\n"
        "P: the polynomial in log sigma through the last values of D; the next D, once known, is put among them"
    )
    memory: ClassVar[int] = 3

    order: int = option(3, "Values that the predictor uses", low=1, high=3)
    base: Literal["bh2", "bh1"] = option("bh2", "The paper's B(h)")

    def predicted(self, info: StepInfo, denoised: "Tensor", past: Sequence[Step]) -> "Tensor":
        h, known = math.log(info.sigma / info.sigma_next), self._known(info, denoised, past)
        if len(known) == 2:  # the fixed coefficient is not that of the polynomial
            share = -self._size(h) / 2 / (known[1][0] / h)
            return weighed([-math.expm1(-h) - share, share], known)
        return weighed(weights([node for node, _ in known], decaying_moments(len(known), h)), known)

    def correction(self, info: StepInfo, denoised: "Tensor", past: Sequence[Step]) -> "Tensor":
        *earlier, last = past
        h = math.log(last.info.sigma / info.sigma)
        known = [*self._known(last.info, last.denoised, earlier), (h, denoised)]
        if len(known) == 2:
            share = -self._size(h) / 2
            found = [-math.expm1(-h) - share, share]
        else:
            found = weights([node for node, _ in known], decaying_moments(len(known), h))
        return weighed(found, known) - self.predicted(last.info, last.denoised, earlier)

    def _known(self, info: StepInfo, denoised: "Tensor", past: Sequence[Step]) -> list[tuple[float, "Tensor"]]:
        """Nodes and values of D that the predictor of the step at `info` uses."""
        used = min(self.order, info.index + 1, info.left)
        return [(0.0, denoised), *looked_back(info, past)][:used]

    def _size(self, h: float) -> float:
        """B, which is negative."""
        return -h if self.base == "bh1" else math.expm1(-h)
