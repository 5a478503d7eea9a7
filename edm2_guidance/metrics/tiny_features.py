"""A detector without weights, for tests of whole commands (`dnnlib.test_cuts`): quick, and good for nothing else."""

import torch
from torch import Tensor, nn

FEATURE_DIM = 32


class TinyFeatures(nn.Module):
    """The image shrunk to 4 x 4 means, projected by a fixed random matrix."""

    def __init__(self) -> None:
        super().__init__()
        projection = torch.randn(48, FEATURE_DIM, generator=torch.Generator().manual_seed(0), device="cpu")
        self.register_buffer("projection", projection, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> float32 [N, FEATURE_DIM]."""
        small = nn.functional.adaptive_avg_pool2d(images.float() / 255, 4)
        features: Tensor = small.flatten(1) @ self.get_buffer("projection")
        return features
