"""The networks of ADM (arXiv 2105.05233): U-Net, super-resolution U-Net, and the classifier of noisy images.

Parameter names are those of the published files. All take images that the forward process made, of variance near 1
(x_VP = sqrt(alpha bar) image + sqrt(1 - alpha bar) noise), and the timestep t in 0..999, which may lie between two.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from edm2_guidance.recipe.perturbation import Attention, Layer, Perturbation
from edm2_guidance.recipe.timesteps import Betas

NORM_EPS = 1e-5
MAX_PERIOD = 10_000  # of the timestep's embedding

Order = Literal["legacy", "new"]


@dataclass(frozen=True)
class Architecture:
    """What decides the names and shapes of all parameters, and how attention reads its channels.

    Attributes:
        role: A denoiser, one that sees a small image too, or a classifier of noisy images.
        image_size: Width and height in pixels.
        width: Channels of a level of multiplier 1; a fourth of the embedding's.
        mult: Multiplier of each level, the finest first.
        blocks: Residual blocks per level.
        classes: Classes it knows; 0 = unconditional.
        heads: Heads of every attention block; None = as many as have `head_width` channels each.
        head_width: See heads.
        order: How the channels of queries, keys and values lie: "legacy", head by head; "new", all queries first.
        attention: The resolutions that have attention blocks, in pixels.
        groups: Of every normalisation.
        betas: The noise schedule that it was trained on.
        float16: Whether it is sampled with a torso in float16, on CUDA.
    """

    role: Literal["denoiser", "upsampler", "classifier"]
    image_size: int
    width: int
    mult: tuple[float, ...]
    blocks: int
    classes: int
    heads: int | None = None
    head_width: int = 64
    order: Order = "legacy"
    attention: tuple[int, ...] = (32, 16, 8)
    groups: int = 32
    betas: Betas = "linear"
    float16: bool = False

    def channels(self, level: int) -> int:
        return int(self.mult[level] * self.width)

    @property
    def inputs(self) -> int:
        """Channels of what comes in."""
        return 6 if self.role == "upsampler" else 3

    def heads_of(self, channels: int) -> int:
        heads = self.heads if self.heads is not None else channels // self.head_width
        if heads < 1 or channels % heads:
            raise ValueError(f"{channels} channels cannot be those of {heads} heads")
        return heads

    def build(self) -> "UNet | Classifier":
        return Classifier(self) if self.role == "classifier" else UNet(self)

    def empty(self) -> "UNet | Classifier":
        """Such a network, whose tensors have shapes but no memory."""
        with torch.device("meta"), _WithoutValues():
            return self.build()


class _WithoutValues(TorchFunctionMode):
    """Leaves out initial values: on the meta device, torch imports its compiler for these, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return None if getattr(func, "__module__", "") == nn.init.__name__ else func(*args, **(kwargs or {}))


