"""The same network, told another noise level."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Call, Reference
from edm2_guidance.recipe.perturbation import Layer, Perturbation
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NoiseEmbedding(Reference):
    """A network, the main one if no other is named, whose embedding of the noise level gets noise. Experimental.

    TSG: of the embedding e, the first blocks of encoder and decoder see e + s t^alpha std(e) n, where std is over e and
    n unit normal, drawn anew for every image and call. t is the share of the steps that are left, 1 at the first; of
    legs, 1 less `StepInfo.share`.
    Defaults are those published for a conditional DiT, with w = 2.5; T_min and T_max are the guide's interval.

    How t is counted is inferred, and so is what e is; nothing is published of EDM2's networks. There it is the noise
    level's own part, before that of the class is added.
    """

    kind: ClassVar[str] = "noise-embedding"
    source: ClassVar[str] = "arXiv 2407.02687"
    formula: ClassVar[str] = (
        "D_g = D of the network whose embedding e of the noise level is e + s t^alpha std(e) n in its first blocks"
    )
    of_main: ClassVar[bool] = True
    needs: ClassVar[str] = "noise embedding"

    s: float = option(2.0, "How strong", above=0)
    alpha: float = option(1.0, "The power; 0 = the same at all steps", low=0)
    blocks: int = option(10, "How many first blocks, of the encoder and of the decoder", low=0)

    def denoise(self, call: Call) -> "Tensor":
        step = call.step
        left = 1 - (step.index / step.num_steps if step.share is None else step.share)

        def noisy(embedding: "Tensor") -> "Tensor":
            drawn = call.normal(self.kind, embedding.shape[1:]).to(embedding.dtype)
            size: Tensor = self.s * left**self.alpha * embedding.std(1, correction=0, keepdim=True)
            return embedding + size * drawn

        return call.guide(call.labels, perturbed=Perturbation(self._at, noise=noisy))

    def _at(self, layer: Layer) -> bool:
        return layer.side in ("encoder", "decoder") and layer.index < self.blocks
