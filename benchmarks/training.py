"""A step of training as the program takes it, beside the plain loop that a researcher would write."""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training.config import TrainingConfig
from training.dataset import ImageFolderDataset
from training.loss import EDM2Loss
from training.training_loop import Trainer

_ITEMS = 512
Step = Callable[[], object]

#: The embedded digits' network and batch, and one of 64 channels at 32x32 pixels.
DIGITS = TrainingConfig(
    "", cond=False, batch=32, lr=0.02, decay=4000, rampup=8192, P_mean=-0.8, P_std=1.6, channels=16,
    channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,), channels_per_head=16,
)  # fmt: skip
PIXELS_32 = replace(DIGITS, batch=4, channels=64, channel_mult=(1, 2, 2), num_blocks=1, channels_per_head=64)


def step_pair(config: TrainingConfig, size: int, device: str | torch.device = "cpu") -> tuple[Step, Step]:
    """(ours, plain): each takes one step of training on random pixels of `size` x `size` without labels when called.

    Ours: `Trainer.step`, with reading, noise by position, flags of what is not finite, and the averages. Plain:
    pixels on the device, global noise, forward, backward, Adam, averages; nothing else. Both in the same precision.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, _pixels(Path(folder), size), torch.device(device))
    return trainer.step, _plain(config, trainer)


def _pixels(folder: Path, size: int) -> ImageFolderDataset:
    """A set of random pixels, kept in memory."""
    pixels = np.random.default_rng(0).integers(0, 256, [_ITEMS, size, size, 3], dtype=np.uint8)
    for number, item in enumerate(pixels):
        Image.fromarray(item).save(folder / f"{number:04d}.png")
    dataset = ImageFolderDataset(folder, use_labels=False)
    dataset.cache()
    return dataset


def _plain(config: TrainingConfig, trainer: Trainer) -> Step:
    device = trainer.device
    pixels = torch.from_numpy(trainer.dataset.items(range(_ITEMS))).to(device).float() / 127.5 - 1
    net = copy.deepcopy(trainer.state.net)
    averages = [copy.deepcopy(net).eval().requires_grad_(False) for _ in config.ema]
    optimizer = torch.optim.Adam(net.parameters(), lr=config.lr, betas=(0.9, 0.99))
    loss_fn = EDM2Loss(config.P_mean, config.P_std, config.sigma_data)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        images = pixels[torch.randint(_ITEMS, [config.batch], device=device)]
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            loss_fn(net, images).sum().mul(1 / config.batch).backward()
        optimizer.step()
        with torch.no_grad():
            for average in averages:
                for old, new in zip(average.parameters(), net.parameters(), strict=True):
                    old.lerp_(new, 0.1)

    return step
