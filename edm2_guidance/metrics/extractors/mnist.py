"""The digit classifier that ships here, whose features `fd_mnist` compares; the network is in `networks/mnist.py`."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dnnlib.places import EMBEDDED
from edm2_guidance.metrics.extractors.base import Extractor, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Mnist(Extractor):
    """The classifier of 16x16 digits that ships here, its last hidden layer."""

    kind = "mnist"
    source = "edm2_guidance/pretrained"
    stored_as = "fd_mnist"
    features = {"pool": 64, "logits": 10}  # noqa: RUF012
    weights = Weights(str(EMBEDDED / "mnist16-detector.safetensors"))
    image_size = 16
    small = True
    reference = "mnist16-refs"

    def build(self) -> "nn.Module":
        from edm2_guidance.metrics.extractors.networks.mnist import DigitClassifier

        return DigitClassifier()

    def run(self, net: Any, images: "Tensor", wanted: Collection[str]) -> "Mapping[str, Tensor]":
        found: Tensor = net(images)
        return {"pool": found, "logits": net.scores(found)} if "logits" in wanted else {"pool": found}

    def last_map(self, net: Any, images: "Tensor") -> "Tensor":
        found: Tensor = net.last_map(images)
        return found

    def pooled(self, net: Any, last_map: "Tensor") -> "Tensor":
        found: Tensor = net.standardise(net.hidden_of(last_map))
        return found
