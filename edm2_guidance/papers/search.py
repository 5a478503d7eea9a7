"""Searches for the best setting, as the papers made theirs: a coarse pass, then finer and finer around the best.

Pure: settings are points (names to numbers), a point's score comes from a function. No torch here.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Point = Mapping[str, float]
Score = Callable[[Point], float]


@dataclass(frozen=True)
class Axis:
    """A parameter and the grid of values it may take, in order.

    Raises ValueError for an empty grid, or one whose values neither rise nor fall throughout.
    """

    name: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        pairs = list(itertools.pairwise(self.values))
        if not self.values or not (all(a < b for a, b in pairs) or all(a > b for a, b in pairs)):
            raise ValueError(f"{self.name}: the values of a search rise or fall throughout, not {self.values}")


@dataclass(frozen=True)
class Found:
    """The best point of a search and its score, and all scores in the order in which they were asked for."""

    point: Point
    score: float
    scores: tuple[tuple[Point, float], ...]


def search(
    score: Score,
    start: Point,
    stages: Sequence[Sequence[Axis]],
    *,
    stride: int = 4,
    valid: Callable[[Point], bool] = lambda point: True,
    better: Literal["lower", "higher"] = "lower",
) -> Found:
    """The point with the best score. Stage by stage, the axes of a stage are searched and all else stays.

    A stage scores every `stride`-th value of its axes (the whole product, the ends included), then the neighbours
    of the best at half that distance and so on, down to the next value of the grid. At each distance it moves on
    for as long as a neighbour is better. This is the local-neighbourhood-pruned grid of arXiv 2406.02507, App. B;
    stages of one axis each are the cheap order of arXiv 2404.07724, 4.2 (upper end first, then the lower).

    start: a value for every parameter, on its axis or not. valid: points that it refuses are passed over. No point
    is scored twice. ValueError for a stride below 1, or if a stage holds no valid point.
    """
    if stride < 1:
        raise ValueError(f"stride {stride}: a coarse pass takes every 1st, 2nd, ... value")
    memory = _Memory(score, 1 if better == "lower" else -1)
    best = dict(start)
    for axes in stages:
        best = _search_stage(memory, best, axes, stride, valid)
    return Found(best, memory.score(best), tuple((dict(key), value) for key, value in memory.scores.items()))


def expected_points(
    start: Point,
    stages: Sequence[Sequence[Axis]],
    *,
    stride: int = 4,
    valid: Callable[[Point], bool] = lambda point: True,
) -> int:
    """About how many points `search` will score: as many as if the best were amid every grid. Errors as `search`."""
    middles = {axis.name: (len(axis.values) - 1) // 2 for axes in stages for axis in axes}
    places = {axis.name: {v: i for i, v in enumerate(axis.values)} for axes in stages for axis in axes}

    def distance(point: Point) -> float:
        known = ((name, places[name].get(point[name])) for name in places)
        return sum(abs(place - middles[name]) for name, place in known if place is not None)

    return len(search(distance, start, stages, stride=stride, valid=valid).scores)


class _Memory:
    """Scores, each asked for once; called, it gives what is to be as low as can be: the score times `sign`."""

    def __init__(self, score: Score, sign: int) -> None:
        self._score, self._sign = score, sign
        self.scores: dict[tuple[tuple[str, float], ...], float] = {}

    def score(self, point: Point) -> float:
        key = tuple(sorted(point.items()))
        if key not in self.scores:
            self.scores[key] = self._score(point)
        return self.scores[key]

    def __call__(self, point: Point) -> float:
        return self._sign * self.score(point)


def _search_stage(
    memory: _Memory, start: Point, axes: Sequence[Axis], stride: int, valid: Callable[[Point], bool]
) -> dict[str, float]:
    """Coarse to fine over these axes, in grid indices."""

    def at(indices: Sequence[int]) -> dict[str, float]:
        return {**start, **{axis.name: axis.values[i] for axis, i in zip(axes, indices, strict=True)}}

    def best_of(candidates: Iterator[tuple[int, ...]]) -> tuple[int, ...]:
        allowed = [indices for indices in candidates if valid(at(indices))]
        if not allowed:
            names = ", ".join(axis.name for axis in axes)
            raise ValueError(f"no value of {names} goes with {dict(start)}")
        return min(allowed, key=lambda indices: memory(at(indices)))

    sizes = [len(axis.values) for axis in axes]
    coarse = [sorted({*range(0, size, stride), size - 1}) for size in sizes]
    best = best_of(itertools.product(*coarse))
    while stride > 1:
        stride = stride // 2
        while True:
            near = [[j for j in (i - stride, i, i + stride) if 0 <= j < n] for i, n in zip(best, sizes, strict=True)]
            better = best_of(itertools.product(*near))
            if memory(at(better)) >= memory(at(best)):
                break
            best = better
    return at(best)
