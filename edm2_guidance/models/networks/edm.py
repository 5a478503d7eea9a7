"""The networks of EDM (arXiv 2206.00364): three U-Nets, DDPM++, NCSN++ and ADM, and four preconditioners.

Names of classes, attributes and tensors are those in the published files, where `models.edm_files` compares them. What
only training does, dropout and augmentation, is not here: at sampling augmentation labels are zero and add nothing.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from edm2_guidance.recipe.perturbation import Attention, Layer, Perturbation

MAX_POSITIONS = 10_000


@dataclass(frozen=True)
class Architecture:
    """What decides the names and shapes of all tensors. Field names are those of the constructors in the files.

    Attributes:
        kind: `SongUNet` is DDPM++ and NCSN++, `DhariwalUNet` ADM.
        in_channels, out_channels: Of the U-Net, whose output may be more than an image.
        label_dim, augment_dim: Widths of what conditions it; 0 = not at all.
        model_channels: Channels at multiplier 1.
        channel_mult: Multiplier of each level, the finest first.
        channel_mult_emb, channel_mult_noise: Widths of the embedding and of the noise level's waves, in the same.
        num_blocks: Per level.
        attn_resolutions: The sizes that have attention, in pixels.
        dropout, label_dropout: In training.
        embedding_type, encoder_type, decoder_type, resample_filter: Of a `SongUNet`.
    """

    kind: Literal["SongUNet", "DhariwalUNet"]
    img_resolution: int
    in_channels: int
    out_channels: int
    label_dim: int = 0
    augment_dim: int = 0
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    channel_mult_emb: int = 4
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.10
    label_dropout: float = 0
    embedding_type: Literal["positional", "fourier"] = "positional"
    channel_mult_noise: int = 1
    encoder_type: Literal["standard", "skip", "residual"] = "standard"
    decoder_type: Literal["standard", "skip"] = "standard"
    resample_filter: tuple[int, ...] = (1, 1)

    def __post_init__(self) -> None:
        if self.img_resolution % 2 ** (len(self.channel_mult) - 1):
            raise ValueError(f"{self.img_resolution} pixels cannot be halved {len(self.channel_mult) - 1} times")

    @property
    def sizes(self) -> list[int]:
        """Width and height at each level, the finest first."""
        return [self.img_resolution >> level for level in range(len(self.channel_mult))]

    @property
    def emb_channels(self) -> int:
        return self.model_channels * self.channel_mult_emb

    @property
    def noise_channels(self) -> int:
        return self.model_channels * self.channel_mult_noise

    def width(self, level: int) -> int:
        return self.model_channels * self.channel_mult[level]


class ShapesOnly(TorchFunctionMode):
    """On the meta device, leaves out initial values, for which torch imports its compiler: seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return None if getattr(func, "__module__", "") == nn.init.__name__ else func(*args, **(kwargs or {}))


# ----------------------------------------------------------------------------
# Layers.


def resampling_kernel(taps: Sequence[float]) -> Tensor:
    """outer(taps, taps) / (sum of taps)^2, float32 [1, 1, taps, taps]."""
    return torch.tensor([[[[a * b / sum(taps) ** 2 for b in taps] for a in taps]]], dtype=torch.float32)


class Linear(nn.Linear):
    """In float32 everywhere."""


