"""Trains the digit classifier whose features are the metric fd_mnist.

Run as `python -m edm2_guidance.pretrained.train_detector`.

Bytes of the result are reproduced by the same command with the same versions and thread count; other threads or
versions give a detector as good, but another one, whose numbers do not compare with the first's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.progress import progress_bar

if TYPE_CHECKING:  # --help needs no torch
    from torch import Generator, Tensor

    from edm2_guidance.metrics.extractors.networks.mnist import DigitClassifier

BATCH = 128
PEAK_LEARNING_RATE = 5e-3
WEIGHT_DECAY = 1e-2


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

    with bad_input():
        images, labels = _load(data)
        test_images, test_labels = _load(test)
    torch.manual_seed(seed)
    with progress_bar(epochs * len(images), "training") as advance:
        net = _train(images, labels, epochs, torch.Generator().manual_seed(seed), advance)
    _standardise(net, images)
    with torch.no_grad():
        guesses = torch.cat([net.logits(batch).argmax(dim=1) for batch in test_images.split(1000)])
    accuracy = float((guesses == test_labels).double().mean())
    with atomic_path(dest) as path:
        # One entry of metadata only: safetensors writes several in random order.
        path.write_bytes(save(net.state_dict(), {"test_accuracy": f"{accuracy:.4f}"}))
    click.echo(f"{dest}: test accuracy {accuracy:.2%}")


def _load(path: str) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 3, H, W] and classes int64 [N] of a labelled set. ValueError without classes."""
    import torch

    from training.dataset import ImageFolderDataset

    dataset = ImageFolderDataset(path)
    everything = range(len(dataset))
    onehot = dataset.labels(everything)
    if onehot is None or onehot.shape[1] != 10:
        raise ValueError(f"{path} needs digits as labels, 0 to 9")
    return torch.from_numpy(dataset.items(everything)), torch.from_numpy(onehot).argmax(dim=1)


def _train(
    images: Tensor, labels: Tensor, epochs: int, generator: Generator, advance: Callable[[int], None]
) -> DigitClassifier:
    """One-cycle AdamW on the cross-entropy. Returns the classifier in eval mode."""
    import torch

    from edm2_guidance.metrics.extractors.networks.mnist import DigitClassifier

    net = DigitClassifier().train()
    batches = len(images) // BATCH
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator)[: batches * BATCH].split(BATCH):
            down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
            shifted = images[rows].roll((down, right), dims=(2, 3))
            loss = torch.nn.functional.cross_entropy(net.logits(shifted), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(BATCH)
    return net.eval()


def _standardise(net: DigitClassifier, images: Tensor) -> None:
    """Sets the last normalisation to the exact statistics of the training images, instead of a running average."""
    import torch

    from edm2_guidance.metrics.moments import RunningMoments

    running = RunningMoments(net.standardise.num_features)
    with torch.no_grad():
        for batch in images.split(1000):
            running.append(net.hidden_inputs(batch))
    moments = running.moments()
    statistics = {"running_mean": moments.mean, "running_var": moments.cov.diagonal()}
    net.standardise.load_state_dict({**net.standardise.state_dict(), **statistics})


if __name__ == "__main__":
    main()
