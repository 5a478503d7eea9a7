"""Noise levels at the quantiles of a Beta distribution."""

import itertools
import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

from dnnlib.terminal import counted
from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.recipe.spec import option
from edm2_guidance.recipe.timesteps import NUM_TIMESTEPS, noise_levels


@dataclass(frozen=True)
class BetaSpaced(Schedule):
    """Dense at both ends: at quantiles q of Beta(a, b), falling from 1 to 0. Experimental: what of, is a reading.

    time, as in the paper: timestep 999 q, rounded, of linear betas; time-cosine: of cosine ones. sigma: evenly between
    sigma_min and sigma_max, as a widely used code has it. rho: q in place of the even steps of EDM's schedule, which is
    not from the paper, but meant for EDM's networks.
    """

    kind: ClassVar[str] = "beta"
    source: ClassVar[str] = "arXiv 2407.12173"
    formula: ClassVar[str] = (
        "q_i = quantile of Beta(a, b) at 1 - i / (n - 1)\n"
        "rho: sigma_i = (sigma_min^(1/rho) + q_i (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho"
    )

    of: Literal["rho", "sigma", "time", "time-cosine"] = option("rho", "What the quantiles are of")
    a: float = option(0.6, "First parameter of the distribution", above=0, high=100)
    b: float = option(0.6, "Second parameter of the distribution", above=0, high=100)
    sigma_min: float = option(0.002, "Lowest noise level, unless of time", unit="sigma", above=0)
    sigma_max: float = option(80.0, "Highest noise level, unless of time", unit="sigma", above=0)
    rho: float = option(7.0, "Exponent, of rho", above=0, high=100)

    def check(self) -> None:
        if not self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min:g}, sigma_max {self.sigma_max:g}: need min < max")

    def levels(self, num_steps: int) -> list[float]:
        last = max(num_steps - 1, 1)
        try:
            levels = [self._level(_quantile(1 - index / last, self.a, self.b)) for index in range(num_steps)]
        except OverflowError:
            levels = [math.inf]
        if not (all(a > b for a, b in itertools.pairwise(levels)) and math.isfinite(levels[0])):
            raise ValueError(f"{counted(num_steps, 'step')} of {self} are no falling noise levels: take fewer steps")
        return levels

    def _level(self, q: float) -> float:
        if self.of.startswith("time"):
            return noise_levels("cosine" if self.of == "time-cosine" else "linear")[round((NUM_TIMESTEPS - 1) * q)]
        power = self.rho if self.of == "rho" else 1.0
        top, bottom = self.sigma_max ** (1 / power), self.sigma_min ** (1 / power)
        return float((bottom + q * (top - bottom)) ** power)


@cache
def _quantile(p: float, a: float, b: float) -> float:
    """Where the distribution function of Beta(a, b) is p, by bisection."""
    if p in (0, 1):
        return p
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _share_below(middle, a, b) < p else (low, middle)
    return high


def _share_below(x: float, a: float, b: float) -> float:
    """The distribution function of Beta(a, b), by its continued fraction, where that converges fast."""
    if x > (a + 1) / (a + b + 2):
        return 1 - _share_below(1 - x, b, a)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta) / a
    fraction = 1.0
    for m in range(40, 0, -1):  # from the inside
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        fraction = 1 + even / (1 + odd / fraction)
    return front / (1 - (a + b) * x / (a + 1) / fraction)
