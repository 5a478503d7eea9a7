"""Rows of the papers' tables, run: sample or reuse, score, one block of seeds after the other, into the ledger."""

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dnnlib.download import fetch
from dnnlib.inference import UNSAID, Inference, in_names, unusual
from dnnlib.places import EMBEDDED, short_name
from dnnlib.workers import ALONE, Workers
from edm2_guidance.images.batch import ImageSource
from edm2_guidance.images.sources import content_sha256
from edm2_guidance.images.zips import read_recipe
from edm2_guidance.metrics import ledger, score_output
from edm2_guidance.metrics.catalog import detector_choices, file_name
from edm2_guidance.metrics.detectors import load_detector
from edm2_guidance.metrics.evaluation import Measured
from edm2_guidance.metrics.reference import open_statistics
from edm2_guidance.metrics.score_output import Features, Record, ScoreOutput, Scorer, Scores
from edm2_guidance.metrics.sides import ReferenceImages, open_reference_side, open_side
from edm2_guidance.models import fetch_network
from edm2_guidance.papers.tables import Row
from edm2_guidance.recipe.recipe import LabelRule, Recipe
from edm2_guidance.recipe.stored import begun
from edm2_guidance.sampling.generation import Generation
from edm2_guidance.sampling.opening import opener
from edm2_guidance.work.complete import Pending, Run, complete
from edm2_guidance.work.lease import Lease
from edm2_guidance.work.plan import ShardPlan, format_seeds, images_key
from edm2_guidance.work.zip_output import ZipOutput
from torch_utils.distributed import device_identity, pick_device

