"""DINOv2 ViT-L/14, whose features FD-DINOv2 compares; the network is in `networks/dinov2.py`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edm2_guidance.metrics.extractors.base import Extractor, Weights
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class DinoV2(Extractor):
    """DINOv2 ViT-L/14, the class token, images resized to 224x224 by a bicubic rule."""

    kind = "dinov2"
    source = "arXiv 2304.07193"
    stored_as = "fd_dinov2"
    features = {"pool": 1024}  # noqa: RUF012
    weights = Weights(
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        num_bytes=1_217_586_395,
    )

    resize: Literal["torch", "pil"] = option(
        "torch", "torch: as EDM2 and the guidance papers; pil: as the paper that introduced FD-DINOv2"
    )

    @property
    def resized(self) -> str:
        return self.resize

    def build(self) -> "nn.Module":
        from edm2_guidance.metrics.extractors.networks.dinov2 import DinoV2 as Network

        return Network(resize=self.resize)
