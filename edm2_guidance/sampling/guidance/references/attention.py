"""The same network with perturbed self-attention."""

import math
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal

from edm2_guidance.recipe.parts import Call, Reference
from edm2_guidance.recipe.perturbation import CHOICE, Perturbation, Perturbed, check_chosen, is_chosen
from edm2_guidance.recipe.perturbation import Attention as Attend
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Attention(Reference):
    """A network, the main one if no other is named, whose attention sees less at some layers. Experimental.

    identity (PAG, arXiv 2403.17377): every token attends to itself alone, so values come out as they are. blur (SEG,
    arXiv 2408.00760): each head's queries, an image, are blurred by a Gaussian over the tokens; the kernel is no wider
    than the image, borders mirrored, and sigma above 9999 is the mean. adm are the layers that PAG was published with,
    of ADM at 256 x 256, where w was 5; SEG was, at w = 3, for a larger network's middle.

    Nothing is published of EDM2's networks: how it is done there is a reading. Queries and values are those after
    their normalisation, and blurred queries are not normalised again.
    """

    kind: ClassVar[str] = "attention"
    source: ClassVar[str] = "arXiv 2403.17377; arXiv 2408.00760"
    formula: ClassVar[str] = (
        "D_g = D of the network where softmax(Q K^T / sqrt(d)) V is V (identity)\n"
        "or softmax(blur(Q) K^T / sqrt(d)) V (blur)"
    )
    of_main: ClassVar[bool] = True
    needs: ClassVar[str] = "attention"
    variants = MappingProxyType(
        {"adm": {"layers": ("input_blocks.14.1", "input_blocks.16.1", "input_blocks.17.1", "middle_block.1")}}
    )

    mode: Literal["identity", "blur"] = option("identity", "What takes its place: none, or one with blurred queries")
    layers: tuple[str, ...] = option(("mid",), CHOICE)
    sigma: float = option(math.inf, "Of the blur, in tokens; 0 = none", low=0)

    def check(self) -> None:
        if self.mode == "identity" and self.sigma != math.inf:
            raise ValueError(f"{self.kind}: sigma={self.sigma:g} is of a blur: add {self.kind}:blur, or leave it out")

    def check_network(self, network: Perturbed) -> None:
        super().check_network(network)
        able = [layer for layer in network.layers if layer.attends]
        check_chosen(self.layers, able, self.kind, network.source)

    def denoise(self, call: Call) -> "Tensor":
        attend: Attend = _itself if self.mode == "identity" else partial(_blurred, self.sigma)
        return call.guide(call.labels, perturbed=Perturbation(partial(is_chosen, self.layers), attention=attend))


def _itself(queries: "Tensor", keys: "Tensor", values: "Tensor") -> "Tensor":
    return values


def _blurred(sigma: float, queries: "Tensor", keys: "Tensor", values: "Tensor") -> "Tensor":
    from torch.nn.functional import scaled_dot_product_attention

    made: Tensor = scaled_dot_product_attention(blurred(queries, sigma), keys, values)
    return made


def blurred(queries: "Tensor", sigma: float) -> "Tensor":
    """Queries [N, heads, tokens, channels] of a square of tokens, blurred over it."""
    if sigma > 9999:
        return queries.mean(2, keepdim=True).expand_as(queries)
    if 6 * sigma <= 1:  # a kernel of one token
        return queries
    side = math.isqrt(queries.shape[2])
    image = queries.transpose(2, 3).flatten(0, 2).unflatten(1, (side, side))
    for _ in range(2):  # along one side, then along the other
        image = _blurred_rows(image, sigma).transpose(1, 2)
    made: Tensor = image.reshape(*queries.shape[:2], -1, side * side).transpose(2, 3)
    return made


def _blurred_rows(rows: "Tensor", sigma: float) -> "Tensor":
    """Each row of rows [M, H, W], mirrored at its ends without the last pixel."""
    import torch
    from torch.nn.functional import pad

    side = rows.shape[2]
    half = min(math.ceil(6 * sigma) // 2, side // 2)  # of the odd width: ceil(6 sigma), or one more
    places = torch.arange(-half, half + 1, device=rows.device, dtype=torch.float32)
    taps = torch.exp(-((places / sigma) ** 2) / 2)
    wide = pad(rows, (half, half), mode="reflect").unfold(2, 2 * half + 1, 1)
    made: Tensor = wide @ (taps / taps.sum()).to(rows.dtype)
    return made
