"""What coordination costs: `python -m benchmarks.coordination [--workers=64,256,1024] [--images=1000000]`.

Any number of workers, threads of this process that take each other for processes of other machines, share a work whose
shards cost nothing but a pause. Prints, per shard, how often the file system is asked for what, the bytes that are read
and written beside the images, and the processor's time; then how long `status` takes on a folder of so many images.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.side_by_side import Options, Result
from dnnlib.workers import Workers
from edm2_guidance.images.batch import ImageBatch
from edm2_guidance.images.members import RECIPE_NAME
from edm2_guidance.images.sinks import image_name
from edm2_guidance.images.zips import json_bytes
from edm2_guidance.work import lease, shards
from edm2_guidance.work.complete import Run, complete
from edm2_guidance.work.plan import ShardPlan
from edm2_guidance.work.shards import ShardFolder
from edm2_guidance.work.status import find_work

SHARD = 512  # images
PAUSE = 0.05  # seconds, in place of the making of a shard
LAYOUTS: dict[str, Callable[[int, int], Workers]] = {
    "--worker=I/N": lambda i, n: Workers(job=i, jobs=n),
    "--worker=I/N --steal": lambda i, n: Workers(job=i, jobs=n, steal=True),
    "--steal": lambda i, n: Workers(steal=True),
}
_AUDITED = {
    "open": "open",
    "os.listdir": "list",
    "os.scandir": "list",
    "os.link": "link",
    "os.rename": "rename",
    "os.remove": "unlink",
    "os.mkdir": "mkdir",
    "os.rmdir": "rmdir",
}
_counters: list[tuple[str, Counter[str]]] = []  # (folder, what was asked for there) of every block that counts


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _counters and event in _AUDITED and args and isinstance(args[0], str | os.PathLike):
        _count(_AUDITED[event], args[0])


def _count(kind: str, path: str | os.PathLike[str]) -> None:
    for folder, counter in _counters:
        if os.fspath(path).startswith(folder):
            counter[kind] += 1


sys.addaudithook(_audit)


@contextmanager
def counted(folder: Path) -> Iterator[Counter[str]]:
    """Counts, during the block, what the file system is asked for in a folder and below, by kind."""
    plain = os.stat

    def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if isinstance(path, str | os.PathLike):
            _count("stat", path)
        return plain(path, *args, **kwargs)

    entry = (os.fspath(folder), Counter[str]())
    _counters.append(entry)
    try:
        with patch.object(os, "stat", stat):
            yield entry[1]
    finally:
        _counters.remove(entry)


@dataclass(frozen=True)
class Stated:
    """A recipe that is a name."""

    hash: str = "coordination"

    def to_json(self) -> Mapping[str, Any]:
        return {}


class Pause:
    """A source of images that cost a pause. seeds: of one shard."""

    def __init__(self, seeds: tuple[int, ...], seconds: float) -> None:
        self.seeds, self.num_images, self._seconds = seeds, len(seeds), seconds

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[ImageBatch]:
        time.sleep(self._seconds)
        yield ImageBatch(torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(self.num_images, 3, 1, 1), self.seeds)


class Joined:
    """A result that all shards are looked into for, and nothing is kept of. Others find it once the work is over."""

    def __init__(self, work: ShardFolder, done: threading.Event) -> None:
        self.work, self._done = work, done

    def find(self) -> bool | None:
        return True if self._done.is_set() else None

    def join(self) -> bool:
        for _ in self.work.each(lambda index, file, head: head):
            pass
        self._done.set()
        return True


def simulate(folder: Path, plan: ShardPlan, places: list[Workers], seconds: float = PAUSE) -> float:
    """One work by as many workers as there are places, each in a thread, as if each were another machine.

    Returns the processor's seconds of all, of which a source takes none.
    """
    names, done, failed, spent = threading.local(), threading.Event(), list[BaseException](), list[float]()
    plain = lease._owns

    def owner() -> str:
        return getattr(names, "owner", "nobody.1.00000000")

    def owns(path: Path) -> bool:
        return plain(path) if hasattr(names, "owner") else True  # there is one heart for all

    def work(number: int, output: Joined) -> None:
        names.owner = f"machine-{number}.1.00000000"
        began = time.thread_time()
        try:
            complete(output, lambda seeds: Pause(seeds, seconds))
        except BaseException as error:
            failed.append(error)
        spent.append(time.thread_time() - began)

    works = [ShardFolder(folder / "work", plan, Stated(), Run(plan.shard_size, workers=place), []) for place in places]
    threads = [threading.Thread(target=work, args=(number, Joined(each, done))) for number, each in enumerate(works)]
    lease._heart.cache_clear()  # its thread may sleep a while
    with (
        patch.object(lease, "owner", owner),
        patch.object(shards, "owner", owner),
        patch.object(lease, "_owns", owns),
        patch.object(lease, "BEAT_SECONDS", 1.0),
    ):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failed or not done.is_set():
        raise failed[0] if failed else RuntimeError("nobody joined the shards")
    return sum(spent)


@dataclass(frozen=True)
class Cost:
    """What one work cost: file operations by kind, bytes read and written, the processor's seconds of all workers."""

    layout: str
    workers: int
    shards: int
    counts: Counter[str]
    transferred: tuple[int, int]
    seconds: float

    def cells(self) -> list[str]:
        """As `HEAD`."""
        kinds = (f"{count / self.shards:.1f} {kind}" for kind, count in self.counts.most_common() if kind != "list")
        each = self.counts.total() / self.shards
        return [
            self.layout, f"{self.workers:,}", f"{self.shards:,}", f"{each:.0f}", ", ".join(kinds),
            f"{self.counts['list'] / self.workers:.1f}",
            " + ".join(f"{count / self.shards / 1e3:.1f}" for count in self.transferred),
            f"{self.seconds / self.shards:.2%}", f"{each * self.workers:,.0f}",
        ]  # fmt: skip


