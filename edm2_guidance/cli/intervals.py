"""Option types for the interval of a guide: in sampling steps, or in noise levels. No torch here."""

import re
from abc import abstractmethod
from collections.abc import Sequence

from edm2_guidance.cli.param_type import ParamType
from edm2_guidance.cli.say import note
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval

EVERYWHERE = "everywhere"  # an interval option that says: no limit
NOWHERE = "nowhere"  # of a guide that is off, which no option says
Interval = StepInterval | SigmaInterval | str


class _IntervalType(ParamType):
    def parse(self, text: str) -> Interval:
        return EVERYWHERE if text.lower() in ("none", EVERYWHERE) else self.limits(text)

    @abstractmethod
    def limits(self, text: str) -> StepInterval | SigmaInterval:
        """An interval that has limits."""


class Steps(_IntervalType):
    """FIRST,LAST (also "[17, 22]" and 17-22) as a StepInterval; None as EVERYWHERE."""

    name = "first,last"

    def limits(self, text: str) -> StepInterval:
        match = re.fullmatch(r"[\[(]?\s*(\d+)\s*[,-]\s*(\d+)\s*[\])]?", text)
        if match is None:
            advice = "give FIRST,LAST in sampling steps, such as 17,22, or None for all"
            raise ValueError(f"{advice}; noise levels are --guidance-sigma")
        return StepInterval(int(match[1]), int(match[2]))


class Sigmas(_IntervalType):
    """LO,HI as a SigmaInterval (inf allowed); None as EVERYWHERE."""

    name = "lo,hi"

    def limits(self, text: str) -> SigmaInterval:
        try:
            lo, hi = (float(part) for part in text.strip("[]()").split(","))
        except ValueError:
            raise ValueError("give LO,HI in noise levels, such as 0.28,2.90, or None") from None
        return SigmaInterval(lo, hi)


def on_schedule(interval: StepInterval | str | None, defined: Sequence[float], used: Sequence[float]) -> Interval:
    """An interval that is known in steps from some levels, for others: by the noise levels that the steps stand for."""
    if interval is None or isinstance(interval, str):
        return interval or EVERYWHERE
    if used == defined:
        return interval
    sigmas = interval.sigmas(defined)
    note(f"{interval} of {len(defined)} are taken as {sigmas} on this schedule")
    return sigmas
