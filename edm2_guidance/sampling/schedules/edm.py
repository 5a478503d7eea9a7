"""The schedule of EDM."""

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar, Self

from dnnlib.terminal import counted
from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.recipe.spec import option


@dataclass(frozen=True)
class EDM(Schedule):
    """Evenly spaced in sigma^(1/rho)."""

    kind: ClassVar[str] = "edm"
    source: ClassVar[str] = "arXiv 2206.00364, Eq. 5"
    formula: ClassVar[str] = "sigma_i = (sigma_max^(1/rho) + i / (n - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho"

    sigma_min: float = option(0.002, "Lowest noise level", unit="sigma", above=0)
    sigma_max: float = option(80.0, "Highest noise level", unit="sigma", above=0)
    rho: float = option(7.0, "Schedule exponent", above=0)

    def check(self) -> None:
        if not self.sigma_min <= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min:g}, sigma_max {self.sigma_max:g}: need min <= max")

    def between(self, top: float, bottom: float) -> Self:
        return self.with_fields({"sigma_max": top, "sigma_min": bottom})

    def within(self, low: float, high: float) -> Self:
        return self.between(min(self.sigma_max, high), max(self.sigma_min, low))

    def levels(self, num_steps: int) -> list[float]:
        last = max(num_steps - 1, 1)
        try:
            top, bottom = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
            levels = [(top + i / last * (bottom - top)) ** self.rho for i in range(num_steps)]
        except OverflowError:
            levels = [math.inf]
        falling = all(a > b > 0 for a, b in itertools.pairwise(levels))
        if not (falling and all(map(math.isfinite, levels))):
            raise ValueError(
                f"{counted(num_steps, 'step')} from {self.sigma_max:g} to {self.sigma_min:g} with rho {self.rho:g} are "
                "no falling noise levels: take fewer steps, levels further apart, or rho nearer to 7"
            )
        return levels
