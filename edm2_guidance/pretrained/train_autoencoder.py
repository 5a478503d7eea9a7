"""Trains the autoencoder of digits whose features are the metric fd_mnist_ae.

Run as `python -m edm2_guidance.pretrained.train_autoencoder`. As for the classifier (`train_detector.py`), the same
command gives the same bytes with the same versions and thread count, and another network as good with others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.pretrained.fitting import fit, standardise

if TYPE_CHECKING:  # --help needs no torch
    from torch import Tensor

PEAK_LEARNING_RATE = 2e-3


@click.command(cls=Command)
@click.option("--data", metavar="ZIP|DIR", required=True, help="Training digits, 16x16 RGB; no labels are read")
@click.option("--test", metavar="ZIP|DIR", required=True, help="Test digits, for the error that is printed")
@click.option("--dest", metavar="FILE", required=True, help="Where to write the weights (.safetensors)")
@click.option("--epochs", metavar="INT", type=click.IntRange(min=1), default=6, show_default=True, help="Passes")
@click.option("--seed", metavar="INT", type=int, default=0, show_default=True, help="Random seed")
def main(data: str, test: str, dest: str, epochs: int, seed: int) -> None:
    """Train the autoencoder of fd_mnist_ae.

    The command that made the shipped weights stands in pretrained/README.md.
    """
    import torch
    from safetensors.torch import save

    from dnnlib.atomic import atomic_path
    from edm2_guidance.metrics.extractors.mnist_ae import MnistAutoencoder

    with bad_input():
        images, test_images = _load(data), _load(test)
    torch.manual_seed(seed)
    net: Any = MnistAutoencoder().build()
    with progress_bar(epochs * len(images), "training") as advance:
        fit(
            [*net.encoder.parameters(), *net.decoder.parameters()],
            lambda rows: _loss(net, _grey(images[rows])), len(images),
            epochs=epochs, peak=PEAK_LEARNING_RATE, generator=torch.Generator().manual_seed(seed), advance=advance,
        )  # fmt: skip
    standardise(net.standardise, images, net.raw)
    with torch.no_grad():
        error = float(_loss(net, _grey(test_images)))
    with atomic_path(dest) as path:
        # One entry of metadata only: safetensors writes several in random order.
        path.write_bytes(save(net.state_dict(), {"test_error": f"{error:.5f}"}))
    click.echo(f"{dest}: mean squared error {error:.5f} on test digits")


def _load(path: str) -> Tensor:
    """Images uint8 [N, 3, 16, 16]. ValueError for another size."""
    import torch

    from training.dataset import ImageFolderDataset

    dataset = ImageFolderDataset(path)
    images = torch.from_numpy(dataset.items(range(len(dataset))))
    _grey(images[:1])  # of the right size
    return images


def _grey(images: Tensor) -> Tensor:
    from edm2_guidance.metrics.extractors.networks.mnist import grey

    return grey(images)


def _loss(net: Any, x: Tensor) -> Tensor:
    """Mean squared error of grey digits [N, 1, 16, 16] drawn again."""
    import torch

    return torch.nn.functional.mse_loss(net.decoder(net.encoder(x)), x)


if __name__ == "__main__":
    main()
