"""Moments of features, in float64, as images stream by. Memory does not depend on their number.

Beside them a sample of the features is held, of which intervals are made (`metrics/uncertainty.py`).
"""

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edm2_guidance.images.batch import ImageBatch
from edm2_guidance.metrics.moments import Moments

SAMPLE = 5000  # images: the spread of numbers of so many is known to some percent, and 2048 features take 40 MB
SEED = 0
_ROWS = 1024  # that are added at a time: a product of so many is as fast as products are
_BLOCK_BYTES = 1 << 26  # of features that are kept; memory of such size goes back to the system at once


class FeatureExtractor(Protocol):
    """What `MomentsSink` needs of a detector; `metrics.detectors.Detector` is one."""

    @property
    def name(self) -> str: ...

    @property
    def dims(self) -> Mapping[str, int]: ...

    @property
    def keep(self) -> Collection[str]: ...

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]: ...


class RunningMoments:
    """Streaming mean and centred second moment of features in float64.

    Batches and parts are combined by the pairwise update of Chan, Golub and LeVeque (1983), "Algorithms for
    computing the sample variance", eq. 2.1: centred sums, so no cancellation when means are large. How rows are cut
    into batches does not matter; their order, and where parts are merged, moves last bits.

    keep: keep the features themselves, too, in the order they come; then memory grows with their number.
    """

    def __init__(self, dim: int, keep: bool = False) -> None:
        if dim < 1:
            raise ValueError(f"feature dimension {dim} must be at least 1")
        self.dim = dim
        self._kept: list[Tensor] | None = [] if keep else None
        self._sample = None if keep else _Sample()
        self._loose, self._loose_bytes = 0, 0  # of the last of these, that are batches as they came
        self._waiting: list[Tensor] = []  # rows that are not added yet, fewer than `_ROWS`
        self._added = 0
        self._mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

    @property
    def num_images(self) -> int:
        """How many rows came."""
        return self._added + sum(map(len, self._waiting))

    def append(self, features: Tensor) -> None:
        """Adds a batch. features: [N, D], any float dtype, any device, N may be 0.

        ValueError: wrong shape, or non-finite values; the message names the first bad row.
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"features have shape {list(features.shape)}: expected [N, {self.dim}]")
        bad_row = first_non_finite_row(features)
        if bad_row is not None:
            raise ValueError(f"features of row {bad_row} of the batch are not finite")
        if features.shape[0] == 0:
            return
        device = features.device if features.device.type in ("cpu", "cuda") else torch.device("cpu")
        self._waiting.append(features.detach().to(device, torch.float64, copy=True))
        if sum(map(len, self._waiting)) >= _ROWS:
            *full, rest = torch.cat([rows.to(device) for rows in self._waiting]).split(_ROWS)
            for rows in full:
                self._add(rows)
            self._waiting = [rest]
        if self._kept is not None:
            self._keep(features.detach().cpu())
        if self._sample is not None:
            self._sample.append(features.detach().cpu())

    def merge(self, other: "RunningMoments") -> None:
        """Adds all images of `other`, exactly as if its images had been appended here, up to rounding.

        No sample is left.
        """
        if other.dim != self.dim:
            raise ValueError(f"cannot merge moments of {other.dim} features into moments of {self.dim}")
        if other.num_images == 0:
            return
        self._sample = None
        self._add_waiting()
        other._add_waiting()
        device = self._mean.device
        self._combine(other._added, other._mean.to(device))
        self._scatter += other._scatter.to(device)

    def moments(self) -> Moments:
        """Mean and covariance with n - 1. ValueError with fewer than 2 images."""
        if self.num_images < 2:
            raise ValueError(f"{self.num_images} image(s) have no covariance: at least 2 are needed")
        self._add_waiting()
        scatter = self._scatter.cpu()
        cov = (scatter + scatter.T) / (2 * (self.num_images - 1))
        sample = None if self._sample is None else self._sample.rows()
        return Moments(self._mean.cpu().clone().numpy(), cov.numpy(), self.num_images, self._joined(), sample)

    def _keep(self, features: Tensor) -> None:
        """Batches become blocks as soon as these are so large that what is let go of them leaves the process."""
        assert self._kept is not None
        self._kept.append(features)
        self._loose, self._loose_bytes = self._loose + 1, self._loose_bytes + features.nbytes
        if self._loose_bytes >= _BLOCK_BYTES:
            self._kept[-self._loose :] = [torch.cat(self._kept[-self._loose :])]
            self._loose, self._loose_bytes = 0, 0

    def _joined(self) -> NDArray[Any] | None:
        """The features that are kept, as one; the blocks are let go one by one, so that there is one copy of them."""
        if not self._kept:
            return None
        dtype = functools.reduce(torch.promote_types, (part.dtype for part in self._kept))
        joined = torch.empty(sum(map(len, self._kept)), self.dim, dtype=dtype)
        parts, self._kept, end = self._kept, [joined], len(joined)
        self._loose, self._loose_bytes = 0, 0
        while parts:
            part = parts.pop()
            joined[end - len(part) : end] = part
            end -= len(part)
        return joined.numpy()

    def _add_waiting(self) -> None:
        if self._waiting:
            device = self._waiting[-1].device
            self._add(torch.cat([rows.to(device) for rows in self._waiting]))
            self._waiting = []

    def _add(self, rows: Tensor) -> None:
        """Add rows, float64 [N, D], to the sums, on the device of the rows."""
        self._mean, self._scatter = self._mean.to(rows.device), self._scatter.to(rows.device)
        mean = rows.mean(dim=0)
        centred = rows - mean
        self._combine(len(rows), mean)
        self._scatter += _square(centred)

    def _combine(self, num: int, mean: Tensor) -> None:
        """The sums, for `num` rows more of this mean, whose own scatter is to be added."""
        total = self._added + num
        delta = mean - self._mean
        self._mean = self._mean + delta * (num / total)
        self._scatter.addr_(delta, delta, alpha=self._added * num / total)
        self._added = total


def _square(rows: Tensor) -> Tensor:
    """Rows^T rows, [D, D]: numpy computes half of it, and mirrors that."""
    if rows.device.type != "cpu":
        return rows.T @ rows
    array = rows.numpy()
    return torch.from_numpy(array.T @ array)


class _Sample:
    """At most `SAMPLE` of the rows that come, each as likely as any other (Vitter 1985, algorithm R)."""

    def __init__(self) -> None:
        self._count = 0
        self._draws = np.random.RandomState(SEED)
        self._rows: Tensor | None = None

    def append(self, rows: Tensor) -> None:
        """Adds rows [N, D]. Which ones are held depends on their numbers alone, not on batches."""
        if self._rows is None:
            self._rows = torch.empty(SAMPLE, rows.shape[1], dtype=rows.dtype)
        fit = min(len(rows), max(0, SAMPLE - self._count))
        self._rows[self._count : self._count + fit] = rows[:fit]
        for number, row in enumerate(rows[fit:], start=self._count + fit):
            place = self._draws.randint(number + 1)
            if place < SAMPLE:
                self._rows[place] = row
        self._count += len(rows)

    def rows(self) -> NDArray[Any] | None:
        """What is held, [n, D]; None before any came."""
        return None if self._rows is None else self._rows[: self._count].clone().numpy()


def first_non_finite_row(features: Tensor) -> int | None:
    """Index of the first row of [N, D] that holds a NaN or an infinity, or None."""
    finite = torch.isfinite(features).all(dim=1)
    return None if bool(finite.all()) else int((~finite).nonzero()[0])


def running_moments(detectors: Iterable[FeatureExtractor]) -> dict[str, RunningMoments]:
    """Of no image yet, for all features that these detectors give. ValueError if one is given twice."""
    dims = [(name, dim, name in detector.keep) for detector in detectors for name, dim in detector.dims.items()]
    running = {name: RunningMoments(dim, keep) for name, dim, keep in dims}
    if len(running) != len(dims):
        raise ValueError("every detector may be given once only")
    return running


class MomentsSink:
    """An image sink that feeds every batch to each detector and keeps the running moments of its features.

    names: names of the images in the order they come, used in error messages; None to name them by number.
    """

    def __init__(self, detectors: Sequence[FeatureExtractor], names: Sequence[str] | None = None) -> None:
        self.detectors = tuple(detectors)
        self.running = running_moments(self.detectors)
        self.num_images = 0
        self.image_size: tuple[int, int] | None = None  # (height, width), once there was a batch
        self._names = names

    def __enter__(self) -> "MomentsSink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def write(self, batch: ImageBatch) -> None:
        """Adds one batch. ValueError naming the first image whose features are not finite."""
        for detector in self.detectors:
            for name, features in detector(batch.images).items():
                bad_row = first_non_finite_row(features)
                if bad_row is not None:
                    image = self._image_name(batch, bad_row)
                    raise ValueError(f"{name}: the features of {image} are not finite (NaN or infinite)")
                self.running[name].append(features)
        self.num_images += batch.images.shape[0]
        self.image_size = (batch.images.shape[2], batch.images.shape[3])

    def moments(self) -> dict[str, Moments]:
        """Moments by the features' names in files. ValueError with fewer than 2 images."""
        return {name: running.moments() for name, running in self.running.items()}

    def _image_name(self, batch: ImageBatch, row: int) -> str:
        number = self.num_images + row
        if self._names is not None:
            return f"image {self._names[number]!r}"
        seed = f" (seed {batch.seeds[row]})" if batch.seeds is not None else ""
        return f"image number {number}{seed}"