Progress = Callable[[int], None]
#: Called with the number of images, what they are, and how many of them were there before.
ProgressBar = Callable[[int, str, int], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Settings:
    """How rows are run. What is None stays as the row has it.

    num: images per block. blocks: how many, of seeds seed, seed + num, .... labels, noise_device: other ones. networks:
    folder of networks that are not published. results: folder of the work. ledger: file of the scores. again:
    compute what it holds by now once more. batch: images at a time; None for as many as are fast. inference: how
    networks compute. workers: which of them this process is.
    """

    results: Path
    ledger: Path
    networks: Path
    num: int | None = None
    blocks: int | None = None
    seed: int | None = None
    labels: LabelRule | None = None
    noise_device: str | None = None
    keep_images: bool = False
    again: bool = False
    batch: int | None = 32
    shard_size: int = 512
    device: str = "auto"
    offline: bool = False
    trust_pickle: bool = False
    inference: Inference = UNSAID
    workers: Workers = ALONE


@dataclass(frozen=True)
class Block:
    """One block of a row: the seeds, and the ledger's line or None while other workers are at it."""

    row: Row
    number: int
    seeds: range
    record: Record | None
    reused: bool


class Runner:
    """Runs rows, and points of a search; opens every network, reference and detector once."""

    def __init__(self, settings: Settings, progress_bar: ProgressBar) -> None:
        self.settings = settings
        self._bar = progress_bar
        self._device = pick_device(settings.device)
        self.open = opener(
            settings.device, trust_pickle=settings.trust_pickle, offline=settings.offline, inference=settings.inference
        )
        self._scorer_of = functools.cache(self._scorer)
        self._index = score_output.open_index(settings.ledger, again=settings.again)

    def scorer(self, metrics: Sequence[str], reference: str) -> Scorer:
        """What scores by metrics against the reference; opened once. ValueError or OSError if it cannot be."""
        return self._scorer_of(tuple(metrics), reference)

    def keeping_images(self) -> "Runner":
        """The same runner, with all that it has opened, which keeps the images that it makes."""
        other = copy.copy(self)
        other.settings = replace(self.settings, keep_images=True)
        return other

    def obstacle(self, row: Row) -> str | None:
        """Why the row cannot run here; None if it can."""
        missing = row.missing(self.settings.networks)
        if row.blocked is not None:
            return row.blocked
        if row.real is not None and not self._floors(row):
            num = self.settings.num or row.num_images
            return f"no statistics of {num} real images ship with the project"
        return f"{', '.join(missing)} must be made first" if missing else None

    def prepare(self, rows: Sequence[Row]) -> None:
        """Everything that can fail before the first image: files had, references and detectors opened, networks fit.

        Raises ValueError or OSError, naming the row.
        """
        for row in rows:
            self._scorer_of(row.together, row.reference)
            for file in row.sources(self.settings.networks):
                fetch_network(file, offline=self.settings.offline)
            if row.samples is not None:
                fetch(row.samples, offline=self.settings.offline)
                continue
            if row.real is not None:
                for _, path in self._floors(row):
                    open_statistics(path, [row.metric])
            else:
                self._recipe(row)

    def run(self, row: Row) -> Iterator[Block]:
        """Every block of a row, as it is finished. A block that the ledger holds is not made again."""
        if row.real is not None:
            yield from self._run_real(row)
            return
        if row.samples is not None:
            yield from self._run_published(row, row.samples)
            return
        generation = self.open(self._recipe(row))
        scorer = self._scorer_of(row.together, row.reference)
        if not self.settings.keep_images:
            for seeds in self.blocks(row):
                self._streamed(scorer, generation, seeds, {}, row.images).find()  # refuses what another run began
        for number, seeds in enumerate(self.blocks(row)):
            tags = {"row": {"name": row.images, "block": number}}
            found = scorer.find(*_which(generation, seeds))
            made = self._score(scorer, generation, seeds, tags, row.images)
            yield Block(row, number, seeds, _record(made, row.metric), reused=found is not None)

    def parts(self, row: Row) -> list[range]:
        """The seeds of each block that `run` gives; none for a set of real images, or of published ones."""
        if row.samples is not None:
            return [range(0)]
        return self.blocks(row) if row.real is None else [range(0) for _ in self._floors(row)]

    def blocks(self, row: Row) -> list[range]:
        """The seeds of each block of a row that is sampled."""
        num = self.settings.num or row.num_images
        count = self.settings.blocks or row.repeats or 1
        first = row.first_seed if self.settings.seed is None else self.settings.seed
        return [range(first + k * num, first + (k + 1) * num) for k in range(count)]

    def score(
        self, scorer: Scorer, generation: Generation, seeds: range, tags: Mapping[str, Any], name: str
    ) -> list[Record] | None:
        """The scores of one block of seeds, from the ledger if they are there; None while other workers are at it."""
        made = self._score(scorer, generation, seeds, tags, name)
        return None if isinstance(made, Pending) else made.records

    def _score(
        self, scorer: Scorer, generation: Generation, seeds: range, tags: Mapping[str, Any], name: str
    ) -> Scores | Pending:
        def bar(total: int, done: int) -> AbstractContextManager[Progress]:
            return self._bar(total, f"{name} {seeds[0]}-{seeds[-1]}", done)

        def source_of(part: Sequence[int]) -> ImageSource:
            return generation.images_by(work.run, part)

        if not self.settings.keep_images:
            streamed = self._streamed(scorer, generation, seeds, tags, name)
            work = streamed.work
            return complete(streamed, source_of, bar)
        known = scorer.find(*_which(generation, seeds)) is not None
        images = self._zip(generation, seeds, name, () if known else [Features(scorer.detectors, beside=True)])
        work = images.work
        if not known and images.find() is None:
            return complete(ScoreOutput(scorer, generation, images.work, tags, images), source_of, bar)
        made = complete(images, source_of, bar)
        if isinstance(made, Pending):
            return made
        return self._stored(scorer, images.path, generation.recipe, seeds, tags)

    def known(
        self, scorer: Scorer, generation: Generation, seeds: range, tags: Mapping[str, Any]
    ) -> list[Record] | None:
        """The ledger's lines of a block under these tags, whether its images are kept or not; None if it has none."""
        found = scorer.find(*_which(generation, seeds))
        return None if found is None else [self.tagged(scorer, record, tags) for record in found.records]

    def images_of(self, generation: Generation, seeds: range, name: str) -> Path:
        """Where the ZIP of a block is, if images are kept."""
        return self._zip(generation, seeds, name, ()).path

    def tagged(self, scorer: Scorer, record: Record, tags: Mapping[str, Any]) -> Record:
        """The line of the same score of this search; written now, by the first worker, if the ledger has none.

        tags: one, whose name and point say of which search, or whose name and entry of which arena.
        """
        images, (tag, place) = record["images"], next(iter(tags.items()))
        which = images_key(record["recipe_hash"], images["seeds"], images.get("precision"))
        tagged = ((line, line.get(tag) or {}) for line in scorer.lines(record["metric"], *which))
        wanted = {key: place[key] for key in ("name", "point", "entry") if key in place}
        found = next((line for line, there in tagged if wanted.items() <= there.items()), None)
        if found is not None:
            return found
        line = {**record, **tags}
        if self.settings.workers.index == 0:
            ledger.append(self.settings.ledger, line)
        return line

    def _streamed(
        self, scorer: Scorer, generation: Generation, seeds: range, tags: Mapping[str, Any], name: str
    ) -> ScoreOutput:
        """A block whose images are kept nowhere."""
        what = f"{file_name(scorer.metrics[0])}-{seeds[0]}-{len(seeds)}{in_names(generation.unusual_precision)}"
        folder = begun(generation.recipe, lambda recipe_hash: self._work / f"{recipe_hash[:16]}-{what}")
        plan = ShardPlan(tuple(seeds), self.settings.shard_size)
        run = self._run(generation, len(seeds))
        work = score_output.feature_shards(folder, plan, generation.recipe, run, scorer.detectors, name)
        return ScoreOutput(scorer, generation, work, tags)

    def _zip(self, generation: Generation, seeds: range, name: str, contents: Sequence[Features]) -> ZipOutput:
        """A block whose images are kept."""
        folder = self.settings.results / "images"
        part = f"{seeds[0]}-{seeds[-1]}{in_names(generation.unusual_precision)}"
        path = begun(generation.recipe, lambda recipe_hash: folder / f"{name}-{recipe_hash[:6]}-{part}.zip")
        plan = ShardPlan(tuple(seeds), self.settings.shard_size)
        return ZipOutput(path, plan, generation.recipe, self._run(generation, len(seeds)), contents)

    def _stored(
        self, scorer: Scorer, path: Path, recipe: Recipe, seeds: range, tags: Mapping[str, Any]
    ) -> Scores | Pending:
        """The score of a ZIP that holds the images of these seeds."""
        precision = (read_recipe(path) or {}).get("precision")  # another machine may have made it
        what = f"{seeds[0]}-{file_name(scorer.metrics[0])}{in_names(unusual(precision))}"
        lease = Lease(self._work, f"{recipe.hash[:16]}-{what}")
        measured = functools.partial(score_output.measure_stored, path, scorer, len(seeds))
        which = images_key(recipe.hash, format_seeds(tuple(seeds)), precision)
        return score_output.score_once(scorer, which, measured, tags, lease)

    @property
    def _work(self) -> Path:
        return self.settings.results / "work"

    def _run(self, generation: Generation, images: int) -> Run:
        settings, device = self.settings, device_identity(self._device)
        numerics = generation.numerics(settings.batch, images, settings.workers.count, settings.shard_size)
        return Run(workers=settings.workers, device=device, **numerics)

    def _run_real(self, row: Row) -> Iterator[Block]:
        if self.settings.workers.index != 0:
            return
        scorer = self.scorer([row.metric], row.reference)
        for number, path in self._floors(row):
            statistics = open_statistics(short_name(path), [row.metric])
            which = (statistics.sha256,)
            found = scorer.find(*which)
            tags = {"row": {"name": row.name, "block": number}}
            num = self.settings.num or row.num_images
            measured = functools.partial(score_output.measure_statistics, statistics, scorer, num)
            lease = Lease(self._work, f"{statistics.sha256[:16]}-{file_name(row.metric)}")
            made = score_output.score_once(scorer, which, measured, tags, lease)
            yield Block(row, number, range(0), _record(made, row.metric), reused=found is not None)

    def _run_published(self, row: Row, samples: str) -> Iterator[Block]:
        """Samples of others: one pass over them gives all metrics that are published of them, so the rows share it."""
        if self.settings.workers.index != 0:
            return
        scorer, path = self._scorer_of(row.together, row.reference), fetch(samples, offline=self.settings.offline)
        content, num = content_sha256(path), self.settings.num or row.num_images
        which = (content, num)
        found = scorer.find(*which)

        def measured() -> tuple[Measured, Mapping[str, Any]]:
            made, images = score_output.measure_stored(path, scorer, num)
            return made, {**images, "path": samples}

        lease = Lease(self._work, f"{content[:16]}-{file_name(scorer.metrics[0])}")
        made = score_output.score_once(scorer, which, measured, {}, lease)
        yield Block(row, 0, range(0), _record(made, row.metric), reused=found is not None)

    def _floors(self, row: Row) -> list[tuple[int, Path]]:
        """Statistics of this many real images that ship, block by block; possibly none."""
        num = self.settings.num or row.num_images
        paths = [_real_statistics(row, num, number) for number in range(self.settings.blocks or row.repeats or 1)]
        return [(number, path) for number, path in enumerate(paths) if path.is_file()]

    def _recipe(self, row: Row) -> Recipe:
        recipe = row.recipe(self.settings.networks)
        labels, noise_device = self.settings.labels, self.settings.noise_device
        return replace(recipe, labels=labels or recipe.labels, noise_device=noise_device or recipe.noise_device)

    def _scorer(self, metrics: tuple[str, ...], reference: str) -> Scorer:
        settings = self.settings
        return open_scorer(
            metrics, reference, self._index, self._device, batch=settings.batch or 64, offline=settings.offline
        )


def open_scorer(
    metrics: Sequence[str],
    reference: str,
    index: ledger.Index,
    device: torch.device,
    *,
    batch: int,
    offline: bool = False,
) -> Scorer:
    """What scores by these metrics; a reference that is images is measured now. ValueError or OSError."""
    side = open_side(short_name(reference), metrics, reference=True, offline=offline)
    theirs = open_reference_side(side, metrics)
    detectors = [load_detector(name, device, offline=offline, **how) for name, how in detector_choices(metrics).items()]
    known = theirs.measure(detectors) if isinstance(theirs, ReferenceImages) else theirs
    return Scorer(known, tuple(detectors), index, device, batch)


def _record(made: Scores | Pending, metric: str) -> Record | None:
    """The line of a block's score by one metric; None if others are at it."""
    if isinstance(made, Pending):
        return None
    return next(line for line in made.records if line["metric"] == metric)


def _which(generation: Generation, seeds: range) -> tuple[str, ...]:
    return images_key(generation.recipe.hash, format_seeds(tuple(seeds)), generation.recorded_precision)


def _real_statistics(row: Row, num: int, number: int) -> Path:
    """Statistics of `num` real images, chosen by the seed `number`: NAME.npz, NAME-1.npz, ...."""
    assert row.real is not None
    path = EMBEDDED / row.real.format(num=num)
    return path if number == 0 else path.with_stem(f"{path.stem}-{number}")
