"""Which seeds a work is made of, cut into shards; seeds and their runs as text. Torch-free."""

import operator
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

_SHARD = 512  # images, about, where batches do not say where shards end
_RUN = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?(?:,|\Z)", re.ASCII)


@dataclass(frozen=True)
class ShardPlan:
    """A list of seeds cut into shards of `shard_size`, the last one possibly smaller.

    Attributes:
        seeds: The seeds in the order of the final ZIP: 0 or more each, none twice, at least one.
        shard_size: Images per shard, 1 or more.

    Raises ValueError otherwise, naming the seed.
    """

    seeds: tuple[int, ...]
    shard_size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(operator.index(seed) for seed in self.seeds))
        object.__setattr__(self, "shard_size", operator.index(self.shard_size))
        if self.shard_size < 1:
            raise ValueError(f"{self.shard_size} images per shard: need 1 or more")
        if not self.seeds:
            raise ValueError("no seeds: give at least one")
        seen: set[int] = set()
        for seed in self.seeds:
            if seed < 0:
                raise ValueError(f"seed {seed} is negative: seeds are 0 or more")
            if seed in seen:
                raise ValueError(f"seed {seed} is listed twice: every image needs a seed of its own")
            seen.add(seed)

    def __len__(self) -> int:
        """Number of shards."""
        return -(-len(self.seeds) // self.shard_size)

    def shard(self, index: int) -> tuple[int, ...]:
        """The seeds of shard `index`, in order."""
        if not 0 <= index < len(self):
            raise ValueError(f"shard {index} of {len(self)}: shards count from 0 to {len(self) - 1}")
        return self.seeds[index * self.shard_size : (index + 1) * self.shard_size]

    def batch_runs(self, batch: int) -> list[list[int]]:
        """Sizes of all batches in order, as runs [size, how often], if shards are made `batch` images at a time.

        An image's last bits depend on the size of its batch, and on nothing else of how seeds were cut.
        """
        sizes = [min(batch, len(shard) - start) for shard in self._shards() for start in range(0, len(shard), batch)]
        return [[size, len(list(run))] for size, run in groupby(sizes)]

    def _shards(self) -> Iterator[tuple[int, ...]]:
        return (self.shard(index) for index in range(len(self)))


def cut_of(runs: Any, total: int) -> tuple[int, int] | None:
    """Batch and shard size by which so many images are made in these runs (`batch_runs`); None if by none."""
    try:
        batch, before = int(runs[0][0]), 0
        for size, count in runs:
            before += size * (count if size == batch else 1)
            if size != batch:
                break
        shard_size = before if before < total else -(-_SHARD // batch) * batch  # before the end, a shard is cut short
        return (batch, shard_size) if ShardPlan(tuple(range(total)), shard_size).batch_runs(batch) == runs else None
    except (TypeError, ValueError, LookupError, ArithmeticError):
        return None  # a file may say anything


def merged_reductions(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """What memory did not hold in any of the parts (`ImageBatch.reduced`): the smallest number per kind of work."""
    result: dict[str, int] = {}
    for part in parts:
        for work, size in part.items():
            result[work] = min(size, result.get(work, size))
    return result


def format_seeds(seeds: tuple[int, ...]) -> str:
    """Seeds as text, in order, runs shortened: (0, 1, 2, 7) is "0-2,7"."""
    if not seeds:
        return ""
    breaks = [i for i, (a, b) in enumerate(pairwise(seeds), start=1) if b != a + 1]
    runs = [seeds[start:end] for start, end in pairwise([0, *breaks, len(seeds)])]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def images_key(recipe_hash: str, seeds: str, precision: str | None) -> tuple[str, ...]:
    """What tells sets of generated images apart. seeds: by `format_seeds`. precision: of the networks, as recorded."""
    return (recipe_hash, seeds) if precision is None else (recipe_hash, seeds, precision)


def seed_runs(text: str) -> list[range]:
    """The runs of seeds that a text of `format_seeds` stands for; none for any other text."""
    runs, end = [], 0
    for run in _RUN.finditer(text):  # one after the other: texts may have millions
        if run.start() != end:
            return []
        runs.append(range(int(run[1]), int(run[2] or run[1]) + 1))
        end = run.end()
    return runs if end == len(text) and not text.endswith(",") else []


def is_in_runs(runs: Sequence[range]) -> Callable[[int], bool]:
    """A function that tells whether a seed is in one of the runs, which do not overlap; of any number and length."""
    runs = sorted(runs, key=lambda run: run.start)

    def is_in(seed: int) -> bool:
        below = bisect_right(runs, seed, key=lambda run: run.start)
        return below > 0 and seed in runs[below - 1]

    return is_in
