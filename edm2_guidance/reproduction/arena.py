"""An arena, run: every method's best setting searched, the best scored on other seeds, and differences of pairs.

All that was found is in the ledger, so that the same command goes on where it stopped, by any number of workers.
Differences of the same seeds need the images, which are kept in ZIPs; they go to a file beside the ledger.
"""

import glob
import re
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnlib.atomic import atomic_path
from edm2_guidance.images.zips import read_recipe
from edm2_guidance.metrics import ledger
from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.metrics.score_output import Scorer, measure_stored
from edm2_guidance.metrics.uncertainty import difference, influence_if_known, mean_of
from edm2_guidance.papers.arena import Arena, Entry
from edm2_guidance.papers.arena_lines import Lines, contents, lines_of, reference
from edm2_guidance.papers.search import Found, Point
from edm2_guidance.papers.standings import (
    Standing,
    known_pair,
    pair_key,
    pairs_of,
    pairs_path,
    read_pairs,
    read_times,
    standings,
    times_path,
    write_lines,
)
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.search import recipe_at, valid
from edm2_guidance.reproduction.rows import Runner
from edm2_guidance.reproduction.sweeps import POLL_SECONDS, Sweep, block_scores, find_best
from edm2_guidance.sampling.generation import Generation

Influences = Mapping[str, NDArray[Any]]  # by metric, of each image on the score


@dataclass(frozen=True)
class Teller:
    """Who is told of the progress: of a point and its score; of an entry and its block, before it is scored."""

    point: Callable[[Entry, Point, float], None] = lambda entry, point, score: None
    block: Callable[[Entry, Point, int], None] = lambda entry, point, number: None


