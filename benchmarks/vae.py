"""Decoding of latents by a Stability VAE of random weights."""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.networks import no_grad
from benchmarks.side_by_side import Options, Result, Way, compare
from training.encoders import StabilityVAEEncoder


def run(options: Options) -> Iterator[Result]:
    try:
        from diffusers import AutoencoderKL
    except ImportError:
        yield Result("vae", "decoding", note="left out: diffusers is not installed")
        return
    full = options.device.type == "cuda" and not options.quick
    widths = (128, 256, 512, 512) if full else (32, 32)  # as published, or small enough for a processor
    batch, size = (8, 64) if full else (2, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(widths), up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=widths, layers_per_block=2, latent_channels=4, sample_size=8 * size,
        )  # fmt: skip
    encoder = StabilityVAEEncoder()
    encoder._vae = vae.eval().requires_grad_(False).to(options.device)
    latents = torch.randn(batch, 4, size, size, generator=torch.Generator().manual_seed(0)).to(options.device) / 2
    plain = Way("image after image", no_grad(partial(plain_decode, encoder, copy.deepcopy(encoder._vae), latents)))
    ways = [Way("StabilityVAEEncoder", no_grad(partial(encoder.decode, latents)))]
    yield from compare("vae", f"batch {batch}, latents {size}x{size}, widths {widths}", plain, ways, options)


def plain_decode(encoder: StabilityVAEEncoder, vae: Any, latents: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] on the CPU, each image decoded and copied by itself."""
    scale, bias = (torch.from_numpy(each).reshape(1, -1, 1, 1).to(latents) for each in (encoder.scale, encoder.bias))
    decoded = [vae.decode((each[None] - bias) / scale).sample.clamp(0, 1).mul(255).byte().cpu() for each in latents]
    return torch.cat(decoded)