class GroupNorm(nn.Module):
    """At most 32 groups, of at least 4 channels. x [N,C,...]."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_groups, self.eps = min(32, channels // 4), eps
        self.weight, self.bias = nn.Parameter(torch.empty(channels)), nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class Conv2d(nn.Module):
    """A convolution after a change of size, or such a change alone (kernel 0).

    fused_resample: halves after the convolution, which sees more zeros at the borders then.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    resample_filter: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        up: bool = False,
        down: bool = False,
        taps: Sequence[int] = (1, 1),
        fused_resample: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.up, self.down, self.fused_resample = up, down, fused_resample
        self.taps = tuple(taps)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel)) if kernel else None
        self.bias = nn.Parameter(torch.empty(out_channels)) if kernel else None
        self.register_buffer("resample_filter", resampling_kernel(taps) if up or down else None)

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H,W], also halved or doubled."""
        margin = (len(self.taps) - 1) // 2
        if self.fused_resample:
            assert self.weight is not None
            assert self.bias is not None
            wide = F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2 + margin)
            return self._resampled(wide, padding=0) + self.bias[:, None, None]
        x = self._resampled(x, margin)
        return x if self.weight is None else F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)

    def _resampled(self, x: Tensor, padding: int) -> Tensor:
        if self.resample_filter is None:
            return x
        channels = x.shape[1]
        kernel = self.resample_filter.to(x.dtype).expand(channels, -1, -1, -1)
        if self.down:
            return F.conv2d(x, kernel, stride=2, padding=padding, groups=channels)
        return F.conv_transpose2d(x, 4 * kernel, stride=2, padding=padding, groups=channels)


class PositionalEmbedding(nn.Module):
    """Cosines, then sines, of the noise level at falling frequencies."""

    def __init__(self, num_channels: int, *, endpoint: bool) -> None:
        super().__init__()
        self.num_channels, self.endpoint, self.max_positions = num_channels, endpoint, MAX_POSITIONS

    def forward(self, c: Tensor) -> Tensor:
        """c [N] -> [N, num_channels]."""
        count = self.num_channels // 2
        steps = torch.arange(count, dtype=torch.float32, device=c.device) / (count - (1 if self.endpoint else 0))
        return waves(c, (1 / self.max_positions) ** steps)


class FourierEmbedding(nn.Module):
    """The same at random frequencies, which the file has."""

    freqs: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.empty(num_channels // 2))

    def forward(self, c: Tensor) -> Tensor:
        return waves(c, 2 * math.pi * self.freqs)


def waves(c: Tensor, frequencies: Tensor) -> Tensor:
    """Cosines, then sines, [N, 2F], of c [N] at frequencies [F]."""
    angles = c[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class UNetBlock(nn.Module):
    """Two convolutions beside a skip, then attention beside another.

    num_heads: of attention; 0 = none. place: where it is, of a network whose attention may be perturbed.
    """

    skip: Conv2d | None
    place: Layer | None = None

    def __init__(
        self,
        arch: Architecture,
        in_channels: int,
        out_channels: int,
        *,
        up: bool = False,
        down: bool = False,
        attention: bool = False,
    ) -> None:
        super().__init__()
        song = arch.kind == "SongUNet"
        eps, taps = (1e-6, arch.resample_filter) if song else (1e-5, (1, 1))
        self.in_channels, self.out_channels, self.emb_channels = in_channels, out_channels, arch.emb_channels
        self.num_heads = 0 if not attention else 1 if song else out_channels // 64
        self.dropout, self.skip_scale, self.adaptive_scale = arch.dropout, math.sqrt(0.5) if song else 1, not song
        self.norm0 = GroupNorm(in_channels, eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, up=up, down=down, taps=taps)
        self.affine = Linear(arch.emb_channels, out_channels * (2 if self.adaptive_scale else 1))
        self.norm1 = GroupNorm(out_channels, eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3)
        self.skip = None
        if in_channels != out_channels or up or down:
            kernel = 1 if song or in_channels != out_channels else 0
            self.skip = Conv2d(in_channels, out_channels, kernel, up=up, down=down, taps=taps)
        if self.num_heads:
            self.norm2 = GroupNorm(out_channels, eps)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1)
            self.proj = Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor, perturbation: Perturbation | None = None) -> Tensor:
        """x [N,C,H,W], embedding [N or 1, emb_channels]. perturbation: of its attention."""
        h: Tensor = self.conv0(F.silu(self.norm0(x)))
        shift = self.affine(embedding).to(h.dtype)[:, :, None, None]
        if self.adaptive_scale:
            scale, shift = shift.chunk(2, dim=1)
            h = self.norm1(h) * (1 + scale) + shift
        else:
            h = self.norm1(h + shift)
        h = self.conv1(F.silu(h))
        h = (h + (x if self.skip is None else self.skip(x))) * self.skip_scale
        if self.num_heads:
            by = None
            if perturbation is not None and self.place is not None and perturbation.at(self.place):
                by = perturbation.attention
            h = (h + self.proj(attend(self.qkv(self.norm2(h)), self.num_heads, by))) * self.skip_scale
        return h


def attend(qkv: Tensor, heads: int, by: Attention | None = None) -> Tensor:
    """Attention over all pixels of [N,3C,H,W], whose channels lie head by head, channel by channel, q, k and v last.

    Weights are computed in float32. by: in the place of softmax attention. Returns [N,C,H,W].
    """
    parts = qkv.flatten(2).unflatten(1, (heads, -1, 3))
    query, key, value = (part.mT for part in parts.unbind(3))
    attended = _softmax_attention(query, key, value) if by is None else by(query, key, value)
    return attended.mT.reshape(len(qkv), -1, *qkv.shape[2:])


def _softmax_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    key = key / math.sqrt(key.shape[-1])
    weights = (query.float() @ key.float().mT).softmax(dim=-1).to(value.dtype)
    return weights @ value


# ----------------------------------------------------------------------------
# U-Nets.


class UNet(nn.Module):
    """What both have: an encoder whose results come back in the decoder, last first."""

    map_label: Linear | None
    map_augment: Linear | None

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.label_dropout = arch.label_dropout

    def add_blocks(self) -> None:
        encoder = list(_way_down(self.arch))
        widths = [width for _, _, width in encoder if width > 0]
        self.enc = nn.ModuleDict({name: layer for name, layer, _ in encoder})
        self.dec = nn.ModuleDict(dict(_way_up(self.arch, widths)))
        self.layers = [*_named("encoder", self.enc, self.arch), *_named("decoder", self.dec, self.arch)]

    def optional(self, inputs: int, outputs: int, *, bias: bool) -> Linear | None:
        return Linear(inputs, outputs, bias=bias) if inputs else None

    def embedded(self, c: Tensor, labels: Tensor | None) -> Tensor:
        """What blocks get, [N or 1, emb_channels], of c [N or 1] and labels [N or 1, label_dim]."""
        raise NotImplementedError

    def forward(self, x: Tensor, c: Tensor, labels: Tensor | None, perturbation: Perturbation | None = None) -> Tensor:
        """x [N,C,H,W] -> [N, out_channels, H, W], of noise levels c [N or 1] and labels [N or 1, label_dim]."""
        embedding = self.embedded(c, labels)
        return self.way_up(*self.way_down(x, embedding, perturbation), embedding, perturbation)

    def way_down(self, x: Tensor, embedding: Tensor, perturbation: Perturbation | None) -> tuple[Tensor, list[Tensor]]:
        """The last result, and all that come back."""
        side, kept = x, list[Tensor]()
        for name, layer in self.enc.items():
            if name.endswith("_aux_down"):
                side = layer(side)
            elif name.endswith("_aux_skip"):
                x = kept[-1] = x + layer(side)
            elif name.endswith("_aux_residual"):
                x = kept[-1] = side = (x + layer(side)) / math.sqrt(2)
            else:
                x = layer(x, embedding, perturbation) if isinstance(layer, UNetBlock) else layer(x)
                kept.append(x)
        return x, kept

    def way_up(self, x: Tensor, kept: list[Tensor], embedding: Tensor, perturbation: Perturbation | None) -> Tensor:
        image, normed = None, x
        for name, layer in self.dec.items():
            if name.endswith("_aux_up"):
                image = layer(image)
            elif name.endswith("_aux_norm"):
                normed = layer(x)
            elif name.endswith("_aux_conv"):
                made = layer(F.silu(normed))
                image = made if image is None else image + made
            else:
                x = torch.cat([x, kept.pop()], dim=1) if "_block" in name else x
                x = layer(x, embedding, perturbation)
        return x if image is None else image


class SongUNet(UNet):
    """DDPM++ and NCSN++ (arXiv 2011.13456)."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__(arch)
        noise, wide = arch.noise_channels, arch.emb_channels
        fourier = arch.embedding_type == "fourier"
        self.map_noise = FourierEmbedding(noise) if fourier else PositionalEmbedding(noise, endpoint=True)
        self.map_label = self.optional(arch.label_dim, noise, bias=True)
        self.map_augment = self.optional(arch.augment_dim, noise, bias=False)
        self.map_layer0, self.map_layer1 = Linear(noise, wide), Linear(wide, wide)
        self.add_blocks()

    def embedded(self, c: Tensor, labels: Tensor | None) -> Tensor:
        made = self.map_noise(c)
        made = torch.cat(made.chunk(2, dim=1)[::-1], dim=1)  # sines first
        if self.map_label is not None and labels is not None:
            made = made + self.map_label(labels * math.sqrt(labels.shape[1]))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(made))))


