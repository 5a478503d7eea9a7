"""Inception-v3 as of 2015-12-05: the feature extractor that FID is defined by (Heusel et al. 2017, arXiv:1706.08500).

The graph is Szegedy et al. 2015 (arXiv:1512.00567) with 1008 outputs, and differs from the ImageNet model of the
same name in today's libraries in three places, each of which moves FID:

* average pools inside the blocks divide by the number of real pixels, not by 9, at the border;
* the pool branch of the last block, Mixed_7c, is a max pool;
* images are resized to 299x299 by TensorFlow 1's bilinear rule (`resize_tf1`) and scaled as (x - 128) / 128.

Parameter names are those of the published PyTorch weight file, so that its state dict loads unchanged.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_SIZE = 299
FEATURE_DIM = 2048
NUM_LOGITS = 1008
TAPS = ("64", "192", "spatial", "768", "2048", "logits_unbiased", "logits")
SPATIAL_CHANNELS = 7  # of 17 x 17: sFID's 2023 features

PoolKind = Literal["avg", "max", "max_stride2"]


class Conv(NamedTuple):
    """One convolution of a block: attribute name, output channels, kernel (height, width), stride."""

    name: str
    channels: int
    kernel: tuple[int, int]
    stride: int = 1


# A chain is applied in order; a tuple inside it is a fork, whose outputs are concatenated and end the chain.
Chain = tuple[Conv | tuple[Conv, ...], ...]


class ConvBlock(nn.Module):
    """Convolution without bias, batch normalisation with eps 1e-3 (running statistics), ReLU.

    [N, in_channels, H, W] -> [N, out_channels, H', W'], float32.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """One Inception block: parallel chains of convolutions and a pool branch, concatenated over channels.

    Convolutions of stride 1 keep the size, those of stride 2 have no padding. With `pool_channels` the pool is
    followed by a 1x1 convolution `branch_pool`; without, it passes its input's channels on.
    """

    def __init__(
        self, in_channels: int, chains: Sequence[Chain], pool: PoolKind, pool_channels: int | None = None
    ) -> None:
        super().__init__()
        self.chains = tuple(chains)
        self.pool_kind = pool
        self.out_channels = 0
        for chain in chains:
            channels = in_channels
            for step in chain:
                convs = (step,) if isinstance(step, Conv) else step
                for conv in convs:
                    self.add_module(conv.name, _make_conv(channels, conv))
                channels = sum(conv.channels for conv in convs)
            self.out_channels += channels
        self.branch_pool = None if pool_channels is None else ConvBlock(in_channels, pool_channels, (1, 1))
        self.out_channels += in_channels if pool_channels is None else pool_channels

    def forward(self, x: Tensor) -> Tensor:
        outputs = [self._run_chain(x, chain) for chain in self.chains]
        pooled = self._pool(x)
        outputs.append(pooled if self.branch_pool is None else self.branch_pool(pooled))
        return torch.cat(outputs, dim=1)

    def _run_chain(self, x: Tensor, chain: Chain) -> Tensor:
        for step in chain:
            if isinstance(step, Conv):
                x = self.get_submodule(step.name)(x)
            else:
                x = torch.cat([self.get_submodule(conv.name)(x) for conv in step], dim=1)
        return x

    def _pool(self, x: Tensor) -> Tensor:
        if self.pool_kind == "avg":
            return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        if self.pool_kind == "max":
            return F.max_pool2d(x, 3, stride=1, padding=1)
        return F.max_pool2d(x, 3, stride=2)


def _make_conv(in_channels: int, conv: Conv) -> ConvBlock:
    height, width = conv.kernel
    padding = (height // 2, width // 2) if conv.stride == 1 else (0, 0)
    return ConvBlock(in_channels, conv.channels, conv.kernel, conv.stride, padding)


def _block_35(in_channels: int, pool_channels: int) -> Mixed:
    chains: list[Chain] = [
        (Conv("branch1x1", 64, (1, 1)),),
        (Conv("branch5x5_1", 48, (1, 1)), Conv("branch5x5_2", 64, (5, 5))),
        (
            Conv("branch3x3dbl_1", 64, (1, 1)),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3)),
        ),
    ]
    return Mixed(in_channels, chains, "avg", pool_channels)


def _reduce_35_to_17(in_channels: int) -> Mixed:
    chains: list[Chain] = [
        (Conv("branch3x3", 384, (3, 3), stride=2),),
        (
            Conv("branch3x3dbl_1", 64, (1, 1)),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3), stride=2),
        ),
    ]
    return Mixed(in_channels, chains, "max_stride2")


