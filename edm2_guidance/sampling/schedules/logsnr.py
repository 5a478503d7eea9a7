"""Noise levels evenly spaced in the logarithm."""

from dataclasses import dataclass
from typing import ClassVar, Self

from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.recipe.spec import option


@dataclass(frozen=True)
class LogSNR(Schedule):
    """Evenly spaced in log sigma: equal steps of the log signal-to-noise ratio."""

    kind: ClassVar[str] = "logsnr"
    source: ClassVar[str] = "arXiv 2206.00364, Table 1 (VE)"
    formula: ClassVar[str] = "sigma_i = sigma_max (sigma_min / sigma_max)^(i / (n - 1))"

    sigma_min: float = option(0.002, "Lowest noise level", unit="sigma", above=0)
    sigma_max: float = option(80.0, "Highest noise level", unit="sigma", above=0)

    def check(self) -> None:
        if not self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min:g}, sigma_max {self.sigma_max:g}: need min < max")

    def between(self, top: float, bottom: float) -> Self:
        return self.with_fields({"sigma_max": top, "sigma_min": bottom})

    def within(self, low: float, high: float) -> Self:
        return self.between(min(self.sigma_max, high), max(self.sigma_min, low))

    def levels(self, num_steps: int) -> list[float]:
        last = max(num_steps - 1, 1)
        return [self.sigma_max * (self.sigma_min / self.sigma_max) ** (i / last) for i in range(num_steps)]
