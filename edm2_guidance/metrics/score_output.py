"""Scores of images as they are made: features kept in shards until the result is in the ledger.

A shard's features are `NAME.npy` (`Extractor.stored`), float32 [n, D] in the order of the seeds, and `labels.npy`,
int64 [n], if the images have classes; of 50,000 images and FID they take 0.4 GB (moments of 98 shards would take 3.3).
Moments are accumulated in float64 shard by shard, in the order of the plan: the same numbers however many workers made
the shards, and in whatever order.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edm2_guidance.images import npy
from edm2_guidance.images.batch import ImageBatch
from edm2_guidance.images.npz import npz_array
from edm2_guidance.images.sources import content_sha256
from edm2_guidance.metrics import ledger
from edm2_guidance.metrics.catalog import check_counts, find_metric
from edm2_guidance.metrics.detectors import Detector
from edm2_guidance.metrics.environment import environment
from edm2_guidance.metrics.evaluation import Measured, check_image_sizes, identities_of, measure, open_stored
from edm2_guidance.metrics.provenance import describe_generated, describe_statistics, vae_ran
from edm2_guidance.metrics.reference import Statistics
from edm2_guidance.metrics.running import first_non_finite_row, running_moments
from edm2_guidance.metrics.scoring import Reference, keys_of, moments_for, score_key, write_scores
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.work.complete import Pending, Run, once
from edm2_guidance.work.lease import Lease
from edm2_guidance.work.plan import ShardPlan, format_seeds, images_key, merged_reductions
from edm2_guidance.work.shards import SHARD_JSON, ShardFolder
from edm2_guidance.work.zip_output import ZipOutput

Record = Mapping[str, Any]


class Sampler(Protocol):
    """What is needed of sampling.generation.Generation."""

    @property
    def recipe(self) -> Recipe: ...

    @property
    def image_size(self) -> int: ...


class Scores(NamedTuple):
    """Lines of the ledger, one per metric in the order asked. written: those that this process wrote."""

    records: list[Record]
    written: list[Record]


@dataclass(frozen=True)
class Scorer:
    """By what images are scored, and where the results go; a score that the ledger has is taken from there.

    index: of `open_index`. device: that the detectors compute on. batch: images at a time, put on record.
    """

    reference: Reference
    detectors: tuple[Detector, ...]
    index: ledger.Index
    device: torch.device
    batch: int

    def find(self, *images: object) -> Scores | None:
        """The ledger's oldest lines of these images (as `score_key`), if it has one per metric."""
        found = [self.lines(metric, *images)[:1] for metric in self.metrics]
        return Scores([line for lines in found for line in lines], []) if all(found) else None

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics, in the order asked."""
        return list(self.reference.comparisons)

    def lines(self, metric: str, *images: object) -> list[Record]:
        """All of the ledger's lines of these images by one metric."""
        identity = self._identities[find_metric(metric).stored_as]
        return self.index.find(score_key(metric, identity, self.reference, *images))

    @property
    def _identities(self) -> Mapping[str, Mapping[str, Any]]:
        return identities_of(self.detectors)

    def write(
        self, made: Measured, which: Sequence[object], images: Mapping[str, Any], tags: Mapping[str, Any]
    ) -> Scores:
        """Append what the ledger lacks. which: as `score_key`'s images. images: what is known of them, in full."""
        there = {metric: self.lines(metric, *which)[:1] for metric in self.metrics}
        lacking = [metric for metric in there if not there[metric]]
        around = environment(self.device, vae=vae_ran(images))
        written = write_scores(
            self.index.path, self.reference, made.moments, self._identities, images, around,
            metrics=lacking, tags=tags, batch=self.batch, reduced=made.reduced,
        )  # fmt: skip
        new = {record["metric"]: record for record in written}
        return Scores([(there[name] or [new[name]])[0] for name in there], list(written))


def open_index(path: str | Path, *, again: bool = False) -> ledger.Index:
    """A ledger by `score_key`s. again: what it holds by now is computed once more, and makes further lines."""
    return ledger.Index(path, keys_of, again=again)


def feature_shards(
    folder: Path, plan: ShardPlan, recipe: Recipe, run: Run, detectors: Sequence[Detector], title: str = ""
) -> ShardFolder:
    """The work of a score of images that are kept nowhere: features in shards in `folder`. title: for its status."""
    features = Features(detectors)
    more = {"detectors": features.identities}
    return ShardFolder(folder, plan, recipe, run, [features], more=more, title=title)


