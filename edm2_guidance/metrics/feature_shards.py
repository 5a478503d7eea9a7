"""Features of many images, in shards: scoring that goes on after an interruption, by any number of workers.

A shard file is `shard-00012.npz`: the float32 features [n, D] of each metric in the order of the seeds, which for
50,000 images and FID take 0.4 GB (moments of 98 shards would take 3.3), `labels` int64 [n] if the images have
classes, and `shard.json`. Moments are accumulated in float64 shard by shard, in the order of the plan: the same
numbers however many workers made the shards, and in whatever order.
"""

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edm2_guidance.images import npy
from edm2_guidance.images.archive import damage_means, open_zip, read_zip_member
from edm2_guidance.images.batch import ImageBatch
from edm2_guidance.images.sinks import seeds_of_batch
from edm2_guidance.images.zips import ZipWriter
from edm2_guidance.metrics.detectors import Detector
from edm2_guidance.metrics.moments import Moments, RunningMoments, first_non_finite_row
from edm2_guidance.work.shards import SHARD_JSON, ShardPlan, ShardsMissing, ShardStore, format_seeds, merged_reductions


class FeatureShards(ShardStore):
    """The features of one set of generated images, being computed in `folder`.

    A run is: `open()`; make every one of `missing()` with `write`; `moments()`; write down the result; `remove()`.
    `metrics.evaluation.measure_shards` does the middle part, for any number of workers.
    """

    suffix = ".npz"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        plan: ShardPlan,
        recipe_json: Mapping[str, Any],
        recipe_hash: str,
        batch: int,
        detectors: Sequence[Detector],
        numerics: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Nothing is read or written yet.

        Args:
            folder: Where the shards go.
            plan: Seeds and shards.
            recipe_json: Plain data that says how the images are made; must be the same on every run.
            recipe_hash: Identifies the recipe: equal hashes mean equal images.
            batch: Images per batch inside a shard, 1 or more.
            detectors: What to compute; their weights are part of what has to agree for work to be continued.
            numerics: What else may change last bits, so that all workers must have it alike.
        """
        self.detectors = tuple(detectors)
        identities = {detector.name: dict(detector.identity) for detector in self.detectors}
        if len(identities) != len(self.detectors):
            raise ValueError("every detector may be given once only")
        content = {"recipe": recipe_json, "recipe_hash": recipe_hash, "detectors": identities}
        super().__init__(Path(folder), plan, content, ("recipe_hash", "detectors"), batch, numerics)

    def write(self, index: int) -> "FeatureWriter":
        """A sink for the images of one shard, in order."""
        return FeatureWriter(self, index)

    def moments(self) -> dict[str, Moments]:
        """Moments per metric of all images.

        Raises ShardsMissing if shards are missing, or turn out to be damaged (they are removed, with a warning), and
        ValueError for fewer than 2 images in all.
        """
        running = {detector.name: RunningMoments(detector.feature_dim, detector.keep) for detector in self.detectors}
        unusable = []
        for index in range(len(self.plan)):
            try:
                features = self._read(index)
            except (ValueError, FileNotFoundError) as error:
                self._discard(index, error)
                unusable.append(index)
                continue
            for name, values in features.items():
                running[name].append(values)
        if unusable:
            numbers = format_seeds(tuple(unusable))
            raise ShardsMissing(f"{len(unusable)} of {len(self.plan)} shards must be made: {numbers}", unusable)
        return {name: moments.moments() for name, moments in running.items()}

    def reduced(self) -> dict[str, int]:
        """What memory did not hold at once, over all shards: `ImageBatch.reduced`, and images per detector."""
        return merged_reductions(self._reduced(index) for index in range(len(self.plan)))

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images. FileNotFoundError before the first shard is there."""
        with open_zip(self.shard_path(0)) as file:
            height, width = self._read_head(0, file)["size"]
        return height, width

    def _check_shard(self, index: int, file: zipfile.ZipFile) -> None:
        size = self._read_head(index, file).get("size")
        if not (isinstance(size, list) and len(size) == 2 and all(type(number) is int for number in size)):
            raise ValueError(f"{self.shard_path(index)} does not say how large its images are")
        wanted = {f"{detector.name}.npy" for detector in self.detectors} | {SHARD_JSON}
        if set(file.namelist()) - {"labels.npy"} != wanted:
            raise ValueError(f"{self.shard_path(index)} does not hold the features of this shard")

    def _read(self, index: int) -> dict[str, Tensor]:
        """Features float32 [n, D] per metric. ValueError for a shard that is damaged or another's."""
        path = self.shard_path(index)
        features = {}
        with open_zip(path) as file:
            self._check_shard(index, file)
            for detector in self.detectors:
                array = _array(path, file, detector.name)
                if array.shape != (len(self.plan.shard(index)), detector.feature_dim):
                    raise ValueError(f"{path}: {detector.name} has the shape {list(array.shape)}")
                if not np.isfinite(array).all():
                    raise ValueError(f"{path}: {detector.name} holds values that are not finite")
                features[detector.name] = torch.from_numpy(array)
        return features


