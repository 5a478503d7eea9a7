"""Guidance in a limited interval in one dimension, with ideal denoisers: arXiv 2404.07724, Figs. 1 and 2.

The paper does not print its mixture; this one is ours. The class has two modes of equal mass, and lies above the mean
of everything:

    class:         1/2 N(-0.4, 0.1^2) + 1/2 N(0.8, 0.1^2)
    others:        3/5 N(-1.1, 0.1^2) + 2/5 N(0.2, 0.1^2)
    unconditional: 1/2 class + 1/2 others
"""

import functools
import math

import torch
from torch import Generator, Tensor

from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.sampling.guidance.guided import DenoiseAt
from edm2_guidance.toy.distribution import Mixture
from edm2_guidance.toy.methods import guided, trajectories
from edm2_guidance.toy.scoring import Sampler

WEIGHT = 6.0
DEVIATION = 0.1
NUM_STEPS, SIGMA_MAX = 128, 80.0  # from 80 to 0.002, as for images, but fine enough for smooth paths
#: The paper's settings: none, everywhere, without the high noise levels, without the low ones either.
INTERVALS = {"unguided": None, "everywhere": (0.0, math.inf), "(0, 0.6]": (0.0, 0.6), "(0.1, 0.6]": (0.1, 0.6)}


def class_mixture() -> Mixture:
    """p(x | c); its two modes are its branches."""
    return _mixture([0.5, 0.5], [-0.4, 0.8])


def all_mixture() -> Mixture:
    """p(x)."""
    return _mixture([0.25, 0.25, 0.3, 0.2], [-0.4, 0.8, -1.1, 0.2])


def _mixture(weights: list[float], means: list[float]) -> Mixture:
    centres = torch.tensor(means, dtype=torch.float64)[:, None]
    return Mixture(
        torch.tensor(weights, dtype=torch.float64),
        centres,
        torch.zeros_like(centres),
        torch.full((len(weights), 1, 1), DEVIATION**2, dtype=torch.float64),
        torch.zeros(1, dtype=torch.float64),
    )


def levels() -> list[float]:
    """The noise levels that steps start from."""
    return Schedule.parse("edm").levels(NUM_STEPS)


def guided_steps(interval: tuple[float, float]) -> StepInterval | None:
    """The steps whose starting level lies in the interval (lo, hi]; ends near a level mean that level."""
    return SigmaInterval(*interval).steps(levels())[0]


def denoiser_at(name: str) -> DenoiseAt:
    """The denoiser of each step under one of INTERVALS."""
    main, interval = class_mixture().denoise, INTERVALS[name]
    if interval is None:
        return guided(main)
    return guided(main, (all_mixture().denoise, WEIGHT), guided_steps(interval))


def paths(name: str, num: int, seed: int) -> Tensor:
    """From noise to samples under one of INTERVALS: float32 [steps + 1, num, 1]."""
    noise = torch.randn(num, 1, generator=Generator().manual_seed(seed))
    return trajectories(denoiser_at(name), noise * SIGMA_MAX, SIGMA_MAX, NUM_STEPS)


def samplers() -> dict[str, Sampler]:
    """What `score.score_methods` asks for, by the names of INTERVALS."""
    return {name: functools.partial(_ends, name) for name in INTERVALS}


def _ends(name: str, num: int, seed: int) -> Tensor:
    return paths(name, num, seed)[-1]
