"""How far work in a folder is, from any machine that sees the folder, without disturbing it. Torch-free."""

import fnmatch
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edm2_guidance.images.members import RECIPE_NAME
from edm2_guidance.images.unzip import open_zip
from edm2_guidance.images.zips import read_json, read_object
from edm2_guidance.work.lease import STALE_SECONDS, Lease, Sign, is_gone
from edm2_guidance.work.plan import is_in_runs, seed_runs
from edm2_guidance.work.shards import PLAN_NAME, SHARD_JSON

_PACE_SHARDS = 20  # from which the pace is taken, the last ones
_PACE_SECONDS = 600.0  # the same for folders of images
_BURST_SECONDS = 1.0
_TIMED_IMAGES = 10_000  # of a folder, whose times tell the pace; of more, every so many-th


@dataclass(frozen=True)
class WorkStatus:
    """One piece of work: a ZIP or scores in the making, or a folder of images.

    Attributes:
        path: Its folder.
        total: Images in all; 0 if the folder does not say.
        done: Images that are made, those of unfinished parts included whose process lives and says so.
        title: What the work is for, such as a row; "" if the folder does not say.
        recipe: How the images are made, as it is stored; None if the folder does not say.
        seeds: Of the images, as text; "" if the folder does not say.
        running: (what, who, seconds since the last sign of life) of every part that a living process is at.
        stale: The same of parts whose process is gone or silent.
        failed: (what, error) of every part that failed the last time.
        pace: Images per second of late; None if it cannot be told.
        joining: Who joins the parts, or "".
        waits: Why nothing more will happen by itself, or "".
    """

    path: Path
    total: int
    done: int
    title: str = ""
    recipe: Mapping[str, Any] | None = None
    seeds: str = ""
    running: list[tuple[str, str, float]] = field(default_factory=list)
    stale: list[tuple[str, str, float]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    pace: float | None = None
    joining: str = ""
    waits: str = ""

    @property
    def seconds_left(self) -> float | None:
        """At the pace of late; None if nobody is at it, or if the pace is unknown."""
        if not self.running or not self.pace or self.total == 0:
            return None
        return max(0, self.total - self.done) / self.pace


def find_work(root: str | os.PathLike[str]) -> Iterator[WorkStatus]:
    """The unfinished work in `root` and below it, and its folders of images. ValueError if `root` is no folder.

    Of work that cannot be read, `waits` says why.
    """
    top = Path(root)
    if not top.is_dir():
        raise ValueError(f"{top} is no folder: nothing was begun there yet, or it is elsewhere")
    for folder, names, files in os.walk(top):
        names.sort()
        path = Path(folder)
        find = shards_status if PLAN_NAME in files else images_status if RECIPE_NAME in files else None
        if PLAN_NAME in files:
            names.clear()
        try:
            status = find(path) if find else None
        except (ValueError, OSError) as error:
            status = WorkStatus(path, 0, 0, waits=str(error))
        if status is not None:
            yield status


def shards_status(folder: Path) -> WorkStatus | None:
    """Status of a folder of shards (work.shards); None if it is gone by now. ValueError for an unreadable plan."""
    plan = _content(folder / PLAN_NAME)
    if plan is None:
        return None
    total, size = _number(plan, "num_images", folder), _number(plan, "shard_size", folder)
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return None
    found: dict[Path, tuple[float, int]] = {}
    for path in (folder / name for ending in (".zip", ".npz") for name in fnmatch.filter(names, f"shard-*{ending}")):
        index = path.stem.removeprefix("shard-")
        if index.isdecimal() and (stamp := _touched(path)) is not None:
            found[path] = (stamp, min(size, total - int(index) * size))
    finished = sum(number for _, number in found.values())
    running, stale = _leases(folder, fnmatch.filter(names, "shard-*.claim"))
    joining, gone = _leases(folder, fnmatch.filter(names, "join.*.claim"))
    begun = [each for name, _, _ in running if (each := _begun(folder / f"{name}.begun", size)) is not None]
    speed = _speed([*_made(found), *begun])
    return WorkStatus(
        path=folder,
        total=total,
        done=finished + sum(images for images, _ in begun),
        **_about(plan, str(plan.get("seeds", ""))),
        running=running,
        stale=stale + gone,
        failed=sorted(_failures(folder / name for name in fnmatch.filter(names, "shard-*.failed"))),
        pace=None if speed is None or not running else speed * len(running),
        joining=joining[0][1] if joining else "",
        waits="the same command, run again, joins them" if finished == total and not joining and not running else "",
    )


def images_status(folder: Path) -> WorkStatus | None:
    """Status of a folder of images with their recipe (work.png_output); None if that is not what it is."""
    recipe = _content(folder / RECIPE_NAME)
    if recipe is None or "recipe_hash" not in recipe:
        return None
    asked = seed_runs(str(recipe.get("asked", "")))
    total = sum(map(len, asked))
    is_asked = is_in_runs(asked) if asked else lambda seed: True
    paths, leases = list[str](), list[str]()
    for place, _, names in os.walk(folder):
        if place == os.fspath(folder):
            leases = [name for ending in ("batch", "worker") for name in fnmatch.filter(names, f"{ending}-*.claim")]
        seeds = ((name, name.removesuffix(".png")) for name in names if name.endswith(".png"))
        paths += [os.path.join(place, name) for name, seed in seeds if seed.isdecimal() and is_asked(int(seed))]
    running, stale = _leases(folder, leases)
    if len(paths) == total > 0:
        stale = []  # somebody else made what they left
    pace = _pace_of_images(paths, _touched(folder / RECIPE_NAME)) if running else None
    about = _about(recipe, str(recipe.get("asked", "")))
    return WorkStatus(folder, total, len(paths), **about, running=running, stale=stale, pace=pace)


def _pace_of_images(paths: Sequence[str], begun: float | None) -> float | None:
    """Images per second over the last minutes. paths: of all of them. begun: when the work was."""
    every = -(-len(paths) // _TIMED_IMAGES) or 1
    pace = _pace([stamp for path in paths[::every] if (stamp := _touched(path)) is not None], begun)
    return None if pace is None else pace * every


def _about(stored: Mapping[str, Any], seeds: str) -> dict[str, Any]:
    """The fields of WorkStatus that say what is made, out of a plan or a folder's recipe.json."""
    title, recipe = stored.get("title", ""), stored.get("recipe")
    return {
        "title": title if isinstance(title, str) else "",
        "recipe": recipe if isinstance(recipe, dict) else None,
        "seeds": seeds if seed_runs(seeds) else "",
    }


def _leases(folder: Path, files: Sequence[str]) -> tuple[list[tuple[str, str, float]], list[tuple[str, str, float]]]:
    """Leases of living processes, and of others: (name, owner, seconds since its last sign of life)."""
    names = sorted({file.rsplit(".", 2)[0] for file in files})
    signs = [(name, sign) for name in names if (sign := Lease(folder, name).sign()) is not None]
    now = _now(folder) if signs else 0.0
    running: list[tuple[str, str, float]] = []
    stale: list[tuple[str, str, float]] = []
    for name, sign in signs:
        line = (name, sign.holder.partition(" ")[0] or "somebody", max(0.0, now - sign.touched))
        (stale if _is_silent(sign, now) else running).append(line)
    return running, stale


def _is_silent(sign: Sign, now: float) -> bool:
    return is_gone(sign.holder) or now - sign.touched > STALE_SECONDS


def _failures(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        content: dict[str, Any] = {}
        with suppress(ValueError, OSError):
            content = read_object(path)
        yield path.stem, str(content.get("error", "(no reason was written down)"))


def _speed(parts: Iterable[tuple[float, float]]) -> float | None:
    """Images per second of one worker. parts: images and seconds of each.

    Not by when they were made: workers that began together end together, and works rest.
    """
    parts = list(parts)
    seconds = sum(own for _, own in parts)
    return sum(images for images, _ in parts) / seconds if seconds > 0 else None


def _made(shards: Mapping[Path, tuple[float, int]]) -> Iterator[tuple[float, float]]:
    """Images and seconds of the last shards, by what they say of themselves. shards: when made, images."""
    for path in sorted(shards, key=lambda path: shards[path][0])[-_PACE_SHARDS:]:
        with suppress(ValueError, OSError), open_zip(path) as file:
            own = read_json(path, file, SHARD_JSON).get("seconds")
            if isinstance(own, int | float) and own > 0:
                yield shards[path][1], own


def _begun(path: Path, size: int) -> tuple[int, float] | None:
    """Images and seconds of a shard of `size` images that is being made; None if nothing sound is said of it."""
    content: dict[str, Any] = {}
    with suppress(ValueError, OSError):  # it may be half written
        content = read_object(path)
    images, seconds = content.get("images"), content.get("seconds")
    if isinstance(images, int) and 0 < images <= size and isinstance(seconds, int | float) and seconds > 0:
        return images, seconds
    return None


def _pace(stamps: Sequence[float], begun: float | None = None) -> float | None:
    """Images per second over the last minutes; stamps: when each was written. begun: when the work was.

    Images come in bursts, a batch at once: those of the first burst were made before the time that is looked at, or
    since the work began.
    """
    if not stamps:
        return None
    end = max(stamps)
    last = [stamp for stamp in stamps if stamp >= end - _PACE_SECONDS]
    start = min(last)
    later = [stamp for stamp in last if stamp > start + _BURST_SECONDS]
    if later:
        return len(later) / (end - start)
    if begun is None or not _BURST_SECONDS < end - begun < _PACE_SECONDS:
        return None
    return len(last) / (end - begun)


def _now(folder: Path) -> float:
    """By the clock of the file system that holds the folder, or by ours where nothing can be written."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".status-", suffix=".tmp") as file:
            return os.stat(file.name).st_mtime
    except OSError:
        return time.time()


def _touched(path: str | Path) -> float | None:
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:  # joined meanwhile
        return None


def _content(path: Path) -> dict[str, Any] | None:
    """The JSON object there; None if the file is gone. ValueError for anything else."""
    try:
        return read_object(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is unreadable ({error})") from error


def _number(plan: Mapping[str, Any], key: str, folder: Path) -> int:
    value = plan.get(key)
    if type(value) is not int or value < 1:
        raise ValueError(f"{folder / PLAN_NAME} names no {key}: this is no folder of shards")
    return value
