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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from dnnlib.workers import Workers
from edm2_guidance.images.batch import ImageBatch
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
    "os.utime": "utime",
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


def simulate(folder: Path, plan: ShardPlan, places: list[Workers], seconds: float = PAUSE) -> None:
    """One work by as many workers as there are places, each in a thread, as if each were another machine."""
    names, done, failed = threading.local(), threading.Event(), list[BaseException]()

    def owner() -> str:
        return getattr(names, "owner", "nobody.1.00000000")

    def work(number: int, place: Workers) -> None:
        names.owner = f"machine-{number}.1.00000000"
        try:
            output = Joined(ShardFolder(folder / "work", plan, Stated(), Run(plan.shard_size, workers=place), []), done)
            complete(output, lambda seeds: Pause(seeds, seconds))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=each) for each in enumerate(places)]
    with patch.object(lease, "owner", owner), patch.object(shards, "owner", owner):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]
    if not done.is_set():
        raise RuntimeError("nobody joined the shards")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="64,256,1024")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--layout", default=",".join(LAYOUTS))
    options = parser.parse_args()
    threading.stack_size(1 << 19)
    for layout in options.layout.split(","):
        for workers in map(int, options.workers.split(",")):
            for images in (options.images // 4, options.images):
                plan = ShardPlan(tuple(range(images)), SHARD)
                with tempfile.TemporaryDirectory() as name:
                    places = [LAYOUTS[layout](i, workers) for i in range(workers)]
                    began, wall = time.process_time(), time.monotonic()
                    with counted(Path(name)) as counts:
                        simulate(Path(name), plan, places)
                    cpu = (time.process_time() - began) / len(plan)
                    print(layout, workers, len(plan), f"{sum(counts.values()) / len(plan):.1f}", {k: round(v / len(plan), 2) for k, v in counts.items()}, f"cpu {cpu:.4f} wall {time.monotonic()-wall:.1f}", flush=True)


if __name__ == "__main__":
    main()
