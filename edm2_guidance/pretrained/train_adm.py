"""Trains the small ADM network of digits: noise and variance predicted together (arXiv 2102.09672, 2105.05233).

Run as `python -m edm2_guidance.pretrained.train_adm`. As for the detector (`train_detector.py`), the same command gives
the same bytes with the same versions and thread count, and another network as good with others.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.pretrained.fitting import Average, fit, labelled_digits

if TYPE_CHECKING:  # --help needs no torch
    from torch import Generator, Tensor

    from edm2_guidance.models.networks.adm import UNet

BATCH = 64
PEAK_LEARNING_RATE = 2e-3
DECAY = 0.998  # of the moving average, per batch
HALF_LEVEL = 1 / 255  # of 8-bit pixels in [-1, 1]


@click.command(cls=Command)
@click.option("--data", metavar="ZIP|DIR", required=True, help="Training digits, 16x16 RGB with labels")
@click.option("--dest", metavar="FILE", required=True, help="Where to write the network (.safetensors)")
@click.option("--epochs", metavar="INT", type=click.IntRange(min=1), default=5, show_default=True, help="Passes")
@click.option("--seed", metavar="INT", type=int, default=0, show_default=True, help="Random seed")
def main(data: str, dest: str, epochs: int, seed: int) -> None:
    """Train the ADM network of digits.

    The command that made the shipped one stands in pretrained/README.md.
    """
    import torch

    from edm2_guidance.models.adm_files import save_adm
    from edm2_guidance.models.networks.adm import Architecture, UNet

    with bad_input():
        images, labels = labelled_digits(data)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = UNet(Architecture("denoiser", 16, 24, (1, 2), 1, 10, head_width=24, attention=(8,), groups=8))
    net.zero_branches()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU
    mean = Average(net, DECAY)
    onehot = torch.nn.functional.one_hot(labels, 10).float()
    with progress_bar(epochs * len(images), "training") as progress:

        def advance(count: int) -> None:
            mean.update()
            progress(count)

        fit(
            net.parameters(), lambda rows: _loss(net, images[rows] / 127.5 - 1, onehot[rows], generator), len(images),
            epochs=epochs, peak=PEAK_LEARNING_RATE, generator=generator, advance=advance, batch=BATCH,
        )  # fmt: skip
    save_adm(dest, mean.network(), [str(digit) for digit in range(10)])


def _loss(net: UNet, images: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """The hybrid loss, each image at a timestep of its own: arXiv 2102.09672, Eq. 16, where lambda * T = 1.

    images: float32 [N,3,H,W] in [-1, 1]. labels: one-hot.
    """
    import torch

    from edm2_guidance.recipe.timesteps import alphas_bar

    every = torch.tensor([1.0, *alphas_bar("linear")], dtype=torch.float64)
    t = torch.randint(1000, (len(images),), generator=generator)
    kept = every[1 + t].float().view(-1, 1, 1, 1)
    noise = torch.randn(images.shape, generator=generator)
    predicted, v = net(kept.sqrt() * images + (1 - kept).sqrt() * noise, t, labels).chunk(2, dim=1)
    simple: Tensor = (predicted - noise).square().mean()
    return simple + _bound(images, predicted.detach() - noise, (v + 1) / 2, t, every)


def _bound(images: Tensor, error: Tensor, mix: Tensor, t: Tensor, every: Tensor) -> Tensor:
    """The terms at t of the variational bound in bits per value, by which the variance is learned.

    error: of the predicted noise, without gradient. mix: between the bounds of log variance. every: alpha bar of
    timestep t at t + 1.
    """
    import torch

    kept, before = (every[each].view(-1, 1, 1, 1) for each in (1 + t, t))
    beta = 1 - kept / before
    least = _posterior_variance(every, t.clamp(min=1)).log().float()  # at t = 0 it is 0
    log_variance = least + mix * (beta.log().float() - least)
    gap = (beta * (before / kept / (1 - kept)).sqrt()).float() * error  # of the means
    divergence = (log_variance - least + (least - log_variance).exp() + gap.square() * (-log_variance).exp() - 1) / 2
    likelihood = _log_likelihood(images, images - gap, (log_variance / 2).exp())
    return torch.where(t.view(-1, 1, 1, 1) == 0, -likelihood, divergence).mean() / math.log(2)


def _posterior_variance(every: Tensor, t: Tensor) -> Tensor:
    """Of x at t - 1, given the image and x at t: arXiv 2006.11239, Eq. 7."""
    kept, before = (every[each].view(-1, 1, 1, 1) for each in (1 + t, t))
    return (1 - kept / before) * (1 - before) / (1 - kept)


def _log_likelihood(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Of 8-bit levels under a normal distribution, the outermost levels reaching to infinity (2006.11239, Eq. 13)."""
    import torch

    above = torch.special.ndtr((images + HALF_LEVEL - mean) / std).where(images < 0.999, 1)
    below = torch.special.ndtr((images - HALF_LEVEL - mean) / std).where(images > -0.999, 0)
    odds: Tensor = (above - below).clamp(min=1e-12)
    return odds.log()


if __name__ == "__main__":
    main()
