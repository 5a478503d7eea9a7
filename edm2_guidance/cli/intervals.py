"""Option types for the interval of a guide: in sampling steps, or in noise levels. No torch here."""

import re
from collections.abc import Sequence
from typing import Any

import click

from edm2_guidance.cli.param_type import ParamType
from edm2_guidance.recipe.recipe import SigmaInterval, StepInterval

EVERYWHERE = "everywhere"  # an interval option that says: no limit
Interval = StepInterval | SigmaInterval | str


class Steps(ParamType):
    """FIRST,LAST (also "[17, 22]" and 17-22) as a StepInterval; None as EVERYWHERE."""

    name = "first,last"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> StepInterval | str:
        if isinstance(value, StepInterval):
            return value
        text = str(value).strip()
        if text.lower() in ("none", EVERYWHERE):
            return EVERYWHERE
        match = re.fullmatch(r"[\[(]?\s*(\d+)\s*[,-]\s*(\d+)\s*[\])]?", text)
        if match is None:
            self.fail(
                "give FIRST,LAST in sampling steps, such as 17,22, or None for all; noise levels are --guidance-sigma",
                param,
                ctx,
            )
        try:
            return StepInterval(int(match[1]), int(match[2]))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Sigmas(ParamType):
    """LO,HI as a SigmaInterval (inf allowed); None as EVERYWHERE."""

    name = "lo,hi"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> SigmaInterval | str:
        if isinstance(value, SigmaInterval):
            return value
        text = str(value).strip()
        if text.lower() in ("none", EVERYWHERE):
            return EVERYWHERE
        parts = text.strip("[]()").split(",")
        try:
            lo, hi = (float(part) for part in parts)
            return SigmaInterval(lo, hi)
        except ValueError as error:
            reason = str(error) if "LO,HI" in str(error) else "give LO,HI in noise levels, such as 0.28,2.90, or None"
            self.fail(reason, param, ctx)


def on_schedule(interval: StepInterval | str | None, defined: Sequence[float], used: Sequence[float]) -> Interval:
    """An interval that is known in steps from some levels, for others: by the noise levels that the steps stand for."""
    if interval is None or isinstance(interval, str):
        return EVERYWHERE
    if used == defined:
        return interval
    sigmas = interval.sigmas(defined)
    click.echo(f"note: {interval} of {len(defined)} are taken as {sigmas} on this schedule", err=True)
    return sigmas
