"""The same network without some of its blocks."""

from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal

from edm2_guidance.recipe.parts import Call, Reference
from edm2_guidance.recipe.perturbation import CHOICE, Layer, Perturbation, Perturbed, check_chosen, is_chosen
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SkipBlocks(Reference):
    """A network, the main one if no other is named, in which blocks pass on their trunk alone (SLG). Experimental.

    What changes the size is never skipped. With a share below 1, each image skips blocks of its own, drawn once per
    step; random is S^2 (arXiv 2508.12880): a tenth of all blocks.

    SLG is published for transformers alone, where blocks 7, 8 and 9 were skipped in steps from 1 to 20 %, and S^2 is
    known second hand. In EDM2's blocks the trunk is x with its skip convolution and, in the encoder, its
    normalisation.
    """

    kind: ClassVar[str] = "skip-blocks"
    source: ClassVar[str] = "Stable Diffusion 3.5's SLG; arXiv 2508.12880"
    formula: ClassVar[str] = "D_g = D of the network without the branches of some blocks"
    of_main: ClassVar[bool] = True
    needs: ClassVar[str] = "blocks"
    variants = MappingProxyType({"random": {"layers": ("all",), "share": 0.1}})

    layers: tuple[str, ...] = option(("mid",), CHOICE)
    share: float = option(1.0, "Of these blocks that an image skips in a step", low=0, high=1)

    def check_network(self, network: Perturbed) -> None:
        super().check_network(network)
        able = [layer for layer in network.layers if not layer.resizes]
        check_chosen(self.layers, able, self.kind, network.source)

    def denoise(self, call: Call) -> "Tensor":
        skip = partial(self._drawn, self._keys(call)) if self.share < 1 else _all
        at = partial(is_chosen, self.layers)
        return call.guide(call.labels, perturbed=Perturbation(lambda layer: at(layer) and not layer.resizes, skip=skip))

    def _keys(self, call: Call) -> list[int]:
        """A number per image, the same in the whole step."""
        import torch

        from edm2_guidance.sampling.seeds import KEYS

        if call.first or "keys" not in call.memory:
            call.memory["keys"] = torch.tensor(call.draw(self.kind, KEYS))
        keys: list[int] = call.memory["keys"].tolist()
        return keys

    def _drawn(self, keys: list[int], layer: Layer) -> "Tensor":
        from edm2_guidance.sampling.seeds import hashed

        return hashed(keys, f"{self.kind} {layer.name}", 1)[:, 0] < self.share


def _all(layer: Layer) -> Literal[True]:
    return True
