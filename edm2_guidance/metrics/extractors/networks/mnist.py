"""A small classifier of 16x16 handwritten digits: the detector of `fd_mnist`, the metric of the embedded networks.

Its features are the 64 inputs of the last hidden activation (before the ReLU), standardised so that each has mean 0
and variance 1 over the training images. Before the ReLU they are close to Gaussian around each class, which is what
a Frechet distance compares, and react more to blur and distortion than after it; the scale gives every feature the
same weight. `fd_mnist` is a metric of its own: its numbers are not FIDs.

Trained by `pretrained/train_detector.py`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_SIZE = 16
FEATURE_DIM = 64
NUM_CLASSES = 10


class DigitClassifier(nn.Module):
    """Three convolutions and two linear layers, 71 thousand parameters; use in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 32, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 48, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(48)
        self.hidden = nn.Linear(48 * (IMAGE_SIZE // 4) ** 2, FEATURE_DIM, bias=False)
        self.standardise = nn.BatchNorm1d(FEATURE_DIM, affine=False)
        self.classify = nn.Linear(FEATURE_DIM, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Features. images: uint8 [N, 3, 16, 16] -> float32 [N, 64]. ValueError for another size."""
        return self.standardise(self.hidden_inputs(images))

    def logits(self, images: Tensor) -> Tensor:
        """Class scores. images: uint8 [N, 3, 16, 16] -> float32 [N, 10]. ValueError for another size."""
        return self.scores(self(images))

    def scores(self, features: Tensor) -> Tensor:
        """Class scores of features, [N, 64] -> [N, 10]."""
        return self.classify(F.relu(features))

    def hidden_inputs(self, images: Tensor) -> Tensor:
        """Features before they are standardised. images: uint8 [N, 3, 16, 16] -> float32 [N, 64]."""
        return self.hidden_of(self.last_map(images))

    def last_map(self, images: Tensor) -> Tensor:
        """The last activations that know places. images: uint8 [N, 3, 16, 16] -> float32 [N, 48, 8, 8], 0 or more."""
        x = grey(images)
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        return F.relu(self.norm3(self.conv3(x)))

    def hidden_of(self, last_map: Tensor) -> Tensor:
        """`hidden_inputs` of a `last_map`."""
        return self.hidden(F.max_pool2d(last_map, 2).flatten(1))


def grey(images: Tensor) -> Tensor:
    """Mean over the channels, in [0, 1]: digits are grey, and networks for RGB give nearly equal channels.

    uint8 [N, 3, 16, 16] -> float32 [N, 1, 16, 16]. ValueError for another size: this detector never resizes.
    """
    height, width = images.shape[-2:]
    if (height, width) != (IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(f"digits are classified at 16x16 pixels, these images are {width}x{height}")
    return images.to(torch.float32).mean(dim=1, keepdim=True) / 255
