"""What references may change inside of a network, for one evaluation. No torch here.

A network family says which of it can be changed (`Model.supports`), names its layers (`Model.layers`), and asks the
perturbation as it goes through them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

#: Queries, keys, values [N, heads, tokens, channels] -> what the heads attend to, in that shape.
Attention = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]


@dataclass(frozen=True)
class Layer:
    """A block of a network.

    Attributes:
        name: Of the module, as the network's file has it: "dec.8x8_block0".
        side: Where it is.
        index: Counted within the side, in the order of evaluation, from 0.
        size: Width and height of what it computes.
        coarsest: Whether that is the network's smallest size.
        attends: Whether it has attention.
        resizes: Whether it changes the size, so that it cannot be left out.
    """

    name: str
    side: Literal["encoder", "middle", "decoder"]
    index: int
    size: int
    coarsest: bool = False
    attends: bool = False
    resizes: bool = False


#: What may be said of layers.
CHOICE = "all, mid (the coarsest), a size such as 16x16 or a name; several by +"


def is_chosen(words: Sequence[str], layer: Layer) -> bool:
    """Whether one of the words is its name, its size, "mid" for the coarsest size, or "all"."""
    mine = {"all", f"{layer.size}x{layer.size}", layer.name} | ({"mid"} if layer.coarsest else set())
    return not mine.isdisjoint(words)


@dataclass(frozen=True)
class Perturbation:
    """What is computed otherwise in one evaluation, at some layers; None = as always.

    Attributes:
        at: The layers.
        noise: The embedding of the noise level, [N or 1, width], before that of the class is added -> what these layers
            see of it, [N, width].
        attention: What takes the place of softmax attention.
        dropout: A layer and its activations [N,C,H,W], where training has its dropout -> these with some zeroed.
        skip: The images, bool [N] on the CPU, that pass a layer by; True = all.
    """

    at: Callable[[Layer], bool]
    noise: "Callable[[Tensor], Tensor] | None" = None
    attention: Attention | None = None
    dropout: "Callable[[Layer, Tensor], Tensor] | None" = None
    skip: "Callable[[Layer], Tensor | Literal[True]] | None" = None


class Perturbed(Protocol):
    """What is asked of a network before it is perturbed; of `models.base.Model`, which says more."""

    source: str
    shape: tuple[int, int, int]
    low_res_size: int
    num_classes: int
    supports: frozenset[str]
    layers: Sequence[Layer]
    crop_multiple: int


def check_chosen(words: Sequence[str], layers: Sequence[Layer], kind: str, source: str) -> None:
    """ValueError for a word that chooses none of these layers, of the network `source`, and for no word at all."""
    if not layers:
        raise ValueError(f"{kind}: {source} has no layer for it: take another reference")
    for word in words or [""]:
        if not any(is_chosen([word], layer) for layer in layers):
            sizes = sorted({layer.size for layer in layers})
            known = ", ".join(["all", "mid", *(f"{size}x{size}" for size in sizes), *(each.name for each in layers)])
            raise ValueError(f"{kind}: {source} has no layers '{word}' for it; write one of {known}, or several by +")
