"""A step of training beside a plain loop, which takes the same images, noise and rates."""

import copy
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.files import plain_pngs, smooth
from benchmarks.side_by_side import Options, Result, Way, compare
from edm2_guidance.images.zips import ZipWriter, dataset_json
from training import training_loop
from training.config import TrainingConfig
from training.dataset import ImageFolderDataset, ShuffledOrder
from training.loss import EDM2Loss
from training.phema import power_function_beta
from training.training_loop import PositionRandn, Trainer, build_network, derived_seed, learning_rate


def run(options: Options) -> Iterator[Result]:
    """The digits' network at batch 64 (256 on CUDA), and one of 64 channels at 32x32 pixels."""
    cuda = options.device.type == "cuda"
    yield from _beside_loops("digits' network", 16, 8 if options.quick else 256 if cuda else 64, 32, options)
    if not options.quick:
        yield from _beside_loops("64 channels, 32x32", 32, 256 if cuda else 8, 64, options)


def _beside_loops(name: str, size: int, batch: int, channels: int, options: Options) -> Iterator[Result]:
    """Our step, on CUDA in float16 and in bfloat16, beside a plain loop and beside one that does the least."""
    config = TrainingConfig(
        "digits.zip", duration=1 << 30, batch=batch, rampup=0, decay=0, channels=channels, channel_mult=(1, 2),
        num_blocks=1, channels_per_head=16, snapshot=1 << 30, checkpoint=1 << 30, status=1 << 30,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, ExitStack() as at_end:
        path = Path(folder, config.data)
        save_set(path, 512, size)
        dataset = ImageFolderDataset(path)
        dataset.cache()
        cuda = options.device.type == "cuda"
        ways = []
        for each in (config, replace(config, bf16=True)) if cuda else (config,):  # CPUs may have to emulate it
            trainer = Trainer(each, dataset, options.device)
            at_end.callback(trainer.close)
            ways.append(Way("Trainer, bf16" if each.bf16 else "Trainer", partial(_step, trainer)))
        case = f"{name}, batch {batch}"
        plain = PlainTraining(config, ImageFolderDataset(path), options.device)
        yield from compare("training", case, Way("plain loop", plain.step), ways, options)
        bare = BareTraining(config, dataset, options.device)
        note = "draws other noise: not compared"
        yield from compare(
            "training", case, Way("bare loop", bare.step), ways[:1], options, seen=lambda made: None, note=note
        )


def save_set(path: Path, num: int, size: int) -> None:
    """A training set of images of ten classes."""
    labels = []
    with ZipWriter(path) as file:
        for number, (name, png) in enumerate(plain_pngs(smooth(size, num))):
            file.add(name, png)
            labels.append((name, number % 10))
        file.add("dataset.json", dataset_json(labels))


def _step(trainer: Trainer) -> list[Tensor]:
    """The weights after the step, as they are: only those of the first step are looked at."""
    trainer.step()
    return list(trainer.state.net.parameters())


class PlainTraining:
    """Images read when they are needed, parameter after parameter, and the loss fetched in every step."""

    def __init__(self, config: TrainingConfig, dataset: ImageFolderDataset, device: torch.device) -> None:
        self.config, self.dataset, self.device = config, dataset, device
        self.net = build_network(config, dataset.image_shape[-1], 3, dataset.label_dim).to(device).train()
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=config.lr, betas=(0.9, 0.99), foreach=False)
        self.averages = [copy.deepcopy(self.net).requires_grad_(False) for _ in config.ema]
        self.loss = EDM2Loss(config.P_mean, config.P_std, config.sigma_data)
        self.order = ShuffledOrder(len(dataset), derived_seed(config.seed, training_loop._ORDER))
        self.seen = 0
        self.losses: list[float] = []

    def step(self) -> list[Tensor]:
        config, positions = self.config, range(self.seen, self.seen + self.config.batch)
        self.optimizer.zero_grad()
        chosen = [self.order[position] for position in positions]
        images = torch.from_numpy(np.stack([self.dataset.items([index])[0] for index in chosen])).to(self.device)
        labels = torch.from_numpy(self.dataset.labels(chosen)).to(self.device)
        seeds = [derived_seed(config.seed, training_loop._NOISE, position) for position in positions]
        loss = self.loss(self.net, images.float() / 127.5 - 1, labels, PositionRandn(seeds, self.device))
        loss.sum().mul(1 / config.batch).backward()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.seen, config.batch, config.lr, config.decay, config.rampup)
        for parameter in self.net.parameters():
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0, posinf=0, neginf=0, out=parameter.grad)
        self.optimizer.step()
        self.seen += config.batch
        self._average()
        self.losses.append(float(loss.detach().mean()))
        return list(self.net.parameters())

    @torch.no_grad()
    def _average(self) -> None:
        for length, average in zip(self.config.ema, self.averages, strict=True):
            beta = float(power_function_beta(length, self.seen, self.config.batch))
            for mean, now in zip(average.parameters(), self.net.parameters(), strict=True):
                mean.lerp_(now, 1 - beta)


class BareTraining(PlainTraining):
    """Images already on the device, global noise, forward, backward, Adam and averages: nothing else."""

    def __init__(self, config: TrainingConfig, dataset: ImageFolderDataset, device: torch.device) -> None:
        super().__init__(config, dataset, device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=config.lr, betas=(0.9, 0.99))
        self.images = torch.from_numpy(dataset.items(range(len(dataset)))).to(device).float() / 127.5 - 1
        self.labels = torch.from_numpy(dataset.labels(range(len(dataset)))).to(device)

    def step(self) -> list[Tensor]:
        self.optimizer.zero_grad()
        chosen = torch.randint(len(self.images), [self.config.batch], device=self.device)
        loss = self.loss(self.net, self.images[chosen], self.labels[chosen])
        loss.sum().mul(1 / self.config.batch).backward()
        self.optimizer.step()
        self.seen += self.config.batch
        self._average()
        return []