class DhariwalUNet(UNet):
    """ADM (arXiv 2105.05233)."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__(arch)
        narrow, wide = arch.model_channels, arch.emb_channels
        self.map_noise = PositionalEmbedding(narrow, endpoint=False)
        self.map_augment = self.optional(arch.augment_dim, narrow, bias=False)
        self.map_layer0, self.map_layer1 = Linear(narrow, wide), Linear(wide, wide)
        self.map_label = self.optional(arch.label_dim, wide, bias=False)
        self.add_blocks()
        self.out_norm, self.out_conv = GroupNorm(arch.width(0)), Conv2d(arch.width(0), arch.out_channels, 3)

    def embedded(self, c: Tensor, labels: Tensor | None) -> Tensor:
        made = self.map_layer1(F.silu(self.map_layer0(self.map_noise(c))))
        if self.map_label is not None and labels is not None:
            made = made + self.map_label(labels)
        return F.silu(made)

    def way_up(self, x: Tensor, kept: list[Tensor], embedding: Tensor, perturbation: Perturbation | None) -> Tensor:
        made: Tensor = self.out_conv(F.silu(self.out_norm(super().way_up(x, kept, embedding, perturbation))))
        return made


def _named(side: Literal["encoder", "decoder"], layers: nn.ModuleDict, arch: Architecture) -> list[Layer]:
    """Its blocks with attention, which learn where they are."""
    made: list[Layer] = []
    for name, block in layers.items():
        if isinstance(block, UNetBlock) and block.num_heads > 0:
            size = int(name.split("x")[0])
            coarsest = size == arch.sizes[-1]
            block.place = Layer(f"{side[:3]}.{name}", side, len(made), size, coarsest, attends=True)
            made.append(block.place)
    return made


def _way_down(arch: Architecture) -> Iterator[tuple[str, nn.Module, int]]:
    """The encoder's layers by name, with the channels of what comes back; 0 for layers of which nothing does."""
    channels = arch.model_channels if arch.kind == "SongUNet" else arch.width(0)
    side = arch.in_channels
    for level, size in enumerate(arch.sizes):
        prefix = f"{size}x{size}"
        if level == 0:
            yield f"{prefix}_conv", Conv2d(arch.in_channels, channels, 3), channels
        else:
            yield f"{prefix}_down", UNetBlock(arch, channels, channels, down=True), channels
            yield from _beside(arch, prefix, side, channels)
            side = channels if arch.encoder_type == "residual" else side
        for number in range(arch.num_blocks):
            attention = size in arch.attn_resolutions
            block = UNetBlock(arch, channels, arch.width(level), attention=attention)
            channels = arch.width(level)
            yield f"{prefix}_block{number}", block, channels