def _block_17(in_channels: int, width: int) -> Mixed:
    chains: list[Chain] = [
        (Conv("branch1x1", 192, (1, 1)),),
        (
            Conv("branch7x7_1", width, (1, 1)),
            Conv("branch7x7_2", width, (1, 7)),
            Conv("branch7x7_3", 192, (7, 1)),
        ),
        (
            Conv("branch7x7dbl_1", width, (1, 1)),
            Conv("branch7x7dbl_2", width, (7, 1)),
            Conv("branch7x7dbl_3", width, (1, 7)),
            Conv("branch7x7dbl_4", width, (7, 1)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ),
    ]
    return Mixed(in_channels, chains, "avg", 192)


def _reduce_17_to_8(in_channels: int) -> Mixed:
    chains: list[Chain] = [
        (Conv("branch3x3_1", 192, (1, 1)), Conv("branch3x3_2", 320, (3, 3), stride=2)),
        (
            Conv("branch7x7x3_1", 192, (1, 1)),
            Conv("branch7x7x3_2", 192, (1, 7)),
            Conv("branch7x7x3_3", 192, (7, 1)),
            Conv("branch7x7x3_4", 192, (3, 3), stride=2),
        ),
    ]
    return Mixed(in_channels, chains, "max_stride2")


def _block_8(in_channels: int, pool: PoolKind) -> Mixed:
    chains: list[Chain] = [
        (Conv("branch1x1", 320, (1, 1)),),
        (
            Conv("branch3x3_1", 384, (1, 1)),
            (Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1))),
        ),
        (
            Conv("branch3x3dbl_1", 448, (1, 1)),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            (Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
        ),
    ]
    return Mixed(in_channels, chains, pool, 192)


class InceptionV3(nn.Module):
    """The 2015-12-05 network with its own resize. Use in eval mode: batch normalisation by running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvBlock(3, 32, (3, 3), stride=2)
        self.Conv2d_2a_3x3 = ConvBlock(32, 32, (3, 3))
        self.Conv2d_2b_3x3 = ConvBlock(32, 64, (3, 3), padding=(1, 1))
        self.Conv2d_3b_1x1 = ConvBlock(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = ConvBlock(80, 192, (3, 3))
        self.Mixed_5b = _block_35(192, 32)
        self.Mixed_5c = _block_35(256, 64)
        self.Mixed_5d = _block_35(288, 64)
        self.Mixed_6a = _reduce_35_to_17(288)
        self.Mixed_6b = _block_17(768, 128)
        self.Mixed_6c = _block_17(768, 160)
        self.Mixed_6d = _block_17(768, 160)
        self.Mixed_6e = _block_17(768, 192)
        self.Mixed_7a = _reduce_17_to_8(768)
        self.Mixed_7b = _block_8(1280, "avg")
        self.Mixed_7c = _block_8(2048, "max")
        self.fc = nn.Linear(FEATURE_DIM, NUM_LOGITS)

    def forward(self, images: Tensor) -> Tensor:
        """Features of FID. images: uint8 [N, 3, H, W], any H and W -> float32 [N, 2048]."""
        return self._pooled(images)["2048"]

    def taps(self, images: Tensor) -> dict[str, Tensor]:
        """Every feature map in use for FID and its variants, in one pass.

        images: uint8 [N, 3, H, W]. Returns float32 [N, ...]: "64" (first max pool), "192" (second), "768" (Mixed_6e)
        and "2048" (Mixed_7c), each averaged over the image; "spatial" [N, 2023], of sFID: the first 7 channels of
        Mixed_6d's 1x1 branch, row by row of the image, the channels of a place together (guided-diffusion);
        "logits_unbiased" [N, 1008], the class scores without the bias, which the Inception Score of the original
        program uses; "logits" with it.
        """
        taps = self._pooled(images, spatial=True)
        taps["logits_unbiased"] = F.linear(taps["2048"], self.fc.weight)
        taps["logits"] = taps["logits_unbiased"] + self.fc.bias
        return taps

    def _pooled(self, images: Tensor, *, spatial: bool = False) -> dict[str, Tensor]:
        """The taps that are feature maps averaged over the image, and the spatial one, if asked for."""
        x = resize_tf1(images.to(torch.float32), IMAGE_SIZE)
        x = (x - 128) / 128
        taps: dict[str, Tensor] = {}
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        taps["64"] = x.mean(dim=(2, 3))
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        taps["192"] = x.mean(dim=(2, 3))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6c(self.Mixed_6b(x))
        if spatial:
            places = self.Mixed_6d.get_submodule("branch1x1")(x)[:, :SPATIAL_CHANNELS]
            taps["spatial"] = places.permute(0, 2, 3, 1).flatten(1)
        x = self.Mixed_6e(self.Mixed_6d(x))
        taps["768"] = x.mean(dim=(2, 3))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        taps["2048"] = x.mean(dim=(2, 3))
        return taps


def resize_tf1(images: Tensor, size: int) -> Tensor:
    """TensorFlow 1's bilinear resize (its `align_corners=False`): no half-pixel offset, no antialiasing.

    Output pixel i reads the source at i * in / out: a blend of floor(that) and the next pixel, clamped to the last.
    images: float32 [N, C, H, W] -> float32 [N, C, size, size], in the input's units.
    """
    images = _resize_axis(images, size, dim=3)
    return _resize_axis(images, size, dim=2)


def _resize_axis(images: Tensor, size: int, dim: int) -> Tensor:
    source_size = images.shape[dim]
    if source_size == size:
        return images
    # Positions in float64 on the CPU: MPS has none, and float32 would round some of them across a pixel boundary.
    position = torch.arange(size, dtype=torch.float64) * source_size / size
    low = position.floor().to(torch.int64)
    high = (low + 1).clamp(max=source_size - 1)
    shape = [1, 1, 1, 1]
    shape[dim] = size
    fraction = (position - low).to(images.dtype).reshape(shape).to(images.device)
    low_pixels = images.index_select(dim, low.to(images.device))
    high_pixels = images.index_select(dim, high.to(images.device))
    return low_pixels + (high_pixels - low_pixels) * fraction