HEAD = [
    "workers are told", "workers", "shards", "operations per shard", "of them", "listings of the folder per worker",
    "kB read + written per shard", "processor, of 1 s per shard", "operations per second, at 1 s per shard",
]  # fmt: skip


def costs(layout: str, workers: int, images: int) -> Cost:
    """What one work costs."""
    plan = ShardPlan(tuple(range(-(-images // SHARD))), 1)  # a shard costs the same of any number of images
    places = [LAYOUTS[layout](number, workers) for number in range(workers)]
    with tempfile.TemporaryDirectory() as name, counted(Path(name)) as counts, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # workers wait for each other's signs of life
        before = _transferred()
        seconds = simulate(Path(name), plan, places)
        read, written = (now - then for now, then in zip(_transferred(), before, strict=True))
    return Cost(layout, workers, len(plan), counts, (read, written), seconds)


def _transferred() -> tuple[int, int]:
    """Bytes that this process has read and written so far, where the system counts them."""
    try:
        lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    except OSError:
        return 0, 0
    return int(lines["rchar"]), int(lines["wchar"])


def status_of_images(images: int) -> Result:
    """How long `status` of a folder of so many images takes, beside what reading their names takes."""
    with tempfile.TemporaryDirectory() as name:
        recipe = {"recipe_hash": "coordination", "asked": f"0-{images - 1}"}
        Path(name, RECIPE_NAME).write_bytes(json_bytes(recipe))
        Path(name, "worker-0-of-1.0.claim").write_text("elsewhere.1.00000000")
        for seed in range(images):
            os.close(os.open(f"{name}/{image_name(seed)}", os.O_CREAT | os.O_WRONLY))
        return _status(Path(name), f"{images:,} images")


def status_of_shards(images: int, workers: int) -> Result:
    """The same of a folder of shards, each leased or there."""
    plan = ShardPlan(tuple(range(images)), SHARD)
    with tempfile.TemporaryDirectory() as name:
        work = ShardFolder(Path(name), plan, Stated(), Run(SHARD), [])
        work.open()
        for part in range(len(plan)):
            if part < workers:
                (work.folder / f"{work.name(part)}.0.claim").write_text("elsewhere.1.00000000")
            else:
                with work.making(part), work.sink(part) as sink:
                    for batch in Pause(plan.shard(part), 0):
                        sink.write(batch)
        work.close()
        return _status(work.folder, f"{images:,} images in {len(plan):,} shards, {workers:,} workers")


def _status(folder: Path, what: str) -> Result:
    began = time.monotonic()
    names = sum(len(files) for _, _, files in os.walk(folder))
    listed = time.monotonic()
    (found,) = find_work(folder)
    done = time.monotonic()
    ratio, note = (listed - began) / (done - listed), f"{found.done:,} images are there, {names:,} files"
    seconds = {"plain": listed - began, "ours": done - listed}
    return Result("coordination", what, "status", "os.walk", ratio, ratio, ratio, 1, seconds=seconds, note=note)


def run(options: Options) -> Iterator[Result]:
    """Few workers and shards; `main` takes any number."""
    workers, images = ((2, 8), 16 * SHARD) if options.quick else ((8, 32), 128 * SHARD)
    costs("--steal", 2, 2 * SHARD)  # imports what is imported late
    for layout in LAYOUTS:
        for number in workers:
            _, _, shards, operations, _, listings, _, processor, _ = costs(layout, number, images).cells()
            note = f"{operations} file operations per shard, {processor} of 1 s, {listings} listings per worker"
            yield Result("coordination", f"{shards} shards, {number} workers", layout, note=note)
    yield status_of_shards(images, max(workers))
    yield status_of_images(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="64,256,1024")
    parser.add_argument("--images", type=int, default=1_000_000, help="and a quarter of them")
    options = parser.parse_args()
    workers = [int(text) for text in options.workers.split(",")]
    threading.stack_size(1 << 19)  # bytes, of each of the threads
    costs("--steal", 2, 2 * SHARD)  # imports what is imported late
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
    for layout in LAYOUTS:
        for number in workers:
            for images in (options.images // 4, options.images):
                print("| " + " | ".join(costs(layout, number, images).cells()) + " |", flush=True)
    for result in (status_of_shards(options.images, max(workers)), status_of_images(options.images)):
        ours, times = result.seconds["ours"], 1 / (result.times or 1)
        print(f"status of {result.case}: {ours:.1f} s, {times:.1f} times as long as to list the folder", flush=True)


if __name__ == "__main__":
    main()