@dataclass
class Contest:
    """The run of an arena. runner: with its networks and scorers."""

    arena: Arena
    runner: Runner
    tell: Teller = Teller()
    _found: dict[str, Point] = field(default_factory=dict)
    _opened: dict[str, str] = field(default_factory=dict)  # what files hold, as `lines_of` asks

    def __post_init__(self) -> None:
        self._keeping = self.runner.keeping_images()
        self._opened[reference(self.arena)] = self.scorer.reference.statistics.sha256

    @property
    def scorer(self) -> Scorer:
        """Of the final scores."""
        return self.runner.scorer(self.arena.metrics, self.arena.reference)

    def run(self, entries: Sequence[Entry]) -> None:
        """Search and score them all; then the best of those that compete by all metrics, in all blocks."""
        for entry in entries:
            self.score(entry, 1)
        methods = [entry for entry in entries if entry.of is None]
        for entry in self._best(methods):
            self.score(entry, self.arena.final.blocks)

    def point(self, entry: Entry) -> Point:
        """The best setting of an entry, searched now if the ledger has not all of the search."""
        entry = entry.searched
        if entry.name not in self._found:
            self._found[entry.name] = self._searched(entry).point if entry.axis is not None else {}
        return self._found[entry.name]

    def _searched(self, entry: Entry) -> Found:
        arena, axis = self.arena, entry.axis
        assert axis is not None
        sweep = Sweep(
            arena.search_name(entry), entry.recipe, recipe_at, arena.metrics[0], self.arena.reference,
            arena.search.num_images,
        )  # fmt: skip

        def say(point: Point, score: float) -> None:
            self.tell.point(entry, point, score)

        start = {axis.name: axis.values[0]}
        found, _ = find_best(self.runner, sweep, start, [[axis]], arena.search.stride, valid, say)
        return found

    def score(self, entry: Entry, blocks: int) -> None:
        """The scores of an entry at its best setting, in so many blocks."""
        point = self.point(entry)
        asked = entry.at(point)
        generation = self.runner.open(asked)
        self._opened |= contents(asked, generation.recipe)
        for number, seeds in enumerate(self.arena.blocks(blocks)):
            self.tell.block(entry, point, number)
            tags = self._tags(entry, point, number)
            if self._keeping.known(self.scorer, generation, seeds, tags) is None:
                block_scores(self._keeping, self.scorer, generation, seeds, tags, _file(entry))

    def _tags(self, entry: Entry, point: Point, number: int) -> Mapping[str, Any]:
        return {"arena": {"name": self.arena.name, "entry": entry.name, "point": dict(point), "block": number}}

    def _best(self, methods: Sequence[Entry]) -> list[Entry]:
        """The best by the first block, which all have: by others they would not be the same when asked again.

        The first worker writes who was scored for what: the others wait for it.
        """
        names = {entry.name for entry in methods}
        found = self._stand(names)
        while len(found) < len(names):
            if self.runner.settings.workers.index == 0:
                lacking = ", ".join(sorted(names - {each.entry.name for each in found}))
                raise ValueError(f"{self.runner.settings.ledger} has lost what was just scored: {lacking}")
            time.sleep(POLL_SECONDS)
            found = self._stand(names)
        return [each.entry for each in found[: self.arena.final.best]]

    def _stand(self, names: Set[str]) -> list[Standing]:
        found = standings(self.arena, self.lines(), blocks=1)
        return [each for each in found if each.entry.name in names]

    def lines(self) -> Lines:
        """Of the arena in the ledger, as its files are now."""
        return lines_of(self.arena, ledger.read(self.runner.settings.ledger), self._opened, self._found)

    def compare(self) -> None:
        """Write the differences of the same seeds that are not known yet, as far as the images are here."""
        path = pairs_path(self.runner.settings.ledger)
        known, before = read_pairs(path), read_pairs(path)
        found = standings(self.arena, self.lines())
        for a, b in pairs_of(found):
            if known_pair(a, b, known) is None and (made := self._difference(a, b)) is not None:
                known[pair_key(a, b)] = {"a": a.entry.name, "b": b.entry.name, "of": pair_key(a, b), "metrics": made}
        if known != before:
            with atomic_path(path) as temporary:
                write_lines(temporary, known.values())

    def _difference(self, a: Standing, b: Standing) -> Mapping[str, Any] | None:
        """By metric, over the blocks that both have; None where their images are not here."""
        blocks = self.arena.blocks(min(a.blocks, b.blocks))
        sides = [[self._influences(each, seeds) for seeds in blocks] for each in (a, b)]
        made = {}
        for metric in self.arena.metrics:
            each = []
            for ours, theirs, of_a, of_b in zip(a.values(metric), b.values(metric), *sides, strict=False):
                if of_a is None or of_b is None:
                    return None
                each.append(difference(ours, theirs, of_a[metric], of_b[metric], paired=True))
            known = mean_of([(one.low + one.high) / 2 for one in each], each)
            made[metric] = {"low": known.low, "high": known.high, "error": known.error}
        return made

    def time(self, entries: Sequence[Entry], images: int, tries: int = 3) -> None:
        """Write how long an image of each entry takes, in times of what one of the unguided base takes.

        Times of other entries stay in the file. Both are made in turn, and of several tries the shortest counts.
        """
        base, path = self.arena.unguided, times_path(self.runner.settings.ledger)
        made = read_times(path)
        for each in self._stand({entry.name for entry in entries}):
            recipes = base, each.entry.at(each.point)
            took = [[self._seconds(recipe, images) for recipe in recipes] for _ in range(tries + 1)][1:]
            usual, ours = (min(each) for each in zip(*took, strict=True))
            made[each.entry.name, each.recipe_hash] = ours / usual
        with atomic_path(path) as temporary:
            write_lines(temporary, [{"entry": name, "of": of, "times": times} for (name, of), times in made.items()])

    def _seconds(self, recipe: Recipe, images: int) -> float:
        """Of the first so many images, at once."""
        begun = time.perf_counter()
        for _ in self.runner.open(recipe).images(range(images), images):
            pass
        return time.perf_counter() - begun

    def _influences(self, standing: Standing, seeds: range) -> Influences | None:
        """Of the images of a block on its scores; None if they are not here. Kept: they take seconds."""
        generation = self.runner.open(standing.entry.at(standing.point))
        path = self._images(generation, seeds, _file(standing.entry))
        beside = self.scorer.reference.statistics.sha256[:6]
        kept = self.runner.settings.results / "arena" / f"{path.stem}-{beside}.npz"
        if kept.exists():
            with np.load(kept) as file:
                names = {metric: metric.replace("/", ".") for metric in self.arena.metrics}
                if set(names.values()) <= set(file.files):
                    return {metric: file[name] for metric, name in names.items()}
        if not path.exists():
            return None
        made, _ = measure_stored(path, self.scorer, len(seeds))
        found = {}
        for metric in self.arena.metrics:
            measured = find_metric(metric)
            theirs = self.scorer.reference.moments[metric]
            influences = influence_if_known(measured.measure, made.moments[measured.stored_as], theirs)
            if influences is None:
                return None
            found[metric] = influences
        with atomic_path(kept) as temporary:
            np.savez(
                temporary, allow_pickle=False, **{metric.replace("/", "."): each for metric, each in found.items()}
            )
        return found

    def _images(self, generation: Generation, seeds: range, name: str) -> Path:
        """Where the images of a block are, or would be: by this name, or by that of another entry of the recipe."""
        path = self._keeping.images_of(generation, seeds, name)
        others = path.parent.glob(f"*{glob.escape(path.name.removeprefix(name))}")
        same = (each for each in others if (read_recipe(each) or {}).get("recipe_hash") == generation.recipe.hash)
        return path if path.exists() else next(same, path)


def _file(entry: Entry) -> str:
    """Its name, in those of files."""
    return re.sub(r"[^\w.+=-]", "-", entry.name)