class ScoreOutput:
    """The scores of images that are sampled now."""

    def __init__(
        self,
        scorer: Scorer,
        sampler: Sampler,
        work: ShardFolder,
        tags: Mapping[str, Any],
        images: ZipOutput | None = None,
    ) -> None:
        """ValueError for too few images, or of a size, for a metric.

        work: of `feature_shards`. images: the ZIP of the same pass, if they are kept: then the work is its own, and its
        `contents` are [Features(..., beside=True)].
        """
        check_counts(scorer.metrics, len(work.plan.seeds))
        check_image_sizes(scorer.metrics, (sampler.image_size, sampler.image_size))
        self.work = work
        self._scorer = scorer
        self._recipe = sampler.recipe
        self._which = images_key(sampler.recipe.hash, format_seeds(work.plan.seeds), work.run.recorded_precision)
        self._tags = tags
        self._zip = images

    def find(self) -> Scores | None:
        """The scores, if the ledger has them all, and the ZIP is there, if there is to be one."""
        if self._zip is not None and self._zip.find() is None:
            return None
        found = self._scorer.find(*self._which)
        if found is None:
            self.work.check()
        return found

    def join(self) -> Scores:
        """Write the lines that the ledger lacks, and the ZIP before them.

        Raises ShardsMissing if shards are damaged or missing, LeaseLost if another has the result by now, and
        ValueError for fewer than 2 images.
        """
        made, seeds = measured(self.work, self._scorer.detectors), self.work.plan.seeds
        kept: dict[str, Any] = {}
        if self._zip is not None:
            path = self._zip.join()
            if made is None:  # some shards are of the version before, and hold images alone
                made, _ = measure_stored(path, self._scorer, len(seeds))
            kept = {"path": str(path), "content_sha256": content_sha256(path)}
        assert made is not None  # shards without images hold features
        self.work.lease.check()
        run = self.work.run
        images = describe_generated(self._recipe, seeds, made.image_size, run.recorded_precision, run.form)
        return replace(self._scorer, batch=run.batch).write(made, self._which, {**images, **kept}, self._tags)


def score_once(
    scorer: Scorer,
    which: Sequence[object],
    measured: Callable[[], tuple[Measured, Mapping[str, Any]]],
    tags: Mapping[str, Any],
    lease: Lease,
) -> Scores | Pending:
    """The scores of images that are there, in a file or as statistics, by one process.

    which: as `score_key`'s images. measured: gives what was measured, and what is known of the images.
    """

    def write() -> Scores:
        made, images = measured()
        lease.check()
        return scorer.write(made, which, images, tags)

    return once(lease, lambda: scorer.find(*which), write)


def measure_stored(path: Path, scorer: Scorer, num: int) -> tuple[Measured, Mapping[str, Any]]:
    """A ZIP or folder of images, measured, and what is known of them."""
    images = open_stored(path, scorer.metrics, num=num, batch=scorer.batch)
    return measure(images.source, scorer.detectors, images.names), images.description


def measure_statistics(statistics: Statistics, scorer: Scorer, num: int) -> tuple[Measured, Mapping[str, Any]]:
    """Images of which only statistics are there. ValueError if they are not of `num` images."""
    moments = {find_metric(name).stored_as: moments_for(name, statistics, num) for name in scorer.metrics}
    return Measured(moments, (0, 0), {}), describe_statistics(statistics)