def _beside(arch: Architecture, prefix: str, side: int, channels: int) -> Iterator[tuple[str, nn.Module, int]]:
    """What brings the image itself to a level, side: in so many channels."""
    taps = arch.resample_filter
    if arch.encoder_type == "skip":
        yield f"{prefix}_aux_down", Conv2d(side, side, 0, down=True, taps=taps), 0
        yield f"{prefix}_aux_skip", Conv2d(side, channels, 1), 0
    elif arch.encoder_type == "residual":
        yield f"{prefix}_aux_residual", Conv2d(side, channels, 3, down=True, taps=taps, fused_resample=True), 0


def _way_up(arch: Architecture, widths: list[int]) -> Iterator[tuple[str, nn.Module]]:
    """The decoder's layers by name. widths: channels of what comes back, last first."""
    channels, song = widths[-1], arch.kind == "SongUNet"
    for level, size in reversed(list(enumerate(arch.sizes))):
        prefix, deepest = f"{size}x{size}", level == len(arch.sizes) - 1
        if deepest:
            yield f"{prefix}_in0", UNetBlock(arch, channels, channels, attention=True)
            yield f"{prefix}_in1", UNetBlock(arch, channels, channels)
        else:
            yield f"{prefix}_up", UNetBlock(arch, channels, channels, up=True)
        for number in range(arch.num_blocks + 1):
            attention = size in arch.attn_resolutions and (not song or number == arch.num_blocks)
            block = UNetBlock(arch, channels + widths.pop(), arch.width(level), attention=attention)
            channels = arch.width(level)
            yield f"{prefix}_block{number}", block
        if song and (level == 0 or arch.decoder_type == "skip"):
            if arch.decoder_type == "skip" and not deepest:
                out = arch.out_channels
                yield f"{prefix}_aux_up", Conv2d(out, out, 0, up=True, taps=arch.resample_filter)
            yield f"{prefix}_aux_norm", GroupNorm(channels, 1e-6)
            yield f"{prefix}_aux_conv", Conv2d(channels, arch.out_channels, 3)


