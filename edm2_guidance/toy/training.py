"""Training the toy networks by exact score matching: arXiv 2406.02507, App. C."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from edm2_guidance.toy.distribution import CLASSES, SIGMA_DATA, Mixture, fractal
from edm2_guidance.toy.network import ToyModel
from training.phema import PowerFunctionEMA

P_MEAN, P_STD = -2.3, 1.5  # of ln sigma
LEARNING_RATE, DECAY = 0.01, 512  # the rate falls as 1 / sqrt(t / DECAY) once t iterations exceed DECAY
BETAS = (0.9, 0.99)  # of Adam
EMA_SIGMA_REL = 0.010
SNAPSHOT_EVERY = 256  # iterations


@dataclass(frozen=True)
class ToyTraining:
    """What is trained and for how long. ValueError for what cannot be."""

    classes: str = "A"
    num_layers: int = 4
    hidden_dim: int = 64
    iterations: int = 4096
    batch_size: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if self.classes not in CLASSES:
            raise ValueError(f"classes {self.classes!r}: choose one of {', '.join(CLASSES)}")
        for name in ("num_layers", "hidden_dim", "iterations", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class Snapshot:
    """The averaged network after `iteration` iterations, and the mean loss since the last snapshot.

    The network is the one that training goes on averaging: copy or save it before the next snapshot.
    """

    iteration: int
    net: ToyModel
    loss: float


def train(
    config: ToyTraining, device: torch.device | str = "cpu", progress: Callable[[int], None] | None = None
) -> Iterator[Snapshot]:
    """Train, giving a snapshot every `SNAPSHOT_EVERY` iterations and after the last.

    Points and noise levels are drawn on the CPU from one generator, so that devices see the same data. `progress`
    is called after every iteration with 1.
    """
    generator = Generator().manual_seed(config.seed)
    truth = fractal(config.classes)
    net = new_model(config).to(device)
    ema = PowerFunctionEMA(net, [EMA_SIGMA_REL])
    optimizer = torch.optim.Adam(net.parameters(), betas=BETAS)
    target, losses = truth.to(device), []
    for iteration in range(1, config.iterations + 1):
        optimizer.param_groups[0]["lr"] = learning_rate(iteration - 1)
        sigma = (torch.randn(config.batch_size, generator=generator) * P_STD + P_MEAN).exp()
        x = truth.sample(config.batch_size, generator, sigma)
        loss = score_matching_loss(net, target, x.to(device), sigma.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(net, iteration, 1)
        losses.append(loss.detach())
        if progress is not None:
            progress(1)
        if iteration % SNAPSHOT_EVERY == 0 or iteration == config.iterations:
            yield Snapshot(iteration, ema.averages[0], float(torch.stack(losses).mean()))
            losses.clear()


def new_model(config: ToyTraining) -> ToyModel:
    """The network before training; its weights are a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return ToyModel(num_layers=config.num_layers, hidden_dim=config.hidden_dim, sigma_data=SIGMA_DATA)


def learning_rate(t: int) -> float:
    """Of the iteration that follows t others."""
    return float(LEARNING_RATE / max(t / DECAY, 1) ** 0.5)


def score_matching_loss(net: ToyModel, truth: Mixture, x: Tensor, sigma: Tensor) -> Tensor:
    """Exact score matching: mean over points and axes of sigma^2 (score of the net - true score)^2, a scalar.

    x [N, 2]: noisy points. sigma [N]: their levels. The true score being known, no noise of single samples enters.
    """
    error = net.score(x, sigma, graph=True) - truth.score(x, sigma)
    return (sigma[:, None] ** 2 * error**2).mean()
