"""Another network as the reference."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Call, Reference

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Network(Reference):
    """Another network, asked as the main one is: unconditional (CFG), or a worse version of it (autoguidance)."""

    kind: ClassVar[str] = "network"
    source: ClassVar[str] = "arXiv 2207.12598; arXiv 2406.02507"
    formula: ClassVar[str] = "D_g = D of another network at (x, sigma), for the same class"

    def denoise(self, call: Call) -> "Tensor":
        return call.guide(call.labels)
