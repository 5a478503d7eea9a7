"""Checks made one after the other, each in a process of its own: whatever ends one, the next is made. No torch here.

What is kept, in the folder of the report:

    report.md      for people
    report.json    the same for programs, and for the next start, which makes what is not ok
    KEY/           what checks make, and CHECK.txt, what they print; KEY stands for version and device
"""

import faulthandler
import hashlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dnnlib.atomic import atomic_path
from dnnlib.plain_json import parse_json
from dnnlib.urls import without_secrets
from edm2_guidance.reproduction.verification.check import CHECKS, Check, Finding, Place, Skip

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

FORMAT = 1
MINUTES = {True: 10.0, False: 58.0}  # of all checks together, by --quick
_GRACE = 10.0  # seconds that a check has to end when it is told to
_OUT_OF_TIME = "out of time after"
_NO_TIME = "no time is left: start again, it goes on"

Status = Literal["ok", "FAILED", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """What came of a check.

    reason: why it was skipped, or what is wrong. trace: where it broke off; "" if it came to its end. key: of version
    and device, with which it counts; [] of a check that is made every time.
    """

    status: Status
    reason: str = ""
    seconds: float = 0.0
    summary: str = ""
    table: list[list[str]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    trace: str = ""
    key: list[str] = field(default_factory=list)
    when: str = ""


@dataclass(frozen=True)
class Settings:
    """folder: of the report. names: of the checks to make. quick, again, device, offline: as the options."""

    folder: Path
    names: Sequence[str]
    device: str = "auto"
    quick: bool = False
    offline: bool = False
    again: bool = False


def wanted(quick: bool) -> list[str]:
    """The checks of a whole run."""
    return [name for name, check in CHECKS.items() if not quick or check.in_quick is not None]


def verify(
    settings: Settings, before: Mapping[str, Outcome], clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[str, Outcome]]:
    """Make the checks; gives each with its outcome, those of an earlier start too. The machine's is made each time.

    before: what earlier starts found (`load`).
    """
    made: dict[str, Outcome] = {}
    end = clock() + 60 * MINUTES[settings.quick]
    place = Place(settings.folder, settings.device, settings.offline, 0.0, {})
    key: list[str] = []
    for check in (CHECKS[name] for name in dict.fromkeys(["machine", *settings.names])):
        known = before.get(check.name)
        if known is not None and known.status == "ok" and known.key == key != [] and not settings.again:
            made[check.name] = known
        else:
            limit = 60 * ((check.in_quick if settings.quick else None) or check.minutes)
            seconds = min(limit, end - clock())
            values = {name: outcome.values for name, outcome in {**before, **made}.items() if outcome.key in ([], key)}
            outcome = _skipped(check, made, seconds) or attempt(check, replace(place, seconds=seconds, values=values))
            if seconds < limit and outcome.reason.startswith(_OUT_OF_TIME):
                outcome = Outcome("skipped", _NO_TIME, outcome.seconds)
            made[check.name] = replace(outcome, key=key)
        if check.name == "machine":
            key = made["machine"].values.get("key", [])
            place = replace(place, folder=_work_folder(settings, key))
        yield check.name, made[check.name]


def _work_folder(settings: Settings, key: list[str]) -> Path:
    """What checks made by another version, or on another device, is none of this one's."""
    folder = settings.folder / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]
    if settings.again:
        shutil.rmtree(folder, ignore_errors=True)
    return folder


def _skipped(check: Check, made: Mapping[str, Outcome], seconds: float) -> Outcome | None:
    """Why a check is not made, if it is not."""
    if seconds <= 0:
        return Outcome("skipped", _NO_TIME)
    lost = [name for name in ("machine", *check.needs) if name in made and _is_lost(made[name])]
    return Outcome("skipped", f"it needs {lost[0]}") if lost else None


def _is_lost(outcome: Outcome) -> bool:
    """Whether a check came to no end: one that found something wrong may have what others need."""
    return outcome.status == "skipped" or outcome.trace != ""


def attempt(check: Check, place: Place) -> Outcome:
    """Make one check in a process of its own, which is ended when its time is over."""
    began = time.monotonic()
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        outcome = isolated(check, place)
    except Exception as error:  # a disk that is full, a system without processes: the next check is made anyway
        outcome = _broken(error)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(outcome, seconds=round(time.monotonic() - began, 1), when=when)


def isolated(check: Check, place: Place) -> Outcome:
    """The outcome of a check, out of the process that makes it."""
    import multiprocessing  # not for --help

    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_in_process, args=(check, place, theirs))
    process.start()
    theirs.close()
    try:
        if not ours.poll(place.seconds):
            _ask_where(process)
            reason = f"{_OUT_OF_TIME} {place.seconds / 60:.3g} min: start again, or run it by hand"
            return Outcome("FAILED", reason, trace=_printed(check, place) or reason)
        outcome: Outcome = ours.recv()
        return outcome
    except EOFError:
        process.join(_GRACE)
        reason = f"its process ended with exit code {process.exitcode}"
        return Outcome("FAILED", reason, trace=_printed(check, place) or reason)
    finally:
        _end(process)


