"""A weight that falls where main network and reference differ much."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Seen, StepInfo, Weight
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MamboG(Weight):
    """1 + (w - 1) exp(-alpha r), image by image; r is how far the velocities differ, over the reference's length.

    Velocities are those of flow matching, (x - D) / sigma - D, as in the paper's models; lengths are over an image.
    Experimental: that of EDM's networks is derived here, and the authors' text prints 1 + w exp(-alpha r), too, where
    their code has this form.
    """

    kind: ClassVar[str] = "mambo-g"
    source: ClassVar[str] = "arXiv 2508.03442"
    formula: ClassVar[str] = "v = (x - D) / sigma - D; r = |v_m - v_g| / |v_g|\nw_t = 1 + (w - 1) exp(-alpha r)"

    alpha: float = option(8.0, "How fast it falls", low=0)

    def off(self, step: StepInfo) -> bool:
        return self.w == 1

    def at(self, step: StepInfo, seen: Seen) -> "Tensor":
        reference = seen.main - seen.push
        velocity = (seen.x - reference) / seen.sigma - reference
        differ = seen.push.flatten(1).norm(dim=1) * (1 + 1 / seen.sigma)
        r = differ / velocity.flatten(1).norm(dim=1).clamp_min(1e-12)
        made: Tensor = 1 + (self.w - 1) * (-self.alpha * r).exp().view(-1, 1, 1, 1)
        return made
