"""The report of all checks, in Markdown. No torch here."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from textwrap import shorten

from dnnlib.terminal import counted, printable
from dnnlib.versions import PROJECT
from edm2_guidance.papers.listing import as_markdown, markdown_text
from edm2_guidance.reproduction.verification.check import CHECKS, Check
from edm2_guidance.reproduction.verification.run import Outcome


def markdown(outcomes: Mapping[str, Outcome], asked: Sequence[str], options: str = "") -> str:
    """What a maintainer needs. asked: the checks of this run, of which some may not have been made; options: its."""
    states = [each.status for each in outcomes.values()]
    counts = ", ".join(f"{states.count(status)} {status}" for status in ("ok", "FAILED", "skipped"))
    waiting = [name for name in asked if name not in outcomes]
    parts = [f"# {PROJECT} verify: {counts}" + (f", {len(waiting)} not made" if waiting else "")]
    parts.append(as_markdown([("check", "result", "seconds", "what"), *map(_line, outcomes, outcomes.values())]))
    if waiting:
        parts.append(f"Not made yet: {', '.join(waiting)}. The same command goes on.")
    parts += chain.from_iterable(_section(CHECKS[name], each, options) for name, each in outcomes.items())
    return "\n\n".join(parts) + "\n"


def line(name: str, outcome: Outcome, *, earlier: bool = False) -> str:
    """A check in one line, for a terminal. earlier: an earlier start made it."""
    _, status, seconds, what = _line(name, outcome)
    return printable(f"{name:<15}{status:<9}{seconds:>7} s  {what}{' (found before)' if earlier else ''}")


def _line(name: str, outcome: Outcome) -> tuple[str, ...]:
    what = shorten(outcome.reason or outcome.summary, 160, placeholder=" ...")
    return name, outcome.status, f"{outcome.seconds:.1f}", what


def _section(check: Check, outcome: Outcome, options: str) -> Iterator[str]:
    """All that is known of one check."""
    yield f"## {check.name}: {outcome.status}"
    yield f"{check.asks} {counted(round(outcome.seconds), 'second')}, {outcome.when or 'not made'}."
    if outcome.reason:
        yield markdown_text(outcome.reason)
    if outcome.table:
        yield as_markdown(outcome.table)
    if outcome.trace:
        yield "\n".join(f"    {printable(each)}" for each in outcome.trace.splitlines())
    again = " --again" if outcome.status == "ok" else ""
    commands = (f"python reproduce.py verify --checks={check.name}{again}{options}", *check.by_hand)
    yield "Again, or by hand:\n\n" + "\n".join(f"    {command}" for command in commands)
