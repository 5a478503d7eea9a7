"""Scores of images in blocks of seeds, each computed once: what the ledger holds is taken from there."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dnnlib.workers import ALONE, Workers
from edm2_guidance.images.batch import ImageSource
from edm2_guidance.metrics import ledger, provenance
from edm2_guidance.metrics.catalog import check_counts, file_name
from edm2_guidance.metrics.detectors import Detector
from edm2_guidance.metrics.evaluation import check_image_sizes, measure, measure_shards, open_stored
from edm2_guidance.metrics.feature_shards import FeatureShards
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.reference import Statistics
from edm2_guidance.metrics.scoring import Reference, is_of_images, is_score_of, ledger_record, moments_for, score
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.work.lease import Claim
from edm2_guidance.work.shards import ShardPlan, format_seeds

Record = Mapping[str, Any]
#: Called with what there is to do and what of it was done before, in images: a progress bar, or nothing to see.
Bar = Callable[[int, int], AbstractContextManager[Callable[[int], None]]]


class Sampler(Protocol):
    """What is needed of sampling.generation.Generation."""

    @property
    def recipe(self) -> Recipe: ...

    @property
    def image_size(self) -> int: ...

    @property
    def numerics(self) -> Mapping[str, Any]: ...

    def images(self, seeds: Sequence[int], batch: int) -> ImageSource: ...


@dataclass(frozen=True)
class BlockScorer:
    """Scores by one metric against one reference, written to one ledger.

    metric: its name (`metrics.catalog`). detector: of the features that it compares. workdir: where features of
    unfinished blocks lie. shard_size, batch: images. environment: of `metrics.environment`. workers: the place of this
    process among those that share the work. device: what identifies its device, if that is to be its own.
    """

    metric: str
    reference: Reference
    detector: Detector
    ledger: Path
    workdir: Path
    environment: Mapping[str, Any]
    batch: int
    shard_size: int = 512
    workers: Workers = ALONE
    device: str | None = None

    def find(self, recipe_hash: str, seeds: Sequence[int]) -> Record | None:
        """The ledger's line for these images, this detector and this reference; the oldest if there are several."""
        wanted = format_seeds(tuple(seeds))
        return next((record for record in self._comparable() if is_of_images(record, recipe_hash, wanted)), None)

    def tagged(self, record: Record, tags: Mapping[str, Any]) -> Record:
        """The line of the same score with these tags; written now, by the first worker, if the ledger has none."""
        seeds = record["images"]["seeds"]
        for line in self._comparable():
            same = line.get("recipe_hash") == record["recipe_hash"] and line["images"].get("seeds") == seeds
            if same and tags.items() <= line.items():
                return line
        line = {**record, **tags}
        if self.workers.index == 0:
            ledger.append(self.ledger, line)
        return line

    def find_statistics(self, sha256: str) -> Record | None:
        """The ledger's line for images of which only a statistics file is there, by its hash."""
        matching = (record for record in self._comparable() if (record.get("images") or {}).get("sha256") == sha256)
        return next(matching, None)

    def check(self, sampler: Sampler, seeds: Sequence[int]) -> None:
        """Refused, with the differences, if unfinished work on these images was begun by another run."""
        if self.find(sampler.recipe.hash, seeds) is None:
            self._shards(sampler, seeds).check()

    def sample(
        self, sampler: Sampler, seeds: Sequence[int], tags: Mapping[str, Any], bar: Bar = lambda total, done: _unseen()
    ) -> Record | None:
        """The score of images that are sampled now and kept nowhere; from the ledger if it is there.

        Work goes on where an interrupted run left it. tags: further keys of the ledger line. None if other workers
        still have shards to make. ValueError for images that the metric does not take.
        """
        found = self.find(sampler.recipe.hash, seeds)
        if found is not None:
            return found
        check_counts([self.metric], len(seeds))
        check_image_sizes([self.metric], (sampler.image_size, sampler.image_size))
        shards = self._shards(sampler, seeds)
        if not self.workers.order(
            len(shards.plan)
        ):  # nothing to make, and no folder to open again after it was removed
            return None
        shards.open(self.workers, self.device)
        found = self.find(sampler.recipe.hash, seeds)
        if found is not None:  # another worker was through before this one opened the folder, which it has made again
            shards.remove()
            return found
        with bar(*shards.progress()) as progress:
            made = measure_shards(shards, lambda part: sampler.images(part, self.batch), [self.detector], progress)
        found = self.find(sampler.recipe.hash, seeds)
        if found is not None:  # by another, who then died before he could remove the shards, or is not dead at all
            shards.sweep()
            return found
        if made is None and shards.is_over():
            if shards.appears(lambda: self.find(sampler.recipe.hash, seeds) is not None, self.ledger.parent):
                return self.find(sampler.recipe.hash, seeds)
            raise shards.lost()
        if made is None or not shards.claim.is_held():
            return None
        described = provenance.describe_generated(sampler.recipe, seeds, made.image_size)
        record = self._write(made.moments, described, tags, made.reduced)
        shards.remove()
        return record

    def stored(self, path: Path, recipe: Recipe, seeds: Sequence[int], tags: Mapping[str, Any]) -> Record | None:
        """The score of a ZIP or folder that holds the images of these seeds; from the ledger if it is there.

        None while another worker is at it.
        """

        def measured() -> tuple[Mapping[str, Moments], Mapping[str, Any], Mapping[str, int]]:
            images = open_stored(path, [self.metric], num=len(seeds), batch=self.batch)
            made = measure(images.source, [self.detector], images.names)
            return made.moments, images.description, made.reduced

        return self._once(f"{recipe.hash[:16]}-{seeds[0]}", lambda: self.find(recipe.hash, seeds), measured, tags)

    def statistics(self, statistics: Statistics, num: int, tags: Mapping[str, Any]) -> Record | None:
        """The score of images of which only statistics are there; from the ledger if it is there.

        None while another worker is at it. ValueError if they are not of `num` images.
        """

        def measured() -> tuple[Mapping[str, Moments], Mapping[str, Any], Mapping[str, int]]:
            moments = {self.detector.name: moments_for(self.metric, statistics, num)}
            return moments, provenance.describe_statistics(statistics), {}

        return self._once(statistics.sha256[:16], lambda: self.find_statistics(statistics.sha256), measured, tags)

    def _once(
        self,
        name: str,
        find: Callable[[], Record | None],
        measured: Callable[[], tuple[Mapping[str, Moments], Mapping[str, Any], Mapping[str, int]]],
        tags: Mapping[str, Any],
    ) -> Record | None:
        """What `find` finds, else the line written of what was measured, by one process; None while another is at it.

        measured: gives moments, what the images are, and `ImageBatch.reduced`.
        """
        found = find()
        if found is not None:
            return found
        self.workdir.mkdir(parents=True, exist_ok=True)
        claim = Claim(self.workdir, f"{name}-{file_name(self.metric)}")
        if not claim.take_or_see_life():
            return None
        try:
            found = find()
            if found is None:
                moments, images, reduced = measured()
                found = find()  # another may have taken this process for dead, and have been through with it
                if found is None and claim.is_held():
                    found = self._write(moments, images, tags, reduced)
            return found
        finally:
            claim.release()

    def _comparable(self) -> Iterable[Record]:
        """The ledger's lines of this metric, detector and reference."""
        if not self.ledger.exists():
            return
        for record in ledger.read(self.ledger):
            if is_score_of(record, self.detector.identity, self.reference, self.metric):
                yield record

    def _shards(self, sampler: Sampler, seeds: Sequence[int]) -> FeatureShards:
        recipe = sampler.recipe
        folder = self.workdir / f"{recipe.hash[:16]}-{file_name(self.metric)}-{seeds[0]}-{len(seeds)}"
        plan = ShardPlan(tuple(seeds), self.shard_size)
        return FeatureShards(folder, plan, recipe.to_json(), recipe.hash, self.batch, [self.detector], sampler.numerics)

    def _write(
        self,
        moments: Mapping[str, Moments],
        images: Mapping[str, Any],
        tags: Mapping[str, Any],
        reduced: Mapping[str, int],
    ) -> Record:
        identities = {self.detector.name: self.detector.identity}
        (result,) = score(self.reference, moments, identities, images)
        run: dict[str, Any] = {"batch": self.batch, "reduced": reduced}
        record = ledger_record(result, self.reference, self.detector.identity, images, self.environment, **run)
        record |= tags
        ledger.append(self.ledger, record)
        return record


def _unseen() -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda count: None)