UNETS: dict[str, type[UNet]] = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}

# ----------------------------------------------------------------------------
# Preconditioners: D = c_skip x + c_out F(c_in x; c_noise).


class Precond(nn.Module):
    """A U-Net F as a denoiser.

    Attributes:
        sigma_min, sigma_max: The noise levels that it is for.
    """

    sigma_min: float
    sigma_max: float

    def __init__(self, arch: Architecture, *, use_fp16: bool = False) -> None:
        super().__init__()
        self.img_resolution, self.img_channels = arch.img_resolution, arch.in_channels
        self.label_dim, self.use_fp16 = arch.label_dim, use_fp16
        self.model = UNETS[arch.kind](arch)

    def coefficients(self, sigma: Tensor) -> tuple[Tensor | float, Tensor, Tensor | float, Tensor]:
        """c_skip, c_out, c_in, c_noise of sigma, float32 of any shape."""
        raise NotImplementedError

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest of the noise levels that it knows, of sigma in any shape and float type: here all."""
        return sigma

    def use_float16(self) -> None:
        """As published: convolutions and normalisations in float16, all else in float32."""
        for module in self.modules():
            if isinstance(module, Conv2d | GroupNorm):
                module.half()

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations between blocks."""
        return next(self.model.enc.parameters()).dtype

    def forward(
        self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, perturbation: Perturbation | None = None
    ) -> Tensor:
        """D(x; sigma), float32 [N,C,H,W], of x [N,C,H,W], sigma [] or [N], labels one-hot [N, label_dim].

        Without labels they are zero, which no network was trained with. perturbation: of its attention.
        """
        x, sigma = x.float(), sigma.float().reshape(-1, 1, 1, 1)
        c_skip, c_out, c_in, _ = self.coefficients(sigma)
        return c_skip * x + c_out * self.raw(c_in * x, sigma, labels, perturbation)[:, : self.img_channels].float()

    def raw(self, x: Tensor, sigma: Tensor, labels: Tensor | None, perturbation: Perturbation | None = None) -> Tensor:
        """F of its own input c_in x: [N, out_channels, H, W], in its own dtype. sigma: float32."""
        if self.label_dim == 0:
            labels = None
        elif labels is None:
            labels = x.new_zeros([1, self.label_dim])
        c_noise = self.coefficients(sigma)[3].flatten()
        made: Tensor = self.model(x.to(self.dtype), c_noise, labels, perturbation)
        return made


class EDMPrecond(Precond):
    """arXiv 2206.00364, Table 1, the last column."""

    def __init__(
        self,
        arch: Architecture,
        *,
        use_fp16: bool = False,
        sigma_min: float = 0,
        sigma_max: float = math.inf,
        sigma_data: float = 0.5,
    ) -> None:
        super().__init__(arch, use_fp16=use_fp16)
        self.sigma_min, self.sigma_max, self.sigma_data = sigma_min, sigma_max, sigma_data

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        square = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / square, sigma * self.sigma_data / square.sqrt(), 1 / square.sqrt(), sigma.log() / 4


