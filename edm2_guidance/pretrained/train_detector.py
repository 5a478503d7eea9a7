"""Trains the digit classifier whose features are the metric fd_mnist.

Run as `python -m edm2_guidance.pretrained.train_detector`.

Bytes of the result are reproduced by the same command with the same versions and thread count; other threads or
versions give a detector as good, but another one, whose numbers do not compare with the first's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.pretrained.fitting import fit, labelled_digits, standardise

if TYPE_CHECKING:  # --help needs no torch
    from torch import Generator, Tensor

    from edm2_guidance.metrics.extractors.networks.mnist import DigitClassifier

PEAK_LEARNING_RATE = 5e-3


@click.command(cls=Command)
@click.option("--data", metavar="ZIP|DIR", required=True, help="Training digits, 16x16 RGB with labels")
@click.option("--test", metavar="ZIP|DIR", required=True, help="Test digits, for the accuracy that is printed")
@click.option("--dest", metavar="FILE", required=True, help="Where to write the weights (.safetensors)")
@click.option("--epochs", metavar="INT", type=click.IntRange(min=1), default=4, show_default=True, help="Passes")
@click.option("--seed", metavar="INT", type=int, default=0, show_default=True, help="Random seed")
def main(data: str, test: str, dest: str, epochs: int, seed: int) -> None:
    """Train the detector of fd_mnist.

    The command that made the shipped weights stands in pretrained/README.md. Each batch is shifted by up to one
    pixel, which makes the features react more to blur and distortion (measured; see metrics/mnist.py).
    """
    import torch
    from safetensors.torch import save

    from dnnlib.atomic import atomic_path
    from edm2_guidance.metrics.extractors.networks.mnist import DigitClassifier

    with bad_input():
        images, labels = labelled_digits(data)
        test_images, test_labels = labelled_digits(test)
    torch.manual_seed(seed)
    net, generator = DigitClassifier().train(), torch.Generator().manual_seed(seed)
    with progress_bar(epochs * len(images), "training") as advance:
        fit(
            net.parameters(), lambda rows: _loss(net, images[rows], labels[rows], generator), len(images),
            epochs=epochs, peak=PEAK_LEARNING_RATE, generator=generator, advance=advance,
        )  # fmt: skip
    net.eval()
    standardise(net.standardise, images, net.hidden_inputs)
    with torch.no_grad():
        guesses = torch.cat([net.logits(batch).argmax(dim=1) for batch in test_images.split(1000)])
    accuracy = float((guesses == test_labels).double().mean())
    with atomic_path(dest) as path:
        # One entry of metadata only: safetensors writes several in random order.
        path.write_bytes(save(net.state_dict(), {"test_accuracy": f"{accuracy:.4f}"}))
    click.echo(f"{dest}: test accuracy {accuracy:.2%}")


def _loss(net: DigitClassifier, images: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """Cross-entropy of a batch, shifted by up to one pixel."""
    import torch

    down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
    return torch.nn.functional.cross_entropy(net.logits(images.roll((down, right), dims=(2, 3))), labels)


if __name__ == "__main__":
    main()
