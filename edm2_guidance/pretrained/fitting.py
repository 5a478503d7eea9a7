"""What the training scripts here share: labelled digits, one-cycle AdamW over shuffled batches, averaged weights, and
the exact last normalisation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help needs no torch
    from torch import Generator, Tensor
    from torch.nn import BatchNorm1d, Module, Parameter

BATCH = 128
WEIGHT_DECAY = 1e-2


def labelled_digits(path: str) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 3, H, W] and classes int64 [N] of a labelled set. ValueError without classes."""
    import torch

    from training.dataset import ImageFolderDataset

    dataset = ImageFolderDataset(path)
    everything = range(len(dataset))
    onehot = dataset.labels(everything)
    if onehot is None or onehot.shape[1] != 10:
        raise ValueError(f"{path} needs digits as labels, 0 to 9")
    return torch.from_numpy(dataset.items(everything)), torch.from_numpy(onehot).argmax(dim=1)


class Average:
    """An exponential moving average of a network's weights, without what they were before training."""

    def __init__(self, net: Module, decay: float) -> None:
        self._net, self._decay, self._updates = net, decay, 0
        self._sums = [weights.detach() * 0 for weights in net.parameters()]

    def update(self) -> None:
        import torch

        self._updates += 1
        with torch.no_grad():
            for total, latest in zip(self._sums, self._net.parameters(), strict=True):
                total.lerp_(latest, 1 - self._decay)

    def network(self) -> Any:
        """A copy of the network with the mean weights, for evaluation."""
        mean = copy.deepcopy(self._net).eval().requires_grad_(False)
        for weights, total in zip(mean.parameters(), self._sums, strict=True):
            weights.copy_(total / (1 - self._decay**self._updates))
        return mean


def fit(
    parameters: Iterable[Parameter],
    loss_of: Callable[[Tensor], Tensor],
    num_images: int,
    *,
    epochs: int,
    peak: float,
    generator: Generator,
    advance: Callable[[int], None],
    batch: int = BATCH,
) -> None:
    """Minimise a loss by one-cycle AdamW.

    Args:
        parameters: What is trained.
        loss_of: Of the images of these rows, int64 [batch].
        num_images: Of which rows are drawn; what is left over at the end of an epoch is passed over.
        epochs: Passes.
        peak: The highest learning rate.
        generator: Shuffles.
        advance: Called with the number of images of every batch, once it was learned from.
        batch: Images at a time.
    """
    import torch

    batches = num_images // batch
    optimizer = torch.optim.AdamW(parameters, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(num_images, generator=generator)[: batches * batch].split(batch):
            loss = loss_of(rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(batch)


def standardise(layer: BatchNorm1d, images: Tensor, inputs_of: Callable[[Tensor], Tensor]) -> None:
    """Set a normalisation to the exact statistics of its inputs over the training images, in place of averages."""
    import torch

    from edm2_guidance.metrics.running import RunningMoments

    running = RunningMoments(layer.num_features)
    with torch.no_grad():
        for batch in images.split(1000):
            running.append(inputs_of(batch))
    moments = running.moments()
    layer.load_state_dict({
        **layer.state_dict(),
        "running_mean": torch.from_numpy(moments.mean),
        "running_var": torch.from_numpy(moments.cov).diagonal(),
    })  # fmt: skip
