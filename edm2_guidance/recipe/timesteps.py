"""The noise levels that networks of discrete time know (arXiv 2006.11239, 2102.09672): one per timestep 0..999."""

import itertools
import math
from functools import cache
from typing import Literal

NUM_TIMESTEPS = 1000

Betas = Literal["linear", "cosine"]


@cache
def alphas_bar(betas: Betas) -> tuple[float, ...]:
    """The share of the image's variance that is left at each timestep: x_t = sqrt(a) image + sqrt(1 - a) noise."""
    return tuple(itertools.accumulate((1 - beta for beta in _betas(betas)), lambda product, kept: product * kept))


@cache
def noise_levels(betas: Betas) -> tuple[float, ...]:
    """sigma of each timestep, rising: standard deviation of the noise beside an image of weight 1."""
    return tuple(math.sqrt((1 - kept) / kept) for kept in alphas_bar(betas))


def _betas(betas: Betas) -> list[float]:
    if betas == "linear":
        first, last = 1e-4, 0.02
        return [first + (last - first) * t / (NUM_TIMESTEPS - 1) for t in range(NUM_TIMESTEPS)]

    def kept(t: int) -> float:
        return math.cos((t / NUM_TIMESTEPS + 0.008) / 1.008 * math.pi / 2) ** 2

    return [min(1 - kept(t + 1) / kept(t), 0.999) for t in range(NUM_TIMESTEPS)]
