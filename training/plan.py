"""What a training run would do, computed without doing it: for `train_edm2.py --dry-run`."""

import inspect
import json
from dataclasses import asdict, dataclass

import torch

from dnnlib.terminal import counted
from training import encoders, loss, networks_edm2
from training.config import TrainingConfig
from training.dataset import ImageFolderDataset
from training.training_loop import network_channels


@dataclass(frozen=True)
class TrainingPlan:
    """Sizes of a run.

    Attributes:
        parameters: Trained numbers in the network.
        network_kwargs: Its constructor's arguments.
        steps: Optimiser steps from start to end.
        batch_gpu: Images per worker and round.
        rounds: Accumulation rounds per step.
        world_size: Workers.
        snapshots: Network files at the end of the run.
        snapshot_bytes: Size of one, within a few percent.
        checkpoint_bytes: Size of a checkpoint, within a few percent.
    """

    config: TrainingConfig
    parameters: int
    network_kwargs: dict[str, object]
    steps: int
    batch_gpu: int
    rounds: int
    world_size: int
    snapshots: int
    snapshot_bytes: int
    checkpoint_bytes: int

    def __str__(self) -> str:
        config = self.config
        options = {**asdict(config), "network": self.network_kwargs}
        lines = [json.dumps(options, indent=2)]
        lines.append(f"network     {self.parameters:,} parameters")
        lines.append(f"duration    {config.duration:,} images in {counted(self.steps, 'step', ',')} of {config.batch}")
        sizes = {"worker": self.world_size, "round": self.rounds, "image": self.batch_gpu}
        lines.append(f"batch       {' x '.join(counted(size, noun) for noun, size in sizes.items())}")
        lines.append(f"snapshots   {counted(self.snapshots, 'network file')} of about {_mib(self.snapshot_bytes)} each")
        lines.append(f"checkpoint  about {_mib(self.checkpoint_bytes)} each, the last 3 are kept")
        return "\n".join(lines)


def plan_training(config: TrainingConfig, dataset: ImageFolderDataset, world_size: int) -> TrainingPlan:
    """Check that configuration, data and number of workers fit, and count what a run takes. Allocates no network.

    Raises ValueError, naming the option to change, if they do not fit.
    """
    channels, resolution = network_channels(dataset.image_shape), dataset.image_shape[-1]
    config.check_resolution(resolution)
    batch_gpu, rounds = config.split_batch(world_size)
    kwargs = {
        "img_resolution": resolution,
        "img_channels": channels,
        "label_dim": dataset.label_dim,
        **config.network_kwargs(),
    }
    with torch.device("meta"):
        net = networks_edm2.Precond(**kwargs)
    parameters = sum(p.numel() for p in net.parameters())
    source = sum(len(inspect.getsource(module)) for module in (networks_edm2, encoders, loss))
    at_end = config.duration % config.snapshot != 0
    return TrainingPlan(
        config=config,
        parameters=parameters,
        network_kwargs=kwargs,
        steps=config.duration // config.batch,
        batch_gpu=batch_gpu,
        rounds=rounds,
        world_size=world_size,
        snapshots=len(config.ema) * (config.duration // config.snapshot + at_end),
        snapshot_bytes=2 * parameters + source,
        checkpoint_bytes=4 * parameters * (3 + len(config.ema)),  # weights, two moments, averages; float32
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
