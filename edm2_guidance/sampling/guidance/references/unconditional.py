"""The same network, told nothing."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Call, Reference
from edm2_guidance.recipe.perturbation import Perturbed

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Unconditional(Reference):
    """A network (the main one, if no other is named) told no class or prompt: classifier-free guidance by one network.

    For networks whose training dropped the labels or prompts of some images, as the paper proposes. EDM2's conditional
    ones were trained with labels alone. w here is 1 + w of the paper, Eq. 6.
    """

    kind: ClassVar[str] = "unconditional"
    source: ClassVar[str] = "arXiv 2207.12598"
    formula: ClassVar[str] = "D_g = D of the network at (x, sigma) without a class or prompt"
    of_main: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    needs: ClassVar[str] = "unconditional"

    def check_network(self, network: Perturbed) -> None:
        if self.needs not in network.supports:
            raise ValueError(
                f"the reference '{self}' asks a network without classes or prompts, and {network.source} was not "
                "trained to denoise so: name an unconditional one, --gnet=PATH|URL, without --reference"
            )

    def denoise(self, call: Call) -> "Tensor":
        return call.guide(None)
