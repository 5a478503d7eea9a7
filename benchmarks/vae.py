"""Decoding of latents by a Stability VAE of random weights."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.networks import no_grad
from benchmarks.side_by_side import Options, Result, Way, compare
from training.encoders import StabilityVAEEncoder


def decoder(options: Options) -> tuple[Any, Tensor] | None:
    """The published architecture, and latents to decode (of small images on a processor); None without diffusers."""
    try:
        from diffusers import AutoencoderKL
    except ImportError:
        return None
    small = options.device.type != "cuda" or options.quick
    widths = (32, 32) if options.quick else (128, 256, 512, 512)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        make: Callable[..., Any] = AutoencoderKL
        vae = make(
            down_block_types=("DownEncoderBlock2D",) * len(widths), up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=widths, layers_per_block=2, latent_channels=4,
        )  # fmt: skip
        latents = torch.randn(2, 4, 8, 8) if small else torch.randn(8, 4, 64, 64)
    return vae.eval().requires_grad_(False).to(options.device), (latents / 2).to(options.device)


def run(options: Options) -> Iterator[Result]:
    made = decoder(options)
    if made is None:
        yield Result("vae", "decoding", note="left out: diffusers is not installed")
        return
    vae, latents = made
    encoder = StabilityVAEEncoder()
    encoder._vae = vae
    plain = Way("image after image", no_grad(partial(plain_decode, encoder, vae, latents)))
    ways = [Way("StabilityVAEEncoder", no_grad(partial(encoder.decode, latents)))]
    case = f"batch {len(latents)}, latents {latents.shape[3]}x{latents.shape[2]}"
    yield from compare("vae", case, plain, ways, options)


def plain_decode(encoder: StabilityVAEEncoder, vae: Any, latents: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] on the CPU, each image decoded and copied by itself."""
    scale, bias = (torch.from_numpy(each).reshape(1, -1, 1, 1).to(latents) for each in (encoder.scale, encoder.bias))
    decoded = [vae.decode((each[None] - bias) / scale).sample.clamp(0, 1).mul(255).byte().cpu() for each in latents]
    return torch.cat(decoded)
