"""How far work in a folder is, from any machine that sees the folder, without disturbing it. Torch-free."""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from images.claims import STALE_SECONDS, Claim, Sign, is_gone
from images.shards import PLAN_NAME, count_seeds
from images.zips import RECIPE_NAME

_PACE = 20  # shards, or images, from which the pace of the last while is taken
_PAUSE = 10  # times the usual time between two parts
_IMAGE_PATTERN = "[0-9]*.png"


@dataclass(frozen=True)
class WorkStatus:
    """One piece of work: a ZIP or scores in the making, or a folder of images.

    Attributes:
        path: Its folder.
        total: Images in all; 0 if the folder does not say.
        done: Images that are there.
        running: (what, who, seconds since the last sign of life) of every part that a living process is at.
        stale: The same of parts whose process is gone or silent.
        failed: (what, error) of every part that failed the last time.
        pace: Images per second of late; None if it cannot be told.
        joining: Who joins the parts, or "".
    """

    path: Path
    total: int
    done: int
    running: list[tuple[str, str, float]] = field(default_factory=list)
    stale: list[tuple[str, str, float]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    pace: float | None = None
    joining: str = ""

    @property
    def seconds_left(self) -> float | None:
        """At the pace of late; None if nobody is at it, or if the pace is unknown."""
        if not self.running or not self.pace or self.total == 0:
            return None
        return max(0, self.total - self.done) / self.pace


def find_work(root: str | os.PathLike[str]) -> Iterator[WorkStatus]:
    """The unfinished work in `root` and below it, and its folders of images. ValueError if `root` is no folder."""
    top = Path(root)
    if not top.is_dir():
        raise ValueError(f"{top} is no folder: give one that holds results, shards or images")
    for folder, names, files in os.walk(top):
        names.sort()
        path = Path(folder)
        if PLAN_NAME in files:
            names.clear()
            status = shards_status(path)
        elif RECIPE_NAME in files:
            status = images_status(path)
        else:
            continue
        if status is not None:
            yield status


def shards_status(folder: Path) -> WorkStatus | None:
    """Status of a folder of shards (images.shards); None if it is gone by now. ValueError for an unreadable plan."""
    plan = _read_json(folder / PLAN_NAME)
    if plan is None:
        return None
    total, size = _number(plan, "num_images", folder), _number(plan, "shard_size", folder)
    found: dict[int, tuple[float, int]] = {}
    for path in [*folder.glob("shard-*.zip"), *folder.glob("shard-*.npz")]:
        index = path.stem.removeprefix("shard-")
        if index.isdecimal() and (stamp := _touched(path)) is not None:
            found[int(index)] = (stamp, min(size, total - int(index) * size))
    running, stale = _claims(folder, "shard-*.claim")
    (joining,) = _claims(folder, "join.*.claim")[0][:1] or [("", "", 0.0)]
    return WorkStatus(
        path=folder,
        total=total,
        done=sum(number for _, number in found.values()),
        running=running,
        stale=stale,
        failed=sorted(_failures(folder)),
        pace=_pace(list(found.values())),
        joining=joining[1],
    )


def images_status(folder: Path) -> WorkStatus | None:
    """Status of a folder of images with their recipe (images.recipe_folder); None if that is not what it is."""
    recipe = _read_json(folder / RECIPE_NAME)
    if recipe is None or "recipe_hash" not in recipe:
        return None
    stamps = [(stamp, 1) for path in folder.rglob(_IMAGE_PATTERN) if (stamp := _touched(path)) is not None]
    running, stale = _claims(folder, "batch-*.claim", "worker-*.claim")
    total = count_seeds(str(recipe.get("asked", "")))
    return WorkStatus(folder, total, len(stamps), running, stale, pace=_pace(stamps))


def _claims(folder: Path, *patterns: str) -> tuple[list[tuple[str, str, float]], list[tuple[str, str, float]]]:
    """Claims of living processes, and of others: (name, owner, seconds since its last sign of life)."""
    names = sorted({path.name.rsplit(".", 2)[0] for pattern in patterns for path in folder.glob(pattern)})
    signs = [(name, sign) for name in names if (sign := Claim(folder, name).sign()) is not None]
    now = _now(folder) if signs else 0.0
    running: list[tuple[str, str, float]] = []
    stale: list[tuple[str, str, float]] = []
    for name, sign in signs:
        line = (name, sign.holder.partition(" ")[0] or "somebody", max(0.0, now - sign.touched))
        (stale if _is_silent(sign, now) else running).append(line)
    return running, stale


def _is_silent(sign: Sign, now: float) -> bool:
    return is_gone(sign.holder) or now - sign.touched > STALE_SECONDS


def _failures(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.glob("shard-*.failed"):
        content = _read_json(path, {}) or {}
        yield path.stem, str(content.get("error", "(no reason was written down)"))


def _pace(stamps: list[tuple[float, int]]) -> float | None:
    """Images per second over the last few parts; (when it was finished, images) of each.

    A pause between runs, far longer than what is usual between two parts, is not counted in full.
    """
    last = sorted(stamps)[-_PACE:]
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(last)]
    if not gaps:
        return None
    usual = median(gaps)
    seconds = sum(min(gap, _PAUSE * usual) if usual > 0 else gap for gap in gaps)
    return sum(number for _, number in last[1:]) / seconds if seconds > 0 else None


def _now(folder: Path) -> float:
    """By the clock of the file system that holds the folder, or by ours where nothing can be written."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".status-", suffix=".tmp") as file:
            return os.stat(file.name).st_mtime
    except OSError:
        return time.time()


def _touched(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # joined meanwhile
        return None


def _read_json(path: Path, broken: Any = ValueError) -> dict[str, Any] | None:
    """None if the file is gone; `broken` in place of what is not a JSON object, or a ValueError."""
    try:
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
            return content
        reason = "no object"
    except FileNotFoundError:
        return None
    except ValueError as error:
        reason = str(error)
    if broken is ValueError:
        raise ValueError(f"{path} is unreadable ({reason})")
    return dict(broken)


def _number(plan: Mapping[str, Any], key: str, folder: Path) -> int:
    value = plan.get(key)
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{folder / PLAN_NAME} names no {key}: this is no folder of shards")
    return value
