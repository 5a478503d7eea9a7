"""Inception-v3 of 2015-12-05, whose features FID, sFID and the Inception Score are of; `networks/inception.py` has it.

pool      the last pooled layer: FID
spatial   7 channels of an inner layer at each of its 17x17 places: sFID (arXiv 2103.03841), as guided-diffusion
logits    scores of 1008 classes, without the bias: Inception Score
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edm2_guidance.metrics.extractors.base import Extractor, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Inception(Extractor):
    """Inception-v3 as of 2015-12-05, the last pooled layer, images resized to 299x299 as TensorFlow 1 does."""

    kind = "inception"
    source = "arXiv 1706.08500"
    stored_as = "fid"
    features = {"pool": 2048, "spatial": 2023, "logits": 1008}  # noqa: RUF012
    weights = Weights(
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        mirrors=(
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
            "pt_inception-2015-12-05-6726825d.pth",
        ),
        num_bytes=95_628_359,
    )

    @property
    def resized(self) -> str:
        return "tf1-bilinear-299"

    def build(self) -> "nn.Module":
        from edm2_guidance.metrics.extractors.networks.inception import InceptionV3

        return InceptionV3()

    def stored(self, features: str) -> str:
        return "sfid" if features == "spatial" else super().stored(features)

    def run(self, net: Any, images: "Tensor", wanted: Collection[str]) -> "Mapping[str, Tensor]":
        if set(wanted) == {"pool"}:
            return super().run(net, images, wanted)
        taps = net.taps(images)
        return {"pool": taps["2048"], "spatial": taps["spatial"], "logits": taps["logits_unbiased"]}

    def last_map(self, net: Any, images: "Tensor") -> "Tensor":
        """The last mixed block, [N, 2048, 8, 8]."""
        found: list[Tensor] = []
        with net.Mixed_7c.register_forward_hook(lambda module, inputs, output: found.append(output)):
            net(images)
        return found[0]

    def pooled(self, net: Any, last_map: "Tensor") -> "Tensor":
        return last_map.mean(dim=(2, 3))
