"""The methods that the autoguidance paper compares in two dimensions (arXiv 2406.02507, Fig. 1 and App. C)."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from edm2_guidance.sampling.guidance import Denoiser, DenoiserAt, Guide, guided
from edm2_guidance.sampling.heun import heun
from edm2_guidance.sampling.schedule import edm_sigmas
from edm2_guidance.toy.distribution import Mixture, fractal
from edm2_guidance.toy.network import ToyModel
from edm2_guidance.toy.scoring import Sampler

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
) -> Mapping[str, DenoiserAt]:
    """The four ways of sampling of Fig. 1 b-e, by name."""
    main = nets.main.denoise
    return {
        "unguided": guided(main),
        "CFG": guided(main, [Guide(nets.unconditional.denoise, cfg)]),
        "truncation": guided(truncated(main, TRUNCATION)),
        "autoguidance": guided(main, [Guide(nets.weak.denoise, autoguidance)]),
    }


def truth() -> Mixture:
    """What the main network learns: class A of the fractal."""
    return fractal("A")


def samplers(nets: Networks, cfg: float = CFG_WEIGHT, autoguidance: float = AUTOGUIDANCE_WEIGHT) -> dict[str, Sampler]:
    """The same as samplers that `scoring.score_methods` takes."""
    return {name: functools.partial(sample, at) for name, at in compared(nets, cfg, autoguidance).items()}


def truncated(denoiser: Denoiser, factor: float) -> Denoiser:
    """Naive truncation: the score, (D - x) / sigma^2, lengthened by a factor at every noise level."""
    return lambda x, sigma: x + factor * (denoiser(x, sigma) - x)


def sample(at: DenoiserAt, num: int, seed: int, num_steps: int = NUM_STEPS) -> Tensor:
    """Samples, float32 [num, 2]: Heun from noise of level SIGMA_MAX, which is a function of the seed."""
    noise = torch.randn(num, 2, generator=Generator().manual_seed(seed))
    return trajectories(at, noise * SIGMA_MAX, SIGMA_MAX, num_steps)[-1]


def trajectories(at: DenoiserAt, start: Tensor, sigma: float, num_steps: int = NUM_STEPS) -> Tensor:
    """Where the points start [N, 2], of noise level sigma, are after each step to level 0: [num_steps + 1, N, 2]."""
    sigmas = edm_sigmas(num_steps, SIGMA_MIN, sigma)
    return torch.stack([start, *(step.x for step in heun(at, start / sigma, sigmas))])
