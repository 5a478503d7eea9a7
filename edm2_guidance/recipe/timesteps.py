"""The noise levels that networks of discrete time know (arXiv 2006.11239, 2102.09672): one per timestep 0..999."""

import itertools
import math
import re
from collections.abc import Iterable
from functools import cache
from typing import Literal

NUM_TIMESTEPS = 1000

Betas = Literal["linear", "cosine", "scaled-linear"]  # of ADM and DiT; of improved DDPM and IF; of Stable Diffusion


@cache
def alphas_bar(betas: Betas) -> tuple[float, ...]:
    """The share of the image's variance that is left at each timestep: x_t = sqrt(a) image + sqrt(1 - a) noise."""
    return kept_of(_betas(betas))


def kept_of(betas: Iterable[float]) -> tuple[float, ...]:
    """The same of any variances that the steps add."""
    return tuple(itertools.accumulate((1 - beta for beta in betas), lambda product, kept: product * kept))


@cache
def noise_levels(betas: Betas) -> tuple[float, ...]:
    """sigma of each timestep, rising: standard deviation of the noise beside an image of weight 1."""
    return levels_of(alphas_bar(betas))


def levels_of(shares: Iterable[float]) -> tuple[float, ...]:
    """The noise levels at which these shares of the image's variance are left."""
    return tuple(math.sqrt((1 - kept) / kept) for kept in shares)


def _betas(betas: Betas) -> list[float]:
    if betas == "linear":
        return linear_betas(1e-4, 0.02)
    return cosine_betas() if betas == "cosine" else scaled_linear_betas(0.00085, 0.012)


def linear_betas(first: float, last: float, count: int = NUM_TIMESTEPS) -> list[float]:
    """Variances that rise evenly (arXiv 2006.11239, Section 4)."""
    return [first + (last - first) * t / (count - 1) for t in range(count)]


def scaled_linear_betas(first: float, last: float, count: int = NUM_TIMESTEPS) -> list[float]:
    """Variances whose roots rise evenly, as of latent diffusion (arXiv 2112.10752)."""
    return [root**2 for root in linear_betas(math.sqrt(first), math.sqrt(last), count)]


def cosine_betas(count: int = NUM_TIMESTEPS) -> list[float]:
    """Variances that leave a share of cos^2 of the image (arXiv 2102.09672, Eq. 17)."""

    def kept(t: int) -> float:
        return math.cos((t / count + 0.008) / 1.008 * math.pi / 2) ** 2

    return [min(1 - kept(t + 1) / kept(t), 0.999) for t in range(count)]


def kept_timesteps(steps: str) -> list[int]:
    """The timesteps, rising, that a step list keeps of the 1000: "ddim25", "250" or "100+50+40+30+30".

    `ddimN` takes every so manieth; numbers are how many to take of as many equal sections, both ends among them.
    ValueError for any other text, and for more than there are.
    """
    if strided := re.fullmatch(r"ddim([1-9][0-9]{0,3})", steps):
        return _strided(int(strided[1]))
    if not re.fullmatch(r"[1-9][0-9]{0,3}(\+[1-9][0-9]{0,3}){0,999}", steps):
        raise ValueError(f"steps={steps}: give a number, several joined by + for equal sections, or ddimN for a stride")
    counts = [int(count) for count in steps.split("+")]
    size, longer = divmod(NUM_TIMESTEPS, len(counts))
    kept, start = [], 0
    for section, count in enumerate(counts):
        length = size + (section < longer)
        if count > length:
            raise ValueError(f"steps={steps}: a section of {length} timesteps holds no {count}")
        stride, offset = (length - 1) / (count - 1) if count > 1 else 1.0, 0.0
        for _ in range(count):
            kept.append(start + round(offset))  # halves to even, and the sum carried along, as published
            offset += stride
        start += length
    return kept


def _strided(count: int) -> list[int]:
    for stride in range(1, NUM_TIMESTEPS + 1):
        found = range(0, NUM_TIMESTEPS, stride)
        if len(found) == count:
            return list(found)
    raise ValueError(f"steps=ddim{count}: no whole stride takes {count} of {NUM_TIMESTEPS} timesteps")
