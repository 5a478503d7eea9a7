"""What the training scripts here share: one-cycle AdamW over shuffled batches, and the exact last normalisation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # --help needs no torch
    from torch import Generator, Tensor
    from torch.nn import BatchNorm1d, Parameter

BATCH = 128
WEIGHT_DECAY = 1e-2


def fit(
    parameters: Iterable[Parameter],
    loss_of: Callable[[Tensor], Tensor],
    num_images: int,
    *,
    epochs: int,
    peak: float,
    generator: Generator,
    advance: Callable[[int], None],
) -> None:
    """Minimise a loss by one-cycle AdamW.

    Args:
        parameters: What is trained.
        loss_of: Of the images of these rows, int64 [BATCH].
        num_images: Of which rows are drawn; what is left over at the end of an epoch is passed over.
        epochs: Passes.
        peak: The highest learning rate.
        generator: Shuffles.
        advance: Called with the number of images of every batch.
    """
    import torch

    batches = num_images // BATCH
    optimizer = torch.optim.AdamW(parameters, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(num_images, generator=generator)[: batches * BATCH].split(BATCH):
            loss = loss_of(rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(BATCH)


def standardise(layer: BatchNorm1d, images: Tensor, inputs_of: Callable[[Tensor], Tensor]) -> None:
    """Set a normalisation to the exact statistics of its inputs over the training images, in place of averages."""
    import torch

    from edm2_guidance.metrics.moments import RunningMoments

    running = RunningMoments(layer.num_features)
    with torch.no_grad():
        for batch in images.split(1000):
            running.append(inputs_of(batch))
    moments = running.moments()
    layer.load_state_dict({
        **layer.state_dict(), "running_mean": moments.mean, "running_var": moments.cov.diagonal()
    })  # fmt: skip
