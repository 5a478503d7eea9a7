"""Trains the classifier of noisy digits whose gradient guides: classifier guidance (arXiv 2105.05233).

Run as `python -m edm2_guidance.pretrained.train_classifier`. As for the detector (`train_detector.py`), the same
command gives the same bytes with the same versions and thread count, and another classifier as good with others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.pretrained.fitting import Average, fit, labelled_digits

if TYPE_CHECKING:  # --help needs no torch
    from torch import Generator, Tensor

    from edm2_guidance.models.networks.adm import Classifier

BATCH = 128
PEAK_LEARNING_RATE = 3e-3
DECAY = 0.998  # of the moving average, per batch
SHOWN = (0, 250, 500, 750)  # timesteps at which the accuracy is printed


@click.command(cls=Command)
@click.option("--data", metavar="ZIP|DIR", required=True, help="Training digits, 16x16 RGB with labels")
@click.option("--test", metavar="ZIP|DIR", required=True, help="Test digits, for the accuracy that is printed")
@click.option("--dest", metavar="FILE", required=True, help="Where to write the network (.safetensors)")
@click.option("--epochs", metavar="INT", type=click.IntRange(min=1), default=5, show_default=True, help="Passes")
@click.option("--seed", metavar="INT", type=int, default=0, show_default=True, help="Random seed")
def main(data: str, test: str, dest: str, epochs: int, seed: int) -> None:
    """Train the classifier of noisy digits.

    The command that made the shipped one stands in pretrained/README.md. Noise is that of a random timestep of the
    linear schedule.
    """
    import torch

    from edm2_guidance.models.adm_files import save_adm
    from edm2_guidance.models.networks.adm import Architecture, Classifier

    with bad_input():
        images, labels = labelled_digits(data)
        test_images, test_labels = labelled_digits(test)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = Classifier(Architecture("classifier", 16, 24, (1, 2, 2), 1, 10, head_width=24, attention=(8, 4), groups=8))
    net.zero_branches()
    mean = Average(net, DECAY)
    with progress_bar(epochs * len(images), "training") as progress:

        def advance(count: int) -> None:
            mean.update()
            progress(count)

        fit(
            net.parameters(), lambda rows: _loss(net, images[rows], labels[rows], generator), len(images),
            epochs=epochs, peak=PEAK_LEARNING_RATE, generator=generator, advance=advance, batch=BATCH,
        )  # fmt: skip
    save_adm(dest, mean.network(), [str(digit) for digit in range(10)])
    shown = (f"{_accuracy(mean.network(), test_images, test_labels, t, generator):.2%} at t = {t}" for t in SHOWN)
    click.echo(f"{dest}: test accuracy {', '.join(shown)}")


def _loss(net: Classifier, images: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """Cross-entropy of a batch, each image at a timestep of its own."""
    import torch

    t = torch.randint(1000, (len(images),), generator=generator)
    return torch.nn.functional.cross_entropy(net(_noisy(images, t, generator), t), labels)


def _noisy(images: Tensor, t: Tensor, generator: Generator) -> Tensor:
    """uint8 [N,3,H,W] at timesteps [N]: float32, of variance near 1."""
    import torch

    from edm2_guidance.recipe.timesteps import alphas_bar

    kept = torch.tensor(alphas_bar("linear"))[t].view(-1, 1, 1, 1)
    x = images / 127.5 - 1
    return kept.sqrt() * x + (1 - kept).sqrt() * torch.randn(x.shape, generator=generator)


def _accuracy(net: Classifier, images: Tensor, labels: Tensor, t: int, generator: Generator) -> float:
    import torch

    right = 0
    with torch.no_grad():
        for some, classes in zip(images.split(1000), labels.split(1000), strict=True):
            times = torch.full((len(some),), t)
            right += int((net(_noisy(some, times, generator), times).argmax(dim=1) == classes).sum())
    return right / len(images)


if __name__ == "__main__":
    main()
