"""The same network, told another class."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Call, Reference
from edm2_guidance.recipe.perturbation import Perturbed

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class OtherLabel(Reference):
    """A network (the main one, if no other is named) told a random class: guidance without an unconditional network.

    The class is drawn from all, independently of the image's own, anew for every image and step. The paper draws in its
    loop over time, and does not say what steps of several evaluations do: here they keep it.
    """

    kind: ClassVar[str] = "other-label"
    source: ClassVar[str] = "arXiv 2407.02687"
    formula: ClassVar[str] = "D_g = D of the network at (x, sigma) for class c', drawn evenly from all"
    of_main: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True

    def check_network(self, network: Perturbed) -> None:
        super().check_network(network)
        if network.num_classes == 1:
            raise ValueError(
                f"the reference '{self}' draws another class, and {network.source} has a single one (of prompts: give "
                "several)"
            )

    def other_labels(self, call: Call) -> list[int]:
        import torch

        if call.first or "labels" not in call.memory:
            call.memory["labels"] = torch.tensor(call.draw(self.kind, call.num_classes))
        labels: list[int] = call.memory["labels"].tolist()
        return labels

    def denoise(self, call: Call) -> "Tensor":
        return call.guide(self.other_labels(call))