class VPPrecond(Precond):
    """The same, the first column."""

    def __init__(
        self,
        arch: Architecture,
        *,
        use_fp16: bool = False,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        M: int = 1000,
        epsilon_t: float = 1e-5,
    ) -> None:
        super().__init__(arch, use_fp16=use_fp16)
        self.beta_d, self.beta_min, self.M, self.epsilon_t = beta_d, beta_min, M, epsilon_t
        self.sigma_min, self.sigma_max = (self.sigma(t) for t in (epsilon_t, 1.0))

    def sigma(self, t: float) -> float:
        """The noise level at time t, in float32 as in the files."""
        time = torch.tensor(t, dtype=torch.float32, device="cpu")
        return float(((0.5 * self.beta_d * time**2 + self.beta_min * time).exp() - 1).sqrt())

    def time(self, sigma: Tensor) -> Tensor:
        return ((self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt() - self.beta_min) / self.beta_d

    def coefficients(self, sigma: Tensor) -> tuple[float, Tensor, Tensor, Tensor]:
        return 1, -sigma, 1 / (sigma**2 + 1).sqrt(), (self.M - 1) * self.time(sigma)


class VEPrecond(Precond):
    """The same, the second column."""

    def __init__(
        self, arch: Architecture, *, use_fp16: bool = False, sigma_min: float = 0.02, sigma_max: float = 100
    ) -> None:
        super().__init__(arch, use_fp16=use_fp16)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def coefficients(self, sigma: Tensor) -> tuple[float, Tensor, float, Tensor]:
        return 1, sigma, 1, (0.5 * sigma).log()


class iDDPMPrecond(Precond):
    """The same, the third column. It knows the noise levels `u` alone, falling, float32 [M + 1]."""

    u: Tensor

    def __init__(
        self,
        arch: Architecture,
        *,
        use_fp16: bool = False,
        C_1: float = 0.001,
        C_2: float = 0.008,
        M: int = 1000,
    ) -> None:
        super().__init__(arch, use_fp16=use_fp16)
        self.C_1, self.C_2, self.M = C_1, C_2, M
        levels = iddpm_levels(C_1, C_2, M)
        self.register_buffer("u", torch.tensor(levels, dtype=torch.float32))
        self.sigma_min, self.sigma_max = levels[M - 1], levels[0]

    def index(self, sigma: Tensor) -> Tensor:
        """Of the nearest level, int64 in the shape of sigma."""
        return nearest(sigma, self.u)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return self.u[self.index(sigma)].to(sigma.dtype)

    def coefficients(self, sigma: Tensor) -> tuple[float, Tensor, Tensor, Tensor]:
        return 1, -sigma, 1 / (sigma**2 + 1).sqrt(), (self.M - 1 - self.index(sigma)).to(torch.float32)


def nearest(sigma: Tensor, levels: Tensor) -> Tensor:
    """Which of the levels [K], float32, is nearest to each sigma [...], int64 in that shape.

    By distances that come of products, as published: of two levels about as near, rounding chooses.
    """
    wide = sigma.to(torch.float32).reshape(1, -1, 1)
    apart = torch.cdist(wide, levels[None, :, None], compute_mode="use_mm_for_euclid_dist")
    return apart.argmin(dim=2).reshape(sigma.shape)


def iddpm_levels(c_1: float, c_2: float, count: int) -> list[float]:
    """u[0] to u[count] = 0 (arXiv 2206.00364, Table 1), in float64: up to 5e-4 from those of files, in float32."""
    kept = [math.sin(math.pi / 2 * j / count / (c_2 + 1)) ** 2 for j in range(count + 1)]
    levels = [0.0]
    for j in range(count, 0, -1):
        levels.append(math.sqrt((levels[-1] ** 2 + 1) / max(kept[j - 1] / kept[j], c_1) - 1))
    return levels[::-1]


PRECONDS: dict[str, type[Precond]] = {each.__name__: each for each in (EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond)}
