"""What an extractor is: images in, features out. The classes are read without torch; the networks need it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Weights:
    """Where the weights of a network are.

    source: path or URL. sha256: of the file; None for one that ships here. mirrors: further URLs of
    the same file. num_bytes: what is downloaded, 0 for what ships here.
    """

    source: str
    sha256: str | None = None
    mirrors: tuple[str, ...] = ()
    num_bytes: int = 0


@dataclass(frozen=True)
class Extractor(Spec):
    """Base of all feature extractors.

    Attributes:
        stored_as: The name of the features "pool" in statistics files, shards and identities, and of the weights in
            EDM2_<NAME>_WEIGHTS: that of their Frechet distance, which is how all these began.
        features: Numbers D of what it gives, by name; "pool" is what distances compare.
        weights: Where they are.
        image_size: The one size of images it takes; None for any.
        small: Whether the network is so small that more than one thread slows it down.
        reference: The name of statistics of it that ship here; None for none.
    """

    axis = "extractor"
    stored_as: ClassVar[str]
    features: ClassVar[Mapping[str, int]]
    weights: ClassVar[Weights]
    image_size: ClassVar[int | None] = None
    small: ClassVar[bool] = False
    reference: ClassVar[str | None] = None

    @property
    def resized(self) -> str:
        """How images are resized, as identities and ledgers say it: each way gives numbers of its own."""
        return "none"

    def stored(self, features: str) -> str:
        """The name in files of those of its features."""
        return self.stored_as if features == "pool" else f"{self.stored_as}_{features}"

    @property
    def weights_variable(self) -> str:
        """Environment variable that names a local weight file."""
        return f"EDM2_{self.stored_as.upper()}_WEIGHTS"

    def build(self) -> "nn.Module":
        """The network, without its weights: uint8 [N, 3, H, W] -> float32 [N, D] of "pool". It resizes inside."""
        raise NotImplementedError

    def run(self, net: "nn.Module", images: "Tensor", wanted: Collection[str]) -> "Mapping[str, Tensor]":
        """Those of its features that are wanted, by name, float32 [N, D], by its network; it may give more."""
        return {"pool": net(images)}

    def last_map(self, net: "nn.Module", images: "Tensor") -> "Tensor | None":
        """The last activations of its network that know places, float32 [N, C, h, w], before these are pooled.

        None: it has none that "pool" alone is made of.
        """
        return None

    def pooled(self, net: "nn.Module", last_map: "Tensor") -> "Tensor":
        """Its "pool", [N, D], of these activations; gradients pass."""
        raise NotImplementedError
