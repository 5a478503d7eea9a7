"""How far work is, in words and as JSON. No torch here."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from dnnlib.terminal import printable
from edm2_guidance.recipe.describe import describe_recipe

if TYPE_CHECKING:
    from edm2_guidance.work.status import WorkStatus


def status_lines(work: "WorkStatus") -> list[str]:
    """One line on the work, one on what it is for, and one on each part that is not simply done or waiting."""
    return list(map(printable, _lines(work)))


def _lines(work: "WorkStatus") -> list[str]:
    total = f" of {work.total}" if work.total else ""
    share = f" ({100 * work.done / work.total:.1f} %)" if work.total else ""
    counts = [f"{len(getattr(work, kind))} {kind}" for kind in ("running", "stale", "failed")]
    pace = [] if work.pace is None or not work.running else [f"{work.pace:.3g} images/s"]
    left = [] if work.seconds_left is None else [f"{duration(work.seconds_left)} left"]
    if work.joining:
        left = [f"being joined by {work.joining}"]
    if work.waits:
        left = [work.waits]
    if not work.done and not work.total and work.waits:
        return [f"{work.path}: {work.waits}"]
    lines = [f"{work.path}: {work.done}{total} images{share}; " + ", ".join([*counts, *pace, *left])]
    method = describe_recipe(work.recipe)
    what = [work.title, "" if method in ("-", work.title) else method, f"seeds {work.seeds}" if work.seeds else ""]
    lines += [f"    {', '.join(filter(None, what))}"] if any(what) else []
    for kind in ("running", "stale"):
        lines += [f"    {name:<18}{kind:<9}{who}, heard of {age:.0f} s ago" for name, who, age in getattr(work, kind)]
    return [*lines, *(f"    {name:<18}failed   {error}" for name, error in work.failed)]


def status_json(works: "Iterable[WorkStatus]") -> str:
    """A list of objects with the attributes of WorkStatus, and `seconds_left`."""
    records = [{**asdict(work), "path": str(work.path), "seconds_left": work.seconds_left} for work in works]
    return json.dumps(records, indent=1)


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3.5 h" or "2.1 days"."""
    for size, unit, digits in ((86400, "days", 1), (3600, "h", 1), (60, "min", 0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"
