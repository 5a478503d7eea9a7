"""Dynamic thresholding: D is kept in the range of pixels, whatever the weight."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

from edm2_guidance.recipe.around import Around
from edm2_guidance.recipe.parts import Call
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Threshold(Around):
    """D of each image is clipped at a quantile of its |D|, at 1 at least, and divided by that.

    The quantile is over all pixels and channels of an image. The variant `if` is DeepFloyd IF's, which clips at 1.5 at
    most. Of pixels alone: latents have no range. Samplers that clip by themselves do so before: `ddpm:clip=false`.
    """

    kind: ClassVar[str] = "threshold"
    source: ClassVar[str] = "arXiv 2205.11487, Section 2.3"
    formula: ClassVar[str] = "s = min(max(1, quantile of |D|), most)\nD' = min(max(D, -s), s) / s"
    of_pixels: ClassVar[bool] = True
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"if": {"ratio": 0.95, "most": 1.5}}

    ratio: float = option(0.995, "Share of the pixels that are not clipped", above=0, high=1)
    most: float = option(inf, "D is clipped at this at most", low=1)

    def finish(self, denoised: "Tensor", call: Call, memory: "dict[str, Tensor]") -> "Tensor":
        size = denoised.abs().flatten(1).quantile(self.ratio, dim=1).clamp(1, self.most).view(-1, 1, 1, 1)
        return denoised.clamp(-size, size) / size
