"""Weights of one's own, by noise level."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edm2_guidance.recipe.parts import Reference, Sampler, Scheduled, StepInfo
from edm2_guidance.recipe.spec import option
from edm2_guidance.sampling.from_file import FromFile, check_falling, read_columns

_AS_GIVEN = 2.0  # the w at which the table's weights hold


@dataclass(frozen=True)
class Table(FromFile, Scheduled):
    """Weights of your own, table:file=FILE, a noise level and a weight on each line; levels fall. 1 = off.

    In between, the weight goes straight over ln sigma; beyond the ends it stays. The step's level in the schedule
    counts. Another w than 2 scales what the weights are above 1, by w - 1, so that w can be searched; w = 1 is off.
    """

    kind: ClassVar[str] = "table"
    formula: ClassVar[str] = "w_t = 1 + (w - 1) (v(sigma) - 1), v from a table, straight over ln sigma"

    w: float = option(_AS_GIVEN, "2 = the weights as they are given; 1 = off")
    sigmas: tuple[float, ...] = option((), "Noise levels, falling, joined by +", unit="sigmas")
    weights: tuple[float, ...] = option((), "The weight at each, joined by +")

    @property
    def schedule(self) -> str:
        return self.with_fields({"w": _AS_GIVEN}).caption

    @property
    def flag(self) -> str:
        return str(self.with_fields({"w": _AS_GIVEN}))

    @property
    def stated(self) -> bool:
        return self.w not in (1, _AS_GIVEN)

    def check(self) -> None:
        super().check()
        check_falling(self.kind, self.sigmas)
        if len(self.sigmas) != len(self.weights) or not all(map(math.isfinite, self.weights)):
            raise ValueError(f"{self.kind}: a finite weight for each noise level is needed")

    def check_use(self, sampler: Sampler, reference: Reference) -> None:
        if not self.sigmas:
            raise ValueError(f"the weight {self.kind} is empty: {self.kind}:file=FILE, a level and a weight a line")

    def read(self, path: Path) -> dict[str, Any]:
        sigmas, weights = read_columns(path, ["a noise level", "a weight"])
        return {"sigmas": sigmas, "weights": weights}

    def value(self, step: StepInfo) -> float:
        return 1 + (self.w - 1) * (self._weight(step.level) - 1)

    def _weight(self, level: float) -> float:
        after = bisect_left(self.sigmas, -level, key=lambda sigma: -sigma)
        if after in (0, len(self.sigmas)):
            return self.weights[min(after, len(self.weights) - 1)]
        higher, lower = self.sigmas[after - 1], self.sigmas[after]
        share = math.log(higher / level) / math.log(higher / lower)
        return self.weights[after - 1] + share * (self.weights[after] - self.weights[after - 1])
