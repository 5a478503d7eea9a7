"""Where a guide guides: an interval of sampling steps, or of noise levels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edm2_guidance.recipe.parts import StepInfo

SNAP_TOLERANCE = 0.02  # printed interval ends are off by up to 1.1 %; the next grid value is at least 16 % away


@dataclass(frozen=True)
class StepInterval:
    """Guidance on the sampling steps first..last, both included, counted from 0 (noisiest)."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise ValueError(f"interval of steps {self.first},{self.last}: write FIRST,LAST with 0 <= FIRST <= LAST")

    def sigmas(self, levels: Sequence[float]) -> "SigmaInterval":
        """The noise levels that these steps stand for, on a schedule of starting levels that has them."""
        after = [*levels, 0.0]
        return SigmaInterval(after[self.last + 1], after[self.first])

    def __contains__(self, step: object) -> bool:
        return isinstance(step, int) and self.first <= step <= self.last

    def holds(self, step: StepInfo) -> bool:
        """Whether a step is in it."""
        return step.index in self

    def __str__(self) -> str:
        return f"steps {self.first}-{self.last}"


@dataclass(frozen=True)
class SigmaInterval:
    """Guidance at noise levels sigma in (lo, hi], arXiv 2404.07724, Eq. 5."""

    lo: float
    hi: float

    def __post_init__(self) -> None:
        if not 0 <= self.lo < self.hi:  # also refuses NaN
            raise ValueError(f"interval of noise levels {self.lo:g},{self.hi:g}: write LO,HI with 0 <= LO < HI")

    def steps(self, sigmas: Sequence[float]) -> tuple[StepInterval | None, list[str]]:
        """The steps whose starting sigma lies in (lo, hi], and a note for each end that was snapped.

        `sigmas` are the levels that steps start from, falling. Published ends are printed with two decimals; an end
        within 2 % of a level is taken to mean that level (0 and infinity never are). None = no step lies inside.
        """
        notes: list[str] = []
        lo, hi = (_snap(end, sigmas, notes) for end in (self.lo, self.hi))
        inside = [i for i, sigma in enumerate(sigmas) if lo < sigma <= hi]
        return (StepInterval(inside[0], inside[-1]) if inside else None), notes

    def holds(self, step: StepInfo) -> bool:
        """Whether a step is in it, by the level that it starts from."""
        return self.lo < step.level <= self.hi

    def __str__(self) -> str:
        return f"sigma in ({self.lo:.4g}, {self.hi:.4g}]"


def _snap(end: float, sigmas: Sequence[float], notes: list[str]) -> float:
    if end == 0 or math.isinf(end):
        return end
    nearest = min(sigmas, key=lambda sigma: abs(sigma - end))
    if nearest == end or abs(nearest - end) > SNAP_TOLERANCE * end:
        return end
    notes.append(f"{end:g} read as the schedule's level {nearest:.4f}")
    return nearest


def interval_of(given: Any) -> Any:
    """An interval, or (FIRST, LAST) steps."""
    if given is None or isinstance(given, StepInterval | SigmaInterval):
        return given
    if not isinstance(given, tuple | list) or len(given) != 2 or not all(isinstance(end, int) for end in given):
        raise ValueError(f"interval {given}: two steps, (FIRST, LAST); or noise levels, SigmaInterval(LO, HI)")
    return StepInterval(*given)
