"""The magnitude-preserving U-Net of EDM2 and its preconditioning.

Equation numbers refer to "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv 2312.02696).
Every layer keeps the expected magnitude of its input, so activations need no other normalisation.

Class names, constructor arguments, attribute names and parameter names are those of the published network files and
must not change. The text of this module is embedded in every network file that the project writes, to be executed by
readers that know nothing of the project: it imports torch and `torch_utils.persistence` only.
"""

from __future__ import annotations  # readers of the embedded text may run Python 3.9

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torch_utils import persistence

# ----------------------------------------------------------------------------
# Magnitude-preserving operations.


def normalize(x: Tensor, dim: Sequence[int] | None = None, eps: float = 1e-4) -> Tensor:
    """Scale x [...] to unit root-mean-square over `dim` (default: all but the first), Eq. 47; the norm in float32."""
    if dim is None:
        dim = list(range(1, x.ndim))
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float32)
    norm = eps + norm * math.sqrt(norm.numel() / x.numel())
    return x / norm.to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU divided by the root-mean-square of its output on unit normal input, Eq. 81."""
    return functional.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Blend of a and b with weight t on b, at unit magnitude for independent inputs, Eq. 88."""
    return a.lerp(b, t) / math.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Concatenate a [N,Ca,H,W] and b [N,Cb,H,W]; t sets how much b contributes whatever the widths are, Eq. 103."""
    width_a, width_b = a.shape[1], b.shape[1]
    total = math.sqrt((width_a + width_b) / ((1 - t) ** 2 + t**2))
    return torch.cat([total / math.sqrt(width_a) * (1 - t) * a, total / math.sqrt(width_b) * t * b], dim=1)


def resample(x: Tensor, taps: Sequence[float], mode: str) -> Tensor:
    """Halve ('down'), double ('up') or keep the size of x [N,C,H,W] with a separable filter of even length.

    The filter is scaled to sum 1 (times 4 for 'up'). [1, 1], the only one in published files, is a 2x2 mean and a
    nearest-neighbour repeat; these need no constant on the device.
    """
    if mode == "keep":
        return x
    if list(taps) == [1, 1]:
        return functional.avg_pool2d(x, 2) if mode == "down" else functional.interpolate(x, scale_factor=2.0)
    row = torch.tensor(list(taps), dtype=torch.float32, device=x.device)
    kernel = (row[:, None] * row[None, :] / row.sum() ** 2).to(x.dtype)
    channels, pad = x.shape[1], (len(taps) - 1) // 2
    kernel = kernel[None, None].expand(channels, 1, -1, -1)
    if mode == "down":
        return functional.conv2d(x, kernel, groups=channels, stride=2, padding=pad)
    return functional.conv_transpose2d(x, kernel * 4, groups=channels, stride=2, padding=pad)


def effective_gain(gain: Tensor | float, fan_in: int) -> Tensor | float:
    """gain / sqrt(fan_in), in the precision that the gain is stored in.

    The learned gains of network files are float16 scalars, and the published numbers were made with this quotient
    rounded to float16 before it meets the float32 weights. The rounding moves D by about 1e-4, so it is kept.
    """
    return gain / math.sqrt(fan_in)


def compute_dtype(use_fp16: bool, force_fp32: bool, device_type: str) -> torch.dtype:
    """Precision of the U-Net's activations: float16 on a CUDA device if the network allows it, else float32."""
    return torch.float16 if use_fp16 and not force_fp32 and device_type == "cuda" else torch.float32


# ----------------------------------------------------------------------------
# Layers.


