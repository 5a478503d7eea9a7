"""A search for the best setting of a recipe, its scores in the ledger: run again, it asks only for what is missing."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.metrics.score_output import Record, Scorer
from edm2_guidance.metrics.scoring import Score
from edm2_guidance.metrics.uncertainty import apart, interval_of
from edm2_guidance.papers.search import Axis, Found, Point, search
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.reproduction.rows import Runner
from edm2_guidance.sampling.generation import Generation

POLL_SECONDS = 1.0

RecipeAt = Callable[[Recipe, Point], Recipe]


@dataclass(frozen=True)
class Sweep:
    """What is searched. name: of the method, in ledger and plots. num: images per point; seed: the first of them.

    beside: further metrics, which are recorded of the same images.
    """

    name: str
    recipe: Recipe
    recipe_at: RecipeAt
    metric: str
    reference: str
    num: int
    seed: int = 0
    beside: tuple[str, ...] = ()

    def tags(self, point: Point) -> dict[str, Any]:
        """What a ledger line says of a point; beside other metrics, by which the search was."""
        by = {"metric": self.metric} if self.beside else {}
        return {"search": {"name": self.name, "point": dict(point), **by}}


@dataclass(frozen=True)
class Trial:
    """A point of a search: the values that were tried, the recipe with them, and its score."""

    point: Point
    recipe: Recipe
    score: Score

    def __str__(self) -> str:
        """The values, and the score with its interval."""
        return "  ".join([*(f"{name} {value:g}" for name, value in self.point.items()), str(self.score)])


class Trials(tuple[Trial, ...]):
    """The points of a search, best first; as a text a line each."""

    @classmethod
    def of(cls, sweep: Sweep, found: Found, records: Sequence[Record]) -> "Trials":
        """records: of `find_best`."""
        made = [
            Trial(point, sweep.recipe_at(sweep.recipe, point), Score.of(record))
            for (point, _), record in zip(found.scores, records, strict=True)
        ]
        higher = find_metric(sweep.metric).measure.better == "higher"
        return cls(sorted(made, key=lambda trial: trial.score.value, reverse=higher))

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    __repr__ = __str__


def find_best(
    runner: Runner,
    sweep: Sweep,
    start: Point,
    stages: Sequence[Sequence[Axis]],
    stride: int,
    valid: Callable[[Point], bool],
    say: Callable[[Point, float], None],
    begin: Callable[[Point], None] = lambda point: None,
) -> tuple[Found, list[Record]]:
    """The best point of a sweep by one block of images each, and the lines of `Found.scores`.

    begin: called with each point before it is scored. say: with the point and its score.
    """

    records: list[Record] = []

    def score(point: Point) -> float:
        begin(point)
        records.append(_score(runner, sweep, point, range(sweep.seed, sweep.seed + sweep.num)))
        value: float = records[-1]["value"]
        say(point, value)
        return value

    better = find_metric(sweep.metric).measure.better
    return search(score, start, stages, stride=stride, valid=valid, better=better), records


def within_noise(found: Found, records: Sequence[Record], metric: str) -> list[Point]:
    """The points whose scores may be as good as the best with other seeds, best first, by the lines' intervals.

    All points have the same seeds, so that the order is surer than these say. A point without an interval is left out.
    """
    intervals = [interval_of(record) for record in records]
    higher = find_metric(metric).measure.better == "higher"
    scores = sorted(zip(found.scores, intervals, strict=True), key=lambda scored: scored[0][1], reverse=higher)
    (_, top), best = scores[0]
    return [
        point
        for (point, value), known in scores[1:]
        if best is not None and known is not None and apart(value, top, known, best).word == "inconclusive"
    ]


def repeat(
    runner: Runner,
    sweep: Sweep,
    point: Point,
    num: int,
    blocks: int,
    begin: Callable[[int], None] = lambda number: None,
) -> list[Record]:
    """Scores of one point in `blocks` blocks of `num` images, as the papers re-evaluate the optimum.

    begin: called with the number of each block, from 0, before it is scored.
    """
    records = []
    for number in range(blocks):
        begin(number)
        first = sweep.seed + number * num
        records.append(_score(runner, sweep, point, range(first, first + num)))
    return records


def _score(runner: Runner, sweep: Sweep, point: Point, seeds: range) -> Record:
    """From the ledger or by sampling. All workers of a job need it to know where the search goes: they wait for it.

    Guides that are off are left out: weight 1 is the same images, and the same score, in every search. A score that
    was made for something else is written down once more under this search, so that its plots show it.
    """
    generation = runner.open(sweep.recipe_at(sweep.recipe, point).effective())
    scorer = runner.scorer([sweep.metric, *sweep.beside], sweep.reference)
    first, *_ = block_scores(runner, scorer, generation, seeds, sweep.tags(point), sweep.name)
    return first


def block_scores(
    runner: Runner, scorer: Scorer, generation: Generation, seeds: range, tags: Mapping[str, Any], name: str
) -> list[Record]:
    """The ledger's lines of a block under these tags, made by all workers together; this one waits for the others."""
    records = runner.score(scorer, generation, seeds, tags, name)
    while records is None:  # also makes what a worker that died meanwhile has left
        time.sleep(POLL_SECONDS)
        records = runner.score(scorer, generation, seeds, tags, name)
    return [runner.tagged(scorer, record, tags) for record in records]
