"""Guidance along what is common to the noise estimates of main network and reference."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Call, Rule

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TCFG(Rule):
    """The reference's noise estimate is projected on the direction in which both estimates are largest.

    That is, image by image, the first right singular vector of the matrix of the two. The main network's stays. As
    eps = (x - D) / sigma, lengths are over all pixels, and the vector comes from the 2 x 2 matrix of inner products.
    """

    kind: ClassVar[str] = "tcfg"
    source: ClassVar[str] = "arXiv 2503.18137"
    formula: ClassVar[str] = (
        "eps = (x - D) / sigma; u = first right singular vector of the rows eps_m and eps_g\n"
        "D_g' = x - sigma <eps_g, u> u\n"
        "D = D_m + (w - 1) (D_m - D_g')"
    )

    def shape(self, push: "Tensor", call: Call, memory: "dict[str, Tensor]") -> "Tensor":
        import torch

        main = ((call.x - call.main()) / call.sigma).flatten(1).double()
        reference = main + (push / call.sigma).flatten(1).double()
        both = torch.stack([main, reference], 1)  # [N, 2, D]
        squares, vectors = torch.linalg.eigh(both @ both.mT)
        along = vectors[:, :, 1:].mT @ both  # [N, 1, D], of length sqrt of the larger eigenvalue
        share = (along * reference[:, None]).sum(2, keepdim=True) / squares[:, 1:, None].clamp_min(1e-300)
        moved = ((share * along).squeeze(1) - main) * call.sigma  # D_m - D' = sigma (eps' - eps_m)
        made: Tensor = moved.view_as(push).to(push.dtype)
        return made