@persistence.persistent_class
class MPFourier(nn.Module):
    """Fourier features of a scalar at unit magnitude, Eq. 75: x [N] -> [N, num_channels]."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, num_channels: int, bandwidth: float = 1) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(num_channels) * bandwidth)
        self.register_buffer("phases", 2 * math.pi * torch.rand(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        angle = x.to(torch.float32)[:, None] * self.freqs.to(torch.float32) + self.phases.to(torch.float32)
        return (angle.cos() * math.sqrt(2)).to(x.dtype)


@persistence.persistent_class
class MPConv(nn.Module):
    """Convolution, or linear layer if `kernel` is empty, with normalised weights and no bias, Eqs. 47 and 66.

    In training mode the stored weights are projected back to unit norm on every call (without gradient), so that the
    optimiser cannot let them grow.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *kernel))

    def forward(self, x: Tensor, gain: Tensor | float = 1) -> Tensor:
        weight = self.weight.to(torch.float32)
        if self.training:
            with torch.no_grad():
                self.weight.copy_(normalize(weight))
        weight = normalize(weight) * effective_gain(gain, weight[0].numel())
        weight = weight.to(x.dtype)
        if weight.ndim == 2:
            return x @ weight.t()
        return functional.conv2d(x, weight, padding=weight.shape[-1] // 2)


@persistence.persistent_class
class Block(nn.Module):
    """Encoder ('enc') or decoder ('dec') block: resampling, a residual branch modulated by the embedding, attention.

    x [N, in_channels, H, W] and emb [N or 1, emb_channels] -> [N, out_channels, H', W'].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        flavor: str = "enc",  # 'enc' or 'dec'
        resample_mode: str = "keep",  # 'keep', 'up' or 'down'
        resample_filter: Sequence[float] = [1, 1],
        attention: bool = False,
        channels_per_head: int = 64,
        dropout: float = 0,
        res_balance: float = 0.3,  # share of the residual branch, 0..1
        attn_balance: float = 0.3,  # share of the attention branch, 0..1
        clip_act: float | None = 256,  # bound of the output activations; None = none
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.flavor = flavor
        self.resample_filter = resample_filter
        self.resample_mode = resample_mode
        self.num_heads = out_channels // channels_per_head if attention else 0
        self.dropout = dropout
        self.res_balance = res_balance
        self.attn_balance = attn_balance
        self.clip_act = clip_act
        width = out_channels if flavor == "enc" else in_channels  # the encoder changes width before the branch
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(width, out_channels, kernel=[3, 3])
        self.emb_linear = MPConv(emb_channels, out_channels, kernel=[])
        self.conv_res1 = MPConv(out_channels, out_channels, kernel=[3, 3])
        self.conv_skip = MPConv(in_channels, out_channels, kernel=[1, 1]) if in_channels != out_channels else None
        self.attn_qkv = MPConv(out_channels, out_channels * 3, kernel=[1, 1]) if self.num_heads > 0 else None
        self.attn_proj = MPConv(out_channels, out_channels, kernel=[1, 1]) if self.num_heads > 0 else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = resample(x, self.resample_filter, self.resample_mode)
        if self.flavor == "enc":
            if self.conv_skip is not None:
                x = self.conv_skip(x)
            x = normalize(x, dim=[1])
        y = self._residual(x, emb)
        if self.flavor == "dec" and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, y, self.res_balance)
        if self.num_heads > 0:
            x = mp_sum(x, self._attend(x), self.attn_balance)
        if self.clip_act is not None:
            x = x.clip(-self.clip_act, self.clip_act)
        return x

    def _residual(self, x: Tensor, emb: Tensor) -> Tensor:
        y = self.conv_res0(mp_silu(x))
        scale = self.emb_linear(emb, gain=self.emb_gain) + 1  # float32 also when y is float16
        y = mp_silu(y * scale[:, :, None, None].to(y.dtype))
        if self.training and self.dropout != 0:
            y = functional.dropout(y, p=self.dropout)
        return self.conv_res1(y)

    def _attend(self, x: Tensor) -> Tensor:
        assert self.attn_qkv is not None
        assert self.attn_proj is not None
        qkv = self.attn_qkv(x).reshape(x.shape[0], self.num_heads, -1, 3, x.shape[2] * x.shape[3])
        # Each [N, heads, H*W, channels per head]; contiguous, or torch falls back to its slowest attention.
        q, k, v = (part.contiguous() for part in normalize(qkv, dim=[2]).transpose(2, 4).unbind(3))
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.attn_proj(y.transpose(2, 3).reshape(x.shape))


# ----------------------------------------------------------------------------
# Networks.


@persistence.persistent_class
class UNet(nn.Module):
    """The raw network F of Eq. 7: x [N,C,H,W], noise labels [N or 1], class labels [N or 1, label_dim] -> [N,C,H,W]."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int,  # number of classes; 0 = unconditional
        model_channels: int = 192,
        channel_mult: Sequence[int] = [1, 2, 3, 4],
        channel_mult_noise: float | None = None,  # None = the width of the first level
        channel_mult_emb: float | None = None,  # None = the largest width
        num_blocks: int = 3,  # encoder blocks per level; the decoder has one more
        attn_resolutions: Sequence[int] = [16, 8],
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        **block_kwargs: Any,
    ) -> None:
        super().__init__()
        widths = [model_channels * mult for mult in channel_mult]
        noise_width = widths[0] if channel_mult_noise is None else int(model_channels * channel_mult_noise)
        emb_width = max(widths) if channel_mult_emb is None else int(model_channels * channel_mult_emb)
        self.label_balance = label_balance
        self.concat_balance = concat_balance
        self.out_gain = nn.Parameter(torch.zeros([]))

        self.emb_fourier = MPFourier(noise_width)
        self.emb_noise = MPConv(noise_width, emb_width, kernel=[])
        self.emb_label = MPConv(label_dim, emb_width, kernel=[]) if label_dim != 0 else None

        def block(cin: int, cout: int, **kwargs: Any) -> Block:
            return Block(cin, cout, emb_width, **kwargs, **block_kwargs)

        self.enc = nn.ModuleDict()
        width = img_channels + 1  # one channel of ones
        skips = []
        for level, channels in enumerate(widths):
            size = img_resolution >> level
            if level == 0:
                self.enc[f"{size}x{size}_conv"] = MPConv(width, channels, kernel=[3, 3])
                width = channels
            else:
                self.enc[f"{size}x{size}_down"] = block(width, width, flavor="enc", resample_mode="down")
            skips.append(width)
            for i in range(num_blocks):
                attention = size in attn_resolutions
                self.enc[f"{size}x{size}_block{i}"] = block(width, channels, flavor="enc", attention=attention)
                width = channels
                skips.append(width)

        self.dec = nn.ModuleDict()
        for level, channels in reversed(list(enumerate(widths))):
            size = img_resolution >> level
            if level == len(widths) - 1:
                self.dec[f"{size}x{size}_in0"] = block(width, width, flavor="dec", attention=True)
                self.dec[f"{size}x{size}_in1"] = block(width, width, flavor="dec")
            else:
                self.dec[f"{size}x{size}_up"] = block(width, width, flavor="dec", resample_mode="up")
            for i in range(num_blocks + 1):
                attention = size in attn_resolutions
                cin = width + skips.pop()
                self.dec[f"{size}x{size}_block{i}"] = block(cin, channels, flavor="dec", attention=attention)
                width = channels
        self.out_conv = MPConv(width, img_channels, kernel=[3, 3])

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        emb = self._embed(noise_labels, class_labels)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips = []
        for name, layer in self.enc.items():
            x = layer(x) if name.endswith("conv") else layer(x, emb)
            skips.append(x)
        for name, layer in self.dec.items():
            if "block" in name:
                x = mp_cat(x, skips.pop(), self.concat_balance)
            x = layer(x, emb)
        return self.out_conv(x, gain=self.out_gain)

    def _embed(self, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        emb = self.emb_noise(self.emb_fourier(noise_labels))
        if self.emb_label is not None:
            assert class_labels is not None  # Precond fills in zeros
            emb = mp_sum(emb, self.emb_label(class_labels * math.sqrt(class_labels.shape[1])), self.label_balance)
        return mp_silu(emb)


@persistence.persistent_class
class Precond(nn.Module):
    """The denoiser D(x; sigma, labels): preconditioning around the U-Net, and the learned uncertainty u(sigma).

    Eqs. 7 and 22 (preconditioning of EDM, arXiv 2206.00364, Table 1). A conditional network called without labels
    gets a row of zeros.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int,  # number of classes; 0 = unconditional
        use_fp16: bool = True,  # float16 activations on a CUDA device
        sigma_data: float = 0.5,  # standard deviation of the training data
        logvar_channels: int = 128,
        **unet_kwargs: Any,
    ) -> None:
        super().__init__()
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.label_dim = label_dim
        self.use_fp16 = use_fp16
        self.sigma_data = sigma_data
        self.unet = UNet(img_resolution, img_channels, label_dim, **unet_kwargs)
        self.logvar_fourier = MPFourier(logvar_channels)
        self.logvar_linear = MPConv(logvar_channels, 1, kernel=[])

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        class_labels: Tensor | None = None,
        force_fp32: bool = False,
        return_logvar: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Denoise x [N,C,H,W] at noise level sigma, a scalar or [N], given one-hot class_labels [N or 1, label_dim].

        Returns D [N,C,H,W] in float32; with return_logvar also u(sigma) [N or 1, 1, 1, 1].
        """
        x = x.to(torch.float32)
        sigma = sigma.to(torch.float32).reshape(-1, 1, 1, 1)
        if self.label_dim == 0:
            class_labels = None
        elif class_labels is None:
            class_labels = torch.zeros([1, self.label_dim], device=x.device)
        else:
            class_labels = class_labels.to(torch.float32).reshape(-1, self.label_dim)
        dtype = compute_dtype(self.use_fp16, force_fp32, x.device.type)

        variance = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data / variance.sqrt()
        c_in = 1 / variance.sqrt()
        c_noise = sigma.flatten().log() / 4

        output = self.unet((c_in * x).to(dtype), c_noise, class_labels)
        denoised = c_skip * x + c_out * output.to(torch.float32)
        if not return_logvar:
            return denoised
        return denoised, self.logvar_linear(self.logvar_fourier(c_noise)).reshape(-1, 1, 1, 1)
