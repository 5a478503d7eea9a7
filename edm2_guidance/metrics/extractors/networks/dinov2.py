"""DINOv2 vision transformer (Oquab et al. 2023, arXiv:2304.07193), ViT-L/14 by default: the features of FD-DINOv2.

FD-DINOv2 (Stein et al. 2023, arXiv:2306.04675) is the Frechet distance of the class token after the last layer norm,
of images resized to 224x224. Parameter names are those of the published weight file.

Two resizes are in use, and they give slightly different numbers, so results say which one was taken:
"torch", bicubic with antialiasing on floats without rounding or clipping, as EDM2 and the guidance papers score;
"pil", Pillow's bicubic on 8-bit pixels, as in the paper that introduced the metric.
"""

from typing import Literal

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_SIZE = 224
PATCH_SIZE = 14
FEATURE_DIM = 1024

# Statistics of ImageNet in RGB order, for pixels in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The published networks were run with this many patches added to the target grid when the position table is
# interpolated; the sampling step, hence every feature, depends on it.
INTERPOLATION_OFFSET = 0.1

ResizeMode = Literal["torch", "pil"]


class PatchEmbed(nn.Module):
    """Cuts the image into patches and projects each: [N, 3, H, W] -> [N, H/14 * W/14, embed_dim]."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, PATCH_SIZE, PATCH_SIZE)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention over tokens [N, T, embed_dim]; queries, keys and values from one projection."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).reshape(batch, tokens, width))


class MLP(nn.Module):
    """Two linear layers with an exact (erf) GELU between; four times as wide inside."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, 4 * embed_dim)
        self.fc2 = nn.Linear(4 * embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """Learned gain per channel on a residual branch."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(embed_dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = Attention(embed_dim, num_heads)
        self.ls1 = LayerScale(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = MLP(embed_dim)
        self.ls2 = LayerScale(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class DinoV2(nn.Module):
    """DINOv2 without registers. The defaults are ViT-L/14 as published (304,368,640 parameters).

    embed_dim: channels; depth: blocks; num_heads: attention heads; grid: side of the position table, in patches
    (37 for the 518-pixel training size); resize: how images become 224x224, see the module docstring.
    """

    def __init__(
        self,
        embed_dim: int = FEATURE_DIM,
        depth: int = 24,
        num_heads: int = 16,
        grid: int = 37,
        resize: ResizeMode = "torch",
    ) -> None:
        super().__init__()
        if resize not in ("torch", "pil"):
            raise ValueError(f"resize mode {resize!r} is not known: use 'torch' or 'pil'")
        self.grid = grid
        self.resize = resize
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, embed_dim))
        self.mask_token = nn.Parameter(torch.zeros(1, embed_dim))  # for pre-training only, but in the weight file
        self.patch_embed = PatchEmbed(embed_dim)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """Class-token features. images: uint8 [N, 3, H, W], any H and W -> float32 [N, embed_dim]."""
        return self.embed(preprocess(images, self.resize))

    def embed(self, pixels: Tensor) -> Tensor:
        """pixels: float32 [N, 3, H, W], ImageNet-normalised, H and W multiples of 14 -> float32 [N, embed_dim]."""
        rows, columns = pixels.shape[2] // PATCH_SIZE, pixels.shape[3] // PATCH_SIZE
        x = self.patch_embed(pixels)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + self._positions(rows, columns)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Position table for a grid of rows x columns patches: [1, 1 + rows * columns, embed_dim]."""
        if (rows, columns) == (self.grid, self.grid):
            return self.pos_embed
        width = self.pos_embed.shape[2]
        table = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, width).permute(0, 3, 1, 2)
        # By scale factor, not by size: torch then samples at the factor's step (37/16.1), as the published network.
        factors = ((rows + INTERPOLATION_OFFSET) / self.grid, (columns + INTERPOLATION_OFFSET) / self.grid)
        table = F.interpolate(table, scale_factor=factors, mode="bicubic", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], table.flatten(2).transpose(1, 2)], dim=1)


def preprocess(images: Tensor, resize: ResizeMode) -> Tensor:
    """Resizes to 224x224 (aspect not kept) and normalises. uint8 [N, 3, H, W] -> float32 [N, 3, 224, 224]."""
    pixels = _resize_pil(images) if resize == "pil" else _resize_torch(images)
    mean = torch.tensor(IMAGENET_MEAN, device=pixels.device).reshape(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=pixels.device).reshape(1, 3, 1, 1)
    return (pixels / 255 - mean) / std


def _resize_torch(images: Tensor) -> Tensor:
    """torch's antialiased bicubic, unrounded and unclipped. uint8 [N, 3, H, W] -> float32 [N, 3, 224, 224]."""
    # On the CPU for MPS, where older versions of torch do not have this operator.
    source = images.cpu() if images.device.type == "mps" else images
    size = (IMAGE_SIZE, IMAGE_SIZE)
    pixels = F.interpolate(source.float(), size=size, mode="bicubic", align_corners=False, antialias=True)
    return pixels.to(images.device)


def _resize_pil(images: Tensor) -> Tensor:
    """Pillow's bicubic in 8 bits, image by image on the CPU. uint8 [N, 3, H, W] -> float32 [N, 3, 224, 224]."""
    resized = []
    for image in images.permute(0, 2, 3, 1).cpu().numpy():
        picture = PIL.Image.fromarray(image)
        picture = picture.resize((IMAGE_SIZE, IMAGE_SIZE), PIL.Image.Resampling.BICUBIC)
        resized.append(np.asarray(picture, dtype=np.float32))
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(images.device)