def _in_process(check: Check, place: Place, answer: "Connection") -> None:
    """What a process does: a check, as the first of its own group, so that all that it starts ends with it."""
    if hasattr(os, "setsid"):
        os.setsid()
    with open(place.folder / f"{check.name}.txt", "w", encoding="utf-8") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        faulthandler.enable(log)
        if hasattr(faulthandler, "register"):  # not on Windows
            faulthandler.register(signal.SIGUSR1, log)
        answer.send(here(check, place))


def _ask_where(process: Any) -> None:
    """Have a process that takes too long print what it is doing."""
    with suppress(OSError, AttributeError):
        os.kill(process.pid, signal.SIGUSR1)
        process.join(0.5)


def here(check: Check, place: Place) -> Outcome:
    """The outcome of a check that is made in this process."""
    try:
        found = check(place)
    except Skip as error:
        return Outcome("skipped", _shown(error))
    except Exception as error:
        return _broken(error)
    return _of(found)


def _of(found: Finding) -> Outcome:
    return Outcome(
        "FAILED" if found.problems else "ok",
        "; ".join(map(_shown, found.problems)),
        summary=_shown(found.summary),
        table=[[_shown(cell) for cell in row] for row in found.table],
        values=found.values,
    )


def _broken(error: Exception) -> Outcome:
    trace = _shown("".join(traceback.format_exception(error)))
    return Outcome("FAILED", " ".join(f"{type(error).__name__}: {_shown(error)}".split()), trace=trace)


def _shown(text: object) -> str:
    """Fit to be sent to others: no secrets of URLs, and not where the user's home is."""
    home = os.path.expanduser("~")
    shown = without_secrets(str(text))
    return shown.replace(home, "~") if len(home) > 1 else shown


def _printed(check: Check, place: Place) -> str:
    """The end of what a check printed."""
    with suppress(OSError):
        return _shown((place.folder / f"{check.name}.txt").read_text(encoding="utf-8", errors="replace")[-4000:])
    return ""


def _end(process: Any) -> None:
    """End a process and all that it started: told to first, then killed."""
    for number in ("SIGTERM", "SIGKILL"):
        with suppress(OSError, AttributeError):
            os.killpg(process.pid, getattr(signal, number))
        if process.is_alive():
            process.terminate() if number == "SIGTERM" else process.kill()
        process.join(_GRACE)


# ----------------------------------------------------------------------------
# What is kept.


def load(folder: Path) -> dict[str, Outcome]:
    """The outcomes of earlier starts, by check. ValueError if the file is not one that `save` writes."""
    path = folder / "report.json"
    if not path.exists():
        return {}
    try:
        data = parse_json(path.read_bytes())
        if data["format"] != FORMAT:
            raise ValueError(f"is of format {data['format']}")
        return {name: Outcome(**each) for name, each in data["checks"].items() if name in CHECKS}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no report of this version ({error}): take another --outdir") from error


def save(folder: Path, outcomes: Mapping[str, Outcome], markdown: str) -> None:
    """Both files, whole. OSError if they cannot be written."""
    command = _shown(" ".join(sys.argv[1:]))
    data = {"format": FORMAT, "arguments": command, "checks": {name: asdict(each) for name, each in outcomes.items()}}
    with atomic_path(folder / "report.json") as path:
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    with atomic_path(folder / "report.md") as path:
        path.write_text(markdown, encoding="utf-8")


def taken(known: Mapping[str, Outcome], name: str, outcome: Outcome) -> dict[str, Outcome]:
    """What is known with one more outcome; one that was skipped now leaves what an earlier start found."""
    stays = outcome.status == "skipped" and name in known
    return {each: known[each] if stays or each != name else outcome for each in CHECKS if each in {*known, name}}
