"""An autoencoder of 16x16 handwritten digits: a second opinion on digits, which knows nothing of classes.

It is trained to draw digits again from 8 numbers, so tightly that it must know how digits look. Its features are these
8, and how far the drawing misses the image: the logarithm of the mean absolute difference in each of 4x4 blocks. The
code tells what is drawn, the differences where it is drawn as no digit is. All are standardised over the training
images.

Trained by `pretrained/train_autoencoder.py`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dnnlib.places import EMBEDDED
from edm2_guidance.metrics.extractors.base import Extractor, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

CODE_DIM, HIDDEN = 8, 96
PIXELS, BLOCKS = 16 * 16, 4 * 4


@dataclass(frozen=True)
class MnistAutoencoder(Extractor):
    """The autoencoder of 16x16 digits that ships here: its code, and what it fails to draw."""

    kind = "mnist-ae"
    source = "edm2_guidance/pretrained"
    stored_as = "fd_mnist_ae"
    features = {"pool": CODE_DIM + BLOCKS}  # noqa: RUF012
    weights = Weights(str(EMBEDDED / "mnist16-ae.safetensors"))
    image_size = 16
    small = True
    reference = "mnist16-ae-refs"

    def build(self) -> "nn.Module":
        """Of modules `encoder`, `decoder` (grey digits [N, 1, 16, 16] in [0, 1] to codes [N, 8] and back) and
        `standardise`."""
        import torch
        from torch import nn

        from edm2_guidance.metrics.extractors.networks.mnist import grey

        class DigitAutoencoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.encoder = nn.Sequential(nn.Flatten(), *_layers(PIXELS, CODE_DIM))
                self.decoder = nn.Sequential(*_layers(CODE_DIM, PIXELS), nn.Unflatten(1, (1, 16, 16)))
                self.standardise = nn.BatchNorm1d(CODE_DIM + BLOCKS, affine=False)

            def raw(self, images: "Tensor") -> "Tensor":
                """Features before they are standardised."""
                x = grey(images)
                code = self.encoder(x)
                missed = nn.functional.avg_pool2d((x - self.decoder(code)).abs(), 4).flatten(1)
                return torch.cat([code, (missed + 1e-3).log()], dim=1)  # 1e-3: a quarter of a grey level

            def forward(self, images: "Tensor") -> "Tensor":
                features: Tensor = self.standardise(self.raw(images))
                return features

        return DigitAutoencoder()


def _layers(inputs: int, outputs: int) -> "list[nn.Module]":
    from torch import nn

    return [
        nn.Linear(inputs, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, outputs),
    ]
