"""The same network with its dropout switched on."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Call, Reference
from edm2_guidance.recipe.perturbation import CHOICE, Layer, Perturbation, Perturbed, check_chosen, is_chosen
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Dropout(Reference):
    """A network, the main one if no other is named, with dropout where training has it. Experimental.

    This is in-situ autoguidance. Masks are drawn anew for every image and call; what is kept is divided by 1 - p, as in
    training. The paper's p and layers are not known here: p = 0.1 is that of the training of EDM2's larger networks;
    the smaller ones, and the digits, were trained without.
    """

    kind: ClassVar[str] = "dropout"
    source: ClassVar[str] = "arXiv 2510.17136"
    formula: ClassVar[str] = "D_g = D of the network with z m / (1 - p), m = 0 for a share p, in its blocks"
    of_main: ClassVar[bool] = True
    needs: ClassVar[str] = "dropout"

    p: float = option(0.1, "Share that is dropped", above=0, high=0.99)
    layers: tuple[str, ...] = option(("all",), CHOICE)

    def check_network(self, network: Perturbed) -> None:
        super().check_network(network)
        check_chosen(self.layers, network.layers, self.kind, network.source)

    def denoise(self, call: Call) -> "Tensor":
        from edm2_guidance.sampling.seeds import KEYS

        dropout = partial(self._dropped, call.draw(self.kind, KEYS))
        return call.guide(call.labels, perturbed=Perturbation(partial(is_chosen, self.layers), dropout=dropout))

    def _dropped(self, keys: list[int], layer: Layer, x: "Tensor") -> "Tensor":
        from edm2_guidance.sampling.seeds import hashed

        drawn = hashed(keys, f"{self.kind} {layer.name}", x[0].numel(), x.device).view(x.shape)
        return x * ((drawn >= self.p) / (1 - self.p)).to(x.dtype)
