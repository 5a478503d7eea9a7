"""Features of images as other tools store them, [N, D], to mean and covariance; read in pieces, never all at once."""

import io
from collections.abc import Collection
from dataclasses import replace
from typing import IO, TYPE_CHECKING, cast

import numpy as np

from edm2_guidance.images import npy
from edm2_guidance.metrics import catalog
from edm2_guidance.metrics.moments import Moments

if TYPE_CHECKING:
    from torch import Tensor

    from edm2_guidance.metrics.running import RunningMoments

_PIECE_BYTES = 1 << 24


def metric_of_dim(dim: int) -> str:
    """The name in files (`Extractor.stored_as`) of features of so many numbers.

    ValueError, naming what there is, if none has so many.
    """
    dims = {metric: extractor.features["pool"] for metric, extractor in catalog.extractors().items()}
    found = next((metric for metric, size in dims.items() if size == dim), None)
    if found is None:
        known = ", ".join(f"{size} ({metric})" for metric, size in dims.items())
        raise ValueError(f"features of {dim} numbers each belong to no metric here: those have {known}")
    return found


def moments_of_array(stream: IO[bytes], *, keep: Collection[str] = ()) -> Moments:
    """Mean and covariance of the rows of a `.npy`, from its first byte on: floating point, [N, D], N of 2 or more.

    Further dimensions of 1, as some extractors leave them, count for nothing. keep: names of the features that
    the result shall hold itself, too. ValueError for another array, for D of
    no detector, for values that are not finite, or if its bytes are not all there, or more are.
    """
    import torch

    from edm2_guidance.metrics.running import RunningMoments

    header = npy.read_header(stream)
    shape = tuple(size for size in header.shape[1:] if size != 1)
    if header.dtype.kind != "f" or len(header.shape) < 2 or len(shape) != 1:
        raise ValueError(
            f"it is {header.dtype} {list(header.shape)}, and features are floating point [N, D]; "
            "images are given as a folder, a ZIP or an .npz"
        )
    running = RunningMoments(shape[0], metric_of_dim(shape[0]) in keep)
    total, row_bytes = header.shape[0], shape[0] * header.dtype.itemsize
    rows = total if header.fortran_order else max(1, _PIECE_BYTES // row_bytes)
    reader = io.BufferedReader(cast(io.RawIOBase, stream))  # whose read gives all that is asked for
    for start in range(0, total, max(rows, 1)):
        count = min(rows, total - start)
        data = reader.read(count * row_bytes)
        if len(data) < count * row_bytes:
            raise ValueError("it ends before its last row: the file is cut short")
        numbers = np.frombuffer(data, header.dtype)
        piece = numbers.reshape(shape[0], count).T if header.fortran_order else numbers.reshape(count, shape[0])
        piece = piece.astype(np.float32 if header.dtype.itemsize < 8 else np.float64)
        _append(running, torch.from_numpy(piece), start)
    if reader.read(1) != b"":
        raise ValueError("it goes on after its last row: the file is damaged")
    return running.moments()


def moments_of_rows(rows: "Tensor", *, keep: Collection[str] = ()) -> Moments:
    """Mean and covariance of features, floating point [N, D]. ValueError as `moments_of_array`."""
    import torch

    from edm2_guidance.metrics.running import RunningMoments

    if rows.ndim != 2 or not rows.is_floating_point():
        raise ValueError(f"it is {rows.dtype} {list(rows.shape)}, and features are floating point [N, D]")
    running = RunningMoments(rows.shape[1])
    piece = max(1, _PIECE_BYTES // (8 * rows.shape[1]))
    for start in range(0, len(rows), piece):
        _append(running, rows[start : start + piece].to(torch.float64), start)
    moments = running.moments()
    if metric_of_dim(rows.shape[1]) not in keep:
        return moments
    return replace(moments, features=(rows.float() if rows.itemsize < 4 else rows).numpy(), sample=None)


def _append(running: "RunningMoments", rows: "Tensor", start: int) -> None:
    """Adds features [n, D] of the images from number `start` on. ValueError naming the first that is not finite."""
    from edm2_guidance.metrics.running import first_non_finite_row

    bad_row = first_non_finite_row(rows)
    if bad_row is not None:
        raise ValueError(f"the features of image {start + bad_row} are not finite")
    running.append(rows)