class Features:
    """The features of a shard's images, as what shards hold of them.

    beside: PNGs are what matters in the shard, so that it is whole without features, as the version before made them.
    """

    computes = True

    def __init__(self, detectors: Sequence[Detector], *, beside: bool = False) -> None:
        """ValueError if a detector is given twice."""
        self.detectors = tuple(detectors)
        self.identities = identities_of(self.detectors)
        self.names = list(running_moments(self.detectors))
        self._beside = beside

    def check(self, path: Path, file: zipfile.ZipFile, seeds: tuple[int, ...], head: Mapping[str, Any]) -> None:
        """ValueError unless the shard says how large its images are, and holds features of all detectors."""
        if self._beside:
            return
        size = head.get("size")
        if not (isinstance(size, list) and len(size) == 2 and all(type(number) is int for number in size)):
            raise ValueError(f"{path} does not say how large its images are")
        wanted = {f"{name}.npy" for name in self.names} | {SHARD_JSON}
        if set(file.namelist()) - {"labels.npy"} != wanted:
            raise ValueError(f"{path} does not hold the features of this shard")

    def are_in(self, head: Mapping[str, Any]) -> bool:
        """Whether a shard holds them, by its shard.json."""
        return not self._beside or head.get("detectors") == self.identities

    def collect(
        self, seeds: tuple[int, ...], add: Callable[[str, bytes], None]
    ) -> AbstractContextManager["_FeatureCollector"]:
        """The detectors run as images come."""
        return nullcontext(_FeatureCollector(self, seeds, add))

    def head(self, size: tuple[int, int] | None) -> dict[str, Any]:
        """What shard.json says of them. Beside PNGs it is told apart from what it says of the images."""
        reduced = merged_reductions(detector.reduced for detector in self.detectors)
        if self._beside:
            return {"size": size, "detectors": self.identities, "features_reduced": reduced}
        return {"size": size, "reduced": reduced}


class _FeatureCollector:
    def __init__(self, content: Features, seeds: tuple[int, ...], add: Callable[[str, bytes], None]) -> None:
        self._content = content
        self._seeds = seeds
        self._add = add
        self._features: dict[str, list[Tensor]] = {name: [] for name in content.names}
        self._received = 0
        self._size: tuple[int, int] | None = None

    def write(self, batch: ImageBatch) -> None:
        """ValueError for images of another size, and for features that are not finite, naming the first seed."""
        size = (batch.images.shape[2], batch.images.shape[3])
        if self._size not in (None, size):
            raise ValueError(f"images of {size[1]}x{size[0]} pixels among others of another size in one shard")
        for detector in self._content.detectors:
            for name, features in detector(batch.images).items():
                bad_row = first_non_finite_row(features)
                if bad_row is not None:
                    seed = self._seeds[self._received + bad_row]
                    raise ValueError(f"{name}: the features of seed {seed} are not finite (NaN or infinite)")
                self._features[name].append(features.to("cpu", torch.float32))
        self._received += len(batch)
        self._size = size

    def finish(self, labels: Sequence[int] | None) -> dict[str, Any]:
        arrays: dict[str, NDArray[Any]] = {
            name: torch.cat(features).numpy() for name, features in self._features.items()
        }
        if labels:
            arrays["labels"] = np.array(labels, dtype=np.int64)
        for name, array in arrays.items():
            self._add(f"{name}.npy", npy.to_bytes(array))
        return self._content.head(self._size)


def measured(work: ShardFolder, detectors: Sequence[Detector]) -> Measured | None:
    """Moments of the features of all images of a work, by those in its shards; None if some shard has none.

    Raises ShardsMissing if shards are missing, or turn out to be damaged (they are removed, with a warning), and
    ValueError for fewer than 2 images in all.
    """
    running = running_moments(detectors)
    heads: list[Mapping[str, Any]] = []
    for head, features in work.each(partial(_read, work, detectors)):
        if features is None:
            return None
        heads.append(head)
        for name, values in features.items():
            running[name].append(values)
    height, width = heads[0]["size"]
    reduced = merged_reductions(head.get(key) or {} for head in heads for key in ("reduced", "features_reduced"))
    return Measured({name: moments.moments() for name, moments in running.items()}, (height, width), reduced)


def _read(
    work: ShardFolder, detectors: Sequence[Detector], index: int, file: zipfile.ZipFile, head: Mapping[str, Any]
) -> tuple[Mapping[str, Any], dict[str, Tensor] | None]:
    """shard.json, and features float32 [n, D] by name if there are any. ValueError for a shard that is damaged."""
    (content,) = (content for content in work.contents if isinstance(content, Features))
    if not content.are_in(head):
        return head, None
    path, features = work.path(index), {}
    for name, dim in (pair for detector in detectors for pair in detector.dims.items()):
        array = npz_array(path, file, name)
        if array.shape != (len(work.plan.shard(index)), dim):
            raise ValueError(f"{path}: {name} has the shape {list(array.shape)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} holds values that are not finite")
        features[name] = torch.from_numpy(array)
    return head, features