class FeatureWriter:
    """A sink for the images of one shard; made by `FeatureShards.write`.

    Images come in the order of the plan, in batches of any size. The shard gets its name when the block ends
    without an error and every image is there.
    """

    def __init__(self, shards: FeatureShards, index: int) -> None:
        self.seeds = shards.plan.shard(index)
        self._shards = shards
        self._index = index

    def __enter__(self) -> Self:
        self._features: dict[str, list[Tensor]] = {detector.name: [] for detector in self._shards.detectors}
        self._labels: list[int] = []
        self._received = 0
        self._reduced: dict[str, int] = {}
        self._size: tuple[int, int] | None = None
        return self

    def write(self, batch: ImageBatch) -> None:
        """Take the next images of the shard.

        ValueError if their seeds are not the next of the plan, if their size differs from the others', or if only
        some have labels; and for features that are not finite, naming the first seed.
        """
        self._check_seeds(seeds_of_batch(batch))
        size = (batch.images.shape[2], batch.images.shape[3])
        if self._size not in (None, size):
            raise ValueError(f"images of {size[1]}x{size[0]} pixels among others of another size in one shard")
        for detector in self._shards.detectors:
            features = detector(batch.images)
            bad_row = first_non_finite_row(features)
            if bad_row is not None:
                seed = self.seeds[self._received + bad_row]
                raise ValueError(f"{detector.name}: the features of seed {seed} are not finite (NaN or infinite)")
            self._features[detector.name].append(features.to("cpu", torch.float32))
        self._labels += batch.labels or ()
        self._reduced = merged_reductions([self._reduced, batch.reduced])
        self._received += len(batch)
        self._size = size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return
        if self._received != len(self.seeds):
            raise RuntimeError(f"shard {self._index} got {self._received} of its {len(self.seeds)} images")
        if len(self._labels) not in (0, self._received):
            raise ValueError(f"some images of shard {self._index} have labels and some have none")
        arrays: dict[str, NDArray[Any]] = {
            name: torch.cat(features).numpy() for name, features in self._features.items()
        }
        if self._labels:
            arrays["labels"] = np.array(self._labels, dtype=np.int64)
        with (
            self._shards._becoming(self._shards.shard_path(self._index)) as temporary,
            ZipWriter(temporary) as file,
        ):
            for name, array in arrays.items():
                file.add(f"{name}.npy", npy.to_bytes(array))
            file.add(SHARD_JSON, self._shards._head(self._index, self._all_reduced(), size=self._size))

    def _all_reduced(self) -> dict[str, int]:
        return merged_reductions([self._reduced, *(detector.reduced for detector in self._shards.detectors)])

    def _check_seeds(self, seeds: tuple[int, ...]) -> None:
        expected = self.seeds[self._received : self._received + len(seeds)]
        if seeds != expected:
            due = format_seeds(expected) or "none"
            raise ValueError(
                f"shard {self._index}: the next seeds of the plan are {due}, but {format_seeds(seeds)} came"
            )


def _array(path: Path, file: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """An array of the open .npz `file` at `path`, its CRC checked; ValueError if it is damaged."""
    data = read_zip_member(path, file, f"{name}.npy")
    with damage_means(f"{name} in {path} is no readable array"):
        return npy.from_bytes(data)
