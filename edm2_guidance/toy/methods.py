"""The methods that the autoguidance paper compares in two dimensions (arXiv 2406.02507, Fig. 1 and App. C)."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.parts import Prediction, Schedule, constant, planned
from edm2_guidance.recipe.parts import Sampler as Solver
from edm2_guidance.sampling.engine import trajectory
from edm2_guidance.sampling.guidance.guided import DenoiseAt
from edm2_guidance.sampling.guidance.guided import guided as _guided
from edm2_guidance.toy.distribution import Mixture, fractal
from edm2_guidance.toy.network import ToyModel
from edm2_guidance.toy.scoring import Sampler

Denoiser = Callable[[Tensor, Tensor], Tensor]  # x [N, 2] and sigma [] -> D(x; sigma) [N, 2]
NUM_STEPS, SIGMA_MIN, SIGMA_MAX = 32, 0.002, 5.0
CFG_WEIGHT, AUTOGUIDANCE_WEIGHT, TRUNCATION = 4.0, 3.0, 1.40


@dataclass(frozen=True)
class Networks:
    """main: of one class. weak: of the same, smaller and less trained. unconditional: of both classes."""

    main: ToyModel
    weak: ToyModel
    unconditional: ToyModel


def compared(
    nets: Networks, cfg: float = CFG_WEIGHT, autoguidance: float = AUTOGUIDANCE_WEIGHT
) -> Mapping[str, DenoiseAt]:
    """The four ways of sampling of Fig. 1 b-e, by name."""
    main = nets.main.denoise
    return {
        "unguided": guided(main),
        "CFG": guided(main, (nets.unconditional.denoise, cfg)),
        "truncation": guided(truncated(main, TRUNCATION)),
        "autoguidance": guided(main, (nets.weak.denoise, autoguidance)),
    }


def guided(main: Denoiser, guide: tuple[Denoiser, float] | None = None, steps: StepInterval | None = None) -> DenoiseAt:
    """A denoiser as the engine calls it. guide: another and its weight; steps: where it guides (None = everywhere)."""
    guides = []
    if guide is not None:
        denoiser, weight = guide
        spec = Guide(NetworkRef("guide"), constant(weight), steps)
        guides.append((spec, lambda x, sigma, labels: Prediction(denoiser(x, sigma))))
    return _guided(lambda x, sigma, labels: Prediction(main(x, sigma)), guides)


def truth() -> Mixture:
    """What the main network learns: class A of the fractal."""
    return fractal("A")


def samplers(nets: Networks, cfg: float = CFG_WEIGHT, autoguidance: float = AUTOGUIDANCE_WEIGHT) -> dict[str, Sampler]:
    """The same as samplers that `scoring.score_methods` takes."""
    return {name: functools.partial(sample, at) for name, at in compared(nets, cfg, autoguidance).items()}


def truncated(denoiser: Denoiser, factor: float) -> Denoiser:
    """Naive truncation: the score, (D - x) / sigma^2, lengthened by a factor at every noise level."""
    return lambda x, sigma: x + factor * (denoiser(x, sigma) - x)


def sample(at: DenoiseAt, num: int, seed: int, num_steps: int = NUM_STEPS) -> Tensor:
    """Samples, float32 [num, 2]: Heun from noise of level SIGMA_MAX, which is a function of the seed."""
    noise = torch.randn(num, 2, generator=Generator().manual_seed(seed))
    return trajectories(at, noise * SIGMA_MAX, SIGMA_MAX, num_steps)[-1]


def trajectories(at: DenoiseAt, start: Tensor, sigma: float, num_steps: int = NUM_STEPS) -> Tensor:
    """Where the points start [N, 2], of noise level sigma, are after each step to level 0: [num_steps + 1, N, 2]."""
    solver = Solver.parse("heun")
    levels = Schedule.parse("edm").with_fields({"sigma_min": SIGMA_MIN, "sigma_max": sigma}).levels(num_steps)
    steps = trajectory(solver, planned(solver, levels), at, start / sigma)
    return torch.stack([start, *(step.x for step in steps)])