class Norm(nn.GroupNorm):
    """Evaluated in the type of its weights, float32, whatever the activations are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip, with the embedding as scale and shift of the second normalisation.

    resize: of both branches, after the first activation.
    """

    def __init__(
        self, arch: Architecture, inputs: int, outputs: int, resize: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.resize = resize
        self.in_layers = nn.Sequential(
            Norm(arch.groups, inputs, NORM_EPS), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * arch.width, 2 * outputs))
        self.out_layers = nn.Sequential(
            Norm(arch.groups, outputs, NORM_EPS),
            nn.SiLU(),
            nn.Identity(),  # dropout, when the published networks were trained
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x [N,C,H,W], embedding [N, 4 width]."""
        h = self.in_layers[:2](x)
        if self.resize is not None:
            x, h = self.resize(x), self.resize(h)
        h = self.in_layers[2](h)
        scale, shift = self.emb_layers(embedding).to(h.dtype)[:, :, None, None].chunk(2, dim=1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        made: Tensor = self.skip_connection(x) + self.out_layers[1:](h)
        return made


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, beside a skip. size: width and height of its images."""

    layer: Layer | None = None  # of a network whose attention may be perturbed

    def __init__(self, arch: Architecture, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.heads, self.order = arch.heads_of(channels), arch.order
        self.norm = Norm(arch.groups, channels, NORM_EPS)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, perturbation: Perturbation | None = None) -> Tensor:
        by = None
        if perturbation is not None and self.layer is not None and perturbation.at(self.layer):
            by = perturbation.attention
        made: Tensor = self.proj_out(attend(self.qkv(self.norm(x.flatten(2))), self.heads, self.order, by))
        return x + made.reshape(x.shape)


def attend(qkv: Tensor, heads: int, order: Order, by: Attention | None = None) -> Tensor:
    """Attention over T tokens: queries, keys and values [N, 3C, T], in one of two orders -> [N, C, T].

    by: in the place of softmax attention.
    """
    batch, width, tokens = qkv.shape
    channels = width // (3 * heads)
    if order == "legacy":
        query, key, value = qkv.reshape(batch, heads, 3, channels, tokens).unbind(2)
    else:
        query, key, value = qkv.reshape(batch, 3, heads, channels, tokens).unbind(1)
    attended = (by or F.scaled_dot_product_attention)(query.mT, key.mT, value.mT)
    return attended.mT.reshape(batch, -1, tokens)


class Stage(nn.Sequential):
    """Layers in turn, those that are residual blocks with the embedding, attention with what perturbs it."""

    def forward(  # type: ignore[override]
        self, x: Tensor, embedding: Tensor, perturbation: Perturbation | None = None
    ) -> Tensor:
        for layer in self:
            if isinstance(layer, AttentionBlock):
                x = layer(x, perturbation)
            else:
                x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
        return x


class Encoder(nn.Module):
    """What U-Net and classifier share: the way down, and the middle."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        embedding = 4 * arch.width
        self.time_embed = nn.Sequential(nn.Linear(arch.width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        stages = list(_way_down(arch))
        self.input_blocks = nn.ModuleList(stage for stage, _ in stages)
        self.skips = [channels for _, channels in stages]
        width = self.skips[-1]
        self.middle_block = Stage(
            ResidualBlock(arch, width, width),
            AttentionBlock(arch, width, arch.image_size >> (len(arch.mult) - 1)),
            ResidualBlock(arch, width, width),
        )

    @property
    def torso(self) -> list[nn.Module]:
        """The modules whose convolutions are float16 where that is asked for."""
        return [self.input_blocks, self.middle_block]

    def use_float16(self) -> None:
        """As published: convolutions inside and activations between blocks in float16; all else stays float32."""
        for part in self.torso:
            for module in part.modules():
                if isinstance(module, nn.Conv1d | nn.Conv2d):
                    module.half()

    def zero_branches(self) -> None:
        """As before training: every block adds nothing to its skip, and a U-Net predicts zero."""
        for module in self.modules():
            last = module.out_layers[-1] if isinstance(module, ResidualBlock) else getattr(module, "proj_out", None)
            for weights in () if last is None else last.parameters():
                nn.init.zeros_(weights)

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations between blocks."""
        return next(self.input_blocks.parameters()).dtype

    def embedded(self, t: Tensor) -> Tensor:
        """Of timesteps [N]: [N, 4 width]."""
        waves = timestep_embedding(t, self.arch.width)
        made: Tensor = self.time_embed(waves.to(next(self.time_embed.parameters()).dtype))
        return made

    def way_down(self, x: Tensor, embedding: Tensor, perturbation: Perturbation | None = None) -> list[Tensor]:
        """What each input block makes of x, and last what the middle makes of the last."""
        made = [x.to(self.dtype)]
        for stage in (*self.input_blocks, self.middle_block):
            made.append(stage(made[-1], embedding, perturbation))
        return made[1:]


def _way_down(arch: Architecture) -> Iterator[tuple[Stage, int]]:
    """The input blocks with their numbers of channels."""
    channels, size = arch.channels(0), arch.image_size
    yield Stage(nn.Conv2d(arch.inputs, channels, 3, padding=1)), channels
    for level in range(len(arch.mult)):
        for _ in range(arch.blocks):
            yield _stage(arch, channels, level, size), arch.channels(level)
            channels = arch.channels(level)
        if level < len(arch.mult) - 1:
            yield Stage(ResidualBlock(arch, channels, channels, halved)), channels
            size //= 2


def _stage(arch: Architecture, inputs: int, level: int, size: int) -> Stage:
    """A residual block to this level's channels, with attention where this size has it."""
    outputs = arch.channels(level)
    stage = Stage(ResidualBlock(arch, inputs, outputs))
    if size in arch.attention:
        stage.append(AttentionBlock(arch, outputs, size))
    return stage


class UNet(Encoder):
    """Predicts the noise in an image, and the variance of a sampler's noise."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__(arch)
        if arch.classes:
            self.label_emb = nn.Embedding(arch.classes, 4 * arch.width)
        self.output_blocks = nn.ModuleList(_way_up(arch, list(self.skips)))
        finest = arch.channels(0)
        self.out = nn.Sequential(Norm(arch.groups, finest, NORM_EPS), nn.SiLU(), nn.Conv2d(finest, 6, 3, padding=1))
        self.layers = _named(self)

    def zero_branches(self) -> None:
        super().zero_branches()
        for weights in self.out[-1].parameters():
            nn.init.zeros_(weights)

    @property
    def torso(self) -> list[nn.Module]:
        return [*super().torso, self.output_blocks]

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        low_res: Tensor | None = None,
        perturbation: Perturbation | None = None,
    ) -> Tensor:
        """The noise, channels 0 to 2, and the code v of the variance, 3 to 5; float32 [N,6,H,W].

        x: float32 [N,3,H,W] of variance near 1. t: timesteps [N]. y: labels one-hot, float32 [N, classes], of a
        conditional network. low_res: an upsampler's smaller image in [-1, 1], float32 [N,3,h,w]. perturbation: of its
        attention.
        """
        embedding = self.embedded(t)
        if y is not None:
            embedding = embedding + y @ self.label_emb.weight
        if low_res is not None:
            x = torch.cat([x, F.interpolate(low_res, x.shape[2:], mode="bilinear", align_corners=False)], dim=1)
        *skips, h = self.way_down(x, embedding, perturbation)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), embedding, perturbation)
        made: Tensor = self.out(h.to(x.dtype))
        return made


def _named(net: UNet) -> list[Layer]:
    """The attention blocks, which learn who they are."""
    sides: dict[str, Literal["encoder", "middle", "decoder"]] = {
        "input_blocks": "encoder", "middle_block": "middle", "output_blocks": "decoder"
    }  # fmt: skip
    smallest = net.arch.image_size >> (len(net.arch.mult) - 1)
    layers: list[Layer] = []
    for name, block in net.named_modules():
        if isinstance(block, AttentionBlock):
            side = sides[name.split(".")[0]]
            index = sum(layer.side == side for layer in layers)
            block.layer = Layer(name, side, index, block.size, block.size == smallest, attends=True)
            layers.append(block.layer)
    return layers


def _way_up(arch: Architecture, skips: list[int]) -> Iterator[Stage]:
    """The output blocks. skips: channels of the input blocks, which come back last first."""
    channels, size = skips[-1], arch.image_size >> (len(arch.mult) - 1)
    for level in reversed(range(len(arch.mult))):
        for left in reversed(range(arch.blocks + 1)):
            stage = _stage(arch, channels + skips.pop(), level, size)
            channels = arch.channels(level)
            if level > 0 and left == 0:
                stage.append(ResidualBlock(arch, channels, channels, doubled))
                size *= 2
            yield stage


class Classifier(Encoder):
    """Scores classes of noisy images."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__(arch)
        width = self.skips[-1]
        tokens = (arch.image_size >> (len(arch.mult) - 1)) ** 2
        self.out = nn.Sequential(Norm(arch.groups, width, NORM_EPS), nn.SiLU(), AttentionPool(arch, width, tokens))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Scores before the softmax, float32 [N, classes]. x: float32 [N,3,H,W] of variance near 1. t: [N]."""
        scores: Tensor = self.out(self.way_down(x, self.embedded(t))[-1].to(x.dtype))
        return scores


class AttentionPool(nn.Module):
    """All pixels to one vector: their mean, in front of them as a token, after attention in the new order."""

    def __init__(self, arch: Architecture, width: int, tokens: int) -> None:
        super().__init__()
        self.heads = arch.heads_of(width)
        self.positional_embedding = nn.Parameter(torch.empty(width, tokens + 1))
        nn.init.normal_(self.positional_embedding, std=1 / math.sqrt(width))
        self.qkv_proj = nn.Conv1d(width, 3 * width, 1)
        self.c_proj = nn.Conv1d(width, arch.classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N, classes]."""
        x = x.flatten(2)
        x = torch.cat([x.mean(dim=2, keepdim=True), x], dim=2) + self.positional_embedding
        scores: Tensor = self.c_proj(attend(self.qkv_proj(x), self.heads, "new"))
        return scores[:, :, 0]


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Timesteps [N], whole or not, as cosines and then sines of falling frequency: float32 [N, width]."""
    half = width // 2
    frequencies = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def halved(x: Tensor) -> Tensor:
    """Means of 2x2: [N,C,H,W] -> [N,C,H/2,W/2]."""
    return F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    """Each pixel as 2x2 of it: [N,C,H,W] -> [N,C,2H,2W]."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
