"""Statistics of image sets on disk: mean and covariance per metric, in every format that is in use.

Read:

* `.npz` of this project: `mu`, `sigma` for "fid" and `mu_s`, `sigma_s` for "sfid" (so that other tools find them),
  `<metric>.mu`, `<metric>.sigma` for every other metric, `num_images`, and `provenance`, a JSON text that says which
  detectors and images made them; and `<metric>.features` float32 [N, D], at most 2 GiB, where a measure needs them
  ("metric" is the Frechet distance of these features, `Extractor.stored`);
* `.npz` of EDM, pytorch-fid, clean-fid and guided-diffusion: `mu`, `sigma` of "fid", or of another metric if these
  have as many features as its detector, and guided-diffusion's `mu_s`, `sigma_s` of "sfid"; other arrays are left
  alone;
* EDM2's `.pkl`: {"fid": {"mu", "sigma"}, "fd_dinov2": {...}, "num_images"}, read without running any code;
* features [N, D], of which mean and covariance are taken: `feats` of clean-fid's `_kid.npz`, `pool_3`, `reps` of
  dgm-eval (whose `model` names the metric), and a bare `.npy` (whose D does);
* torch-fidelity's `.pt` caches: {"mu", "sigma"}, or features [N, D]; D names the metric.

Written: in the formats of `statistics_formats`. A pickle names its arrays as numpy 1 did, so that numpy of any version
reads it, and has no place for provenance.
"""

import itertools
import json
import pickle
import reprlib
import struct
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from dnnlib.atomic import atomic_path, check_destination
from dnnlib.download import fetch
from dnnlib.errors import odd_files_are_value_errors
from dnnlib.regular import open_regular, sha256_of
from dnnlib.urls import without_secrets
from edm2_guidance.images import npy
from edm2_guidance.images.npz import write_npz
from edm2_guidance.images.unzip import check_zip, damage_means, open_zip, read_zip_member
from edm2_guidance.images.zips import parse_object
from edm2_guidance.metrics import catalog
from edm2_guidance.metrics.features import metric_of_dim, moments_of_array, moments_of_rows
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.peer_files import write_peer_files
from edm2_guidance.metrics.statistics_formats import StatisticsFormat, choose_format
from torch_utils import safe_pickle
from torch_utils.safe_pickle import UnsafePickleError

_T = TypeVar("_T")
FORMAT = "edm2-guidance statistics 1"
MAX_KEPT_BYTES = 1 << 31  # of features in a file, which are read at once: 262,144 images of 2048 features
MAX_FEATURES = 4096  # of the widest detectors in use; covariances of more would take gigabytes
_PIECE_ROWS = 4096  # of features that are looked at together
_TILE = 256
_SHOWN = 8  # names of metrics in an error
_MAX_TEXT_BYTES = 1 << 18  # of the provenance, 4 bytes a character
_ABSURD = 1e100  # no feature comes near it; sums and products of smaller numbers stay finite
_NPY_MAGIC = b"\x93NUMPY"
#: Arrays that other tools write by these names: pytorch-fid's and guided-diffusion's.
PLAIN: Mapping[str, tuple[str, str]] = MappingProxyType({"fid": ("mu", "sigma"), "sfid": ("mu_s", "sigma_s")})
ASYMMETRY_TOLERANCE = 1e-5  # relative to the largest entry; covers covariances accumulated in float32


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a statistics file holds.

    moments: per metric. source, sha256: the file as asked for (of a URL, no secrets), and its hash. detectors: the
    identity of the detector per metric; a metric is missing where the file does not say. images: what it says of the
    images, empty if nothing.
    resize_known: whether it is settled how images were resized, by `detectors` or by the tool that writes such files.
    shown: with features, of the images that lie in the file beside statistics of more, as in guided-diffusion's.
    """

    moments: Mapping[str, Moments]
    source: str
    sha256: str
    detectors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    images: Mapping[str, Any] = field(default_factory=dict)
    resize_known: bool = True
    shown: Mapping[str, Moments] = field(default_factory=dict)

    def of(self, metric: str, dim: int, num_images: int | None = None) -> Moments:
        """The moments of one metric. ValueError if they are not there (naming those there are) or of another size."""
        if metric not in self.moments:
            raise ValueError(_not_there(metric, self.moments, self.source))
        moments = self.moments[metric]
        if moments.dim != dim:
            raise ValueError(_of_another_detector(metric, moments.dim, dim, self.source))
        if num_images is not None and moments.num_images != num_images:
            raise ValueError(
                f"{self.source} is made of {moments.num_images} images, not of {num_images}: leave out --num-images"
            )
        return moments


def open_statistics(
    source: str | Path,
    metrics: Collection[str] | None = None,
    *,
    keep: Collection[str] = (),
    offline: bool = False,
) -> Statistics:
    """Reads a statistics file of any known format, by path or URL; the format is told by the content.

    metrics: which to read, by `catalog.feature_names`, the others are left alone; None reads all that this program
    has. keep: of which to read the features themselves, too, where the file has them.

    OSError: no such file, or it cannot be fetched. ValueError: not statistics, none of one of `metrics` or of any, of
    more features than the metric's detector has (`MAX_FEATURES` if it has none here), or damaged: arrays missing, of
    wrong shapes, not floating point, not finite, not symmetric, or with negative variances.
    """
    path, source = fetch(source, offline=offline), without_secrets(str(source))
    with odd_files_are_value_errors(source):
        found = _read(path, source, metrics, keep)
    return Statistics(
        moments=found.moments,
        source=source,
        sha256=sha256_of(path),
        detectors=_detectors(found.provenance, source),
        images=_images(found.provenance, source),
        resize_known=found.resize_known,
    )


class _Content(NamedTuple):
    """What a file was found to hold."""

    moments: dict[str, Moments]
    provenance: Mapping[str, Any] = MappingProxyType({})
    resize_known: bool = False


def _read(path: Path, source: str, metrics: Collection[str] | None, keep: Collection[str]) -> _Content:
    magic = _magic(path)
    if _is_tensor_file(_members(path)):
        return _read_tensor_file(path, source, keep)
    if magic.startswith(b"PK"):
        return _read_npz(path, source, metrics, keep)
    if magic.startswith(b"\x80"):
        return _Content(_read_pickle(path, source, metrics), resize_known=True)
    if magic.startswith(_NPY_MAGIC):
        with damage_means(f"{source} cannot be read as features"), open_regular(path) as file:
            found = moments_of_array(file, keep=keep)
            return _Content({metric_of_dim(found.dim): found})
    raise ValueError(f"{source} is no statistics: neither .npz, EDM2 .pkl, .npy nor .pt")


def _is_tensor_file(members: set[str]) -> bool:
    """Whether members are those of `torch.save`: a pickle, and the version of the format, in one folder."""
    return any(name.endswith("/data.pkl") and f"{name.split('/')[0]}/version" in members for name in members)


def _members(path: Path) -> set[str]:
    """Names in a ZIP; none if it is no ZIP. ValueError if damaged."""
    if not _magic(path).startswith((b"PK\3\4", b"PK\5\6")):
        return set()
    with open_zip(path) as file:
        return set(file.namelist())


def _read_tensor_file(path: Path, source: str, keep: Collection[str]) -> _Content:
    """torch-fidelity resizes as EDM2 does, but such a file does not say that it is torch-fidelity's."""
    import torch

    from torch_utils.tensor_file import read_tensors

    try:
        content = read_tensors(path, arrays=True)
    except UnsafePickleError as error:  # names the copy, of a URL
        raise type(error)(f"{source}: {str(error).removeprefix(f'{path}: ')}") from error
    if isinstance(content, torch.Tensor):
        with damage_means(f"{source} cannot be read as features"):
            moments = moments_of_rows(content, keep=keep)
            return _Content({metric_of_dim(moments.dim): moments})
    if not isinstance(content, dict) or not {"mu", "sigma"} <= content.keys():
        raise ValueError(f"{source} holds neither features [N, D] nor statistics ('mu' and 'sigma')")
    mu, sigma = _as_array(content["mu"]), _as_array(content["sigma"])
    with damage_means(f"{source} cannot be read as statistics"):
        metric = metric_of_dim(len(mu) if isinstance(mu, np.ndarray) and mu.ndim == 1 else 0)
    return _Content({metric: _checked(metric, mu, sigma, None, source)})


def _as_array(part: object) -> object:
    """A tensor as an array; floating point wide enough for numpy, which has no bfloat16."""
    import torch

    if not isinstance(part, torch.Tensor):
        return part
    return part.float().numpy() if part.is_floating_point() and part.itemsize < 4 else part.numpy()


def _magic(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(len(_NPY_MAGIC))


def _detectors(provenance: Mapping[str, Any], source: str | Path) -> dict[str, dict[str, Any]]:
    """Identity of the detector per metric; empty if the provenance does not say."""
    part = provenance.get("detectors", {})
    if not isinstance(part, dict) or not all(isinstance(identity, dict) for identity in part.values()):
        _refuse_provenance(source)
    return part


def _images(provenance: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """What the provenance says of the images; empty if nothing. A size is [height, width] or null."""
    part = provenance.get("images", {})
    size = part.get("size") if isinstance(part, dict) else 0
    if size is not None and not (isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)):
        _refuse_provenance(source)
    result: dict[str, Any] = part
    return result


def _refuse_provenance(source: str | Path) -> NoReturn:
    raise ValueError(f"{source}: its provenance is not what this program writes; make the file again")


def holds_statistics(path: str | Path, *, reference: bool = False) -> bool:
    """Whether a local file is statistics or features rather than images.

    reference: whether it stands on that side. guided-diffusion's files hold both, the statistics of all images and
    some of the images: the former are the reference, the latter the samples. ValueError: a damaged ZIP.
    """
    path = Path(path)
    if path.suffix.lower() == ".zip":
        return False  # whose list of members may be long
    if not path.is_file():
        return path.suffix.lower() in (".pkl", ".pt", ".npy")
    members = _members(path)
    if not members:
        return path.suffix.lower() == ".pkl" or _magic(path).startswith((b"\x80", _NPY_MAGIC))
    names = [name.removesuffix(".npy") for name in members]
    found = _npz_pairs(names) or _feature_key(names)
    return _is_tensor_file(members) or (bool(found) and (reference or "arr_0" not in names))


def shows_images(path: str | Path) -> bool:
    """Whether a file of statistics holds images, too, as guided-diffusion's references do. ValueError: damaged."""
    return "arr_0.npy" in _members(Path(path))


def save_statistics(
    path: str | Path,
    moments: Mapping[str, Moments],
    *,
    detectors: Mapping[str, Mapping[str, Any]] | None = None,
    images: Mapping[str, Any] | None = None,
    chosen: StatisticsFormat | None = None,
) -> None:
    """Writes moments of one set of images; chosen: the format, None = by the ending of the name.

    The bytes depend on the arguments alone. detectors: `Detector.identity` per metric; images: anything JSON that
    says what the images were. ValueError: another suffix, no metric, moments of different numbers of images, or what
    the format does not hold.
    """
    chosen = choose_format(path) if chosen is None else chosen
    counts = {each.num_images for each in moments.values()}
    if len(counts) != 1 or None in counts:
        raise ValueError("statistics need at least one metric, all of the same known number of images")
    chosen.check(path, moments)
    if chosen.arrays:
        return write_peer_files(path, chosen, moments)
    num_images = next(count for count in counts if count is not None)
    with atomic_path(path) as temporary:
        if chosen.ending == ".pkl":
            with open(temporary, "wb") as file:
                _write_pickle(file, moments, num_images)
        else:
            provenance = {
                "format": FORMAT,
                "detectors": {name: dict(identity) for name, identity in (detectors or {}).items()},
                "images": dict(images or {}),
            }
            _write_npz(temporary, moments, num_images, provenance)
    return None


def check_new(path: str | Path, *, overwrite: bool = False, chosen: StatisticsFormat | None = None) -> None:
    """Makes sure, without making anything, that statistics can be written to `path`.

    ValueError: not a name for statistics, or a file is there and `overwrite` does not say to replace it. OSError: a
    folder, or a place that cannot be written to.
    """
    chosen = choose_format(path) if chosen is None else chosen
    for file in chosen.paths(path, kept=True).values():
        check_destination(file)
        if file.exists() and not overwrite:
            raise ValueError(f"{file} exists: take another name, or --overwrite")


def check_kept(keep: Collection[str], num_images: int) -> None:
    """ValueError if features, by name, of so many images cannot be kept in a file."""
    for name in keep:
        most = MAX_KEPT_BYTES // (4 * catalog.dims()[name])
        if num_images > most:
            raise ValueError(
                f"{num_images} images are more than the {most} whose features a file keeps: give --num-images"
            )


def _read_npz(path: Path, source: str, metrics: Collection[str] | None, keep: Collection[str]) -> _Content:
    damaged = f"{source} cannot be read as statistics"
    with damage_means(damaged), open_zip(path) as file:
        names = [name.removesuffix(".npy") for name in check_zip(path, file, max_bytes=None)]
        pairs, features = _npz_pairs(names), _feature_key(names)
        if not pairs and features:
            return _Content(_of_features(path, file, features, names, keep))
        if not pairs:
            raise ValueError(_no_statistics(names))
        if pairs.get("fid") == ("mu", "sigma") and "provenance" not in names:
            pairs = {_plain_metric(file): pairs.pop("fid")} | pairs
        count = _npz_array(path, file, "num_images", 8) if "num_images" in names else None
        text = _npz_array(path, file, "provenance", _MAX_TEXT_BYTES) if "provenance" in names else "{}"
        provenance = parse_object(str(text).encode(), "provenance")
    wanted = _wanted(pairs, metrics, source)
    num_images = _checked_count(None if count is None else count.tolist(), source)
    with open_zip(path) as file:
        moments = {m: _npz_moments(path, file, m, pair, num_images, source) for m, pair in wanted.items()}
        for metric in moments:
            if metric in keep and num_images is not None and f"{metric}.features" in names:
                moments[metric] = _with_features(path, file, metric, moments[metric], source)
    return _Content(moments, provenance, resize_known="provenance" in names or "mu_s" in names)


def _npz_moments(
    path: Path, file: zipfile.ZipFile, metric: str, names: tuple[str, str], num_images: int | None, source: str
) -> Moments:
    """One metric, from the two arrays named. The mean says how large a covariance is worth unpacking."""
    damaged = f"{source} cannot be read as statistics"
    with damage_means(damaged):
        mu = _npz_array(path, file, names[0], 8 * MAX_FEATURES)
    _check_features(metric, mu.size, source)
    with damage_means(damaged):
        sigma = _npz_array(path, file, names[1], 16 * mu.size**2)
    return _checked(metric, mu, sigma, num_images, source)


def _with_features(path: Path, file: zipfile.ZipFile, metric: str, moments: Moments, source: str) -> Moments:
    """The moments with the features that they are of. ValueError for an array that cannot be these."""
    name = f"{metric}.features.npy"
    with damage_means(f"{source} cannot be read as statistics"), file.open(name) as stream:
        size = file.getinfo(name).file_size
        if size > MAX_KEPT_BYTES + npy.MAX_HEADER:
            raise ValueError(f"{name} has {size} bytes: at most {MAX_KEPT_BYTES} are read")
        rows = npy.read_array(stream, size)
    if rows.dtype.kind != "f" or rows.shape != (moments.num_images, moments.dim):
        raise ValueError(
            f"{source}: {metric}.features is {rows.dtype} {list(rows.shape)}, expected floating point "
            f"[{moments.num_images}, {moments.dim}]"
        )
    if not all(np.isfinite(rows[start : start + _PIECE_ROWS]).all() for start in range(0, len(rows), _PIECE_ROWS)):
        raise ValueError(f"{source}: {metric}.features holds NaN or infinity; the file is damaged")
    return replace(moments, features=rows.astype(np.float32 if rows.itemsize < 8 else np.float64, copy=False))


def _plain_metric(file: zipfile.ZipFile) -> str:
    """The metric of an .npz of `mu` and `sigma` alone, told by their dimension; "fid" for that of no detector."""
    with file.open("mu.npy") as stream:
        shape = npy.read_header(stream).shape
    try:
        return metric_of_dim(shape[0] if len(shape) == 1 else 0)
    except ValueError:
        return "fid"


def _of_features(
    path: Path, file: zipfile.ZipFile, key: str, names: list[str], keep: Collection[str]
) -> dict[str, Moments]:
    """Moments of the features in one array of an .npz, by metric. ValueError for features of no metric here."""
    model = str(_npz_array(path, file, "model", _MAX_TEXT_BYTES)) if key == "reps" and "model" in names else None
    models = {each.kind: each.stored_as for each in catalog.extractors().values()}  # dgm-eval's words are the same
    if model is not None and model not in models:
        known = ", ".join(models)
        raise ValueError(f"its features are of the model {model[:40]!r}, which no metric here uses; known: {known}")
    with file.open(f"{key}.npy") as stream:
        moments = moments_of_array(stream, keep=keep)
    return {metric_of_dim(moments.dim) if model is None else models[model]: moments}


def _feature_key(names: list[str]) -> str | None:
    """The array of an .npz that holds features, by the names that other tools give it."""
    return next((name for name in ("feats", "pool_3", "reps") if name in names), None)


def _npz_array(path: Path, file: zipfile.ZipFile, name: str, max_bytes: int) -> NDArray[Any]:
    size = file.getinfo(f"{name}.npy").file_size
    if size > max_bytes + npy.MAX_HEADER:
        raise ValueError(f"{name} has {size} bytes: at most {max_bytes} are read")
    return npy.from_bytes(read_zip_member(path, file, f"{name}.npy"))


def _wanted(
    pairs: Mapping[str, tuple[_T, _T]], metrics: Collection[str] | None, source: str
) -> dict[str, tuple[_T, _T]]:
    """The arrays of `metrics`, or of all that this program has. ValueError if one is not there, or none is."""
    for metric in metrics or ():
        if metric not in pairs:
            raise ValueError(_not_there(metric, pairs, source))
    known = catalog.dims()
    found = {metric: pair for metric, pair in pairs.items() if metric in (known if metrics is None else metrics)}
    if metrics is None and not found:
        raise ValueError(f"{source} has statistics for no metric of this program, only for {_shown(pairs)}")
    return found


def _not_there(metric: str, known: Iterable[str], source: str) -> str:
    names = list(known)
    ships = catalog.shipped_reference(metric)
    other = f", or the reference {ships}" if ships else ""
    return f"{source} has no statistics for {metric}, only for {_shown(names)}: use the metric {names[0][:80]}{other}"


def _shown(metrics: Iterable[str]) -> str:
    names = list(metrics)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:80] for name in names[:_SHOWN]) + more


def _npz_pairs(names: list[str]) -> dict[str, tuple[str, str]]:
    """Metric -> names of its two arrays."""
    pairs = {metric: pair for metric, pair in PLAIN.items() if set(pair) <= set(names)}
    for name in names:
        metric = name.removesuffix(".mu")
        if metric != name and f"{metric}.sigma" in names:
            pairs[metric] = (name, f"{metric}.sigma")
    return pairs


def _no_statistics(names: list[str]) -> str:
    if any(name.lower().endswith((".png", ".jpg", ".jpeg", "dataset.json")) for name in names) or "arr_0" in names:
        return "it holds images; make statistics of them with: calculate_metrics.py ref --images=... --out=..."
    return f"it has no mu and sigma, only {', '.join(names[:5])[:200] or 'nothing'}"


def _read_pickle(path: Path, source: str, metrics: Collection[str] | None) -> dict[str, Moments]:
    try:
        content = safe_pickle.load(path)
    except safe_pickle.UnsafePickleError as error:
        raise type(error)(f"{source}: {error}") from error
    entries = content if isinstance(content, dict) else {}
    pairs = {
        str(metric): (entry["mu"], entry["sigma"])
        for metric, entry in entries.items()
        if isinstance(entry, dict) and {"mu", "sigma"} <= entry.keys()
    }
    if not pairs:
        raise ValueError(f"{source} is a pickle, but not of statistics: expected metrics with 'mu' and 'sigma'")
    num_images = _checked_count(entries.get("num_images"), source)
    return {m: _checked(m, *pair, num_images, source) for m, pair in _wanted(pairs, metrics, source).items()}


def _checked_count(count: object, source: str) -> int | None:
    """A number of images as files have it; None if they do not say. ValueError for what cannot be one."""
    if isinstance(count, np.integer | np.floating):
        count = count.item()
    if count is None or (type(count) is int and 2 <= count < 1 << 63):
        return count
    if isinstance(count, float) and count.is_integer():
        return _checked_count(int(count), source)
    raise ValueError(f"{source}: num_images is {reprlib.repr(count)}, expected an integer of 2 or more")


def _checked(metric: str, mu: object, sigma: object, num_images: int | None, source: str) -> Moments:
    """Arrays of a file as Moments. ValueError naming file and metric for anything that cannot be statistics."""
    where = f"{source}: {metric[:80]}"
    if not isinstance(mu, np.ndarray) or not isinstance(sigma, np.ndarray):
        raise ValueError(f"{where}: mu and sigma are not arrays")
    if mu.dtype.kind != "f" or sigma.dtype.kind != "f":
        raise ValueError(f"{where}: mu is {mu.dtype} and sigma {sigma.dtype}, expected floating point")
    if mu.ndim != 1 or mu.size < 1 or sigma.shape != (mu.size, mu.size):
        raise ValueError(f"{where}: mu has shape {mu.shape} and sigma {sigma.shape}, expected [D] and [D, D]")
    _check_features(metric, mu.size, source)
    with np.errstate(over="ignore"):  # wider types
        mean, cov = (np.require(part, np.float64, ["C_CONTIGUOUS", "WRITEABLE"]) for part in (mu, sigma))
    largest = max(cov.max(), -cov.min())
    if not (np.abs(mean).max() < _ABSURD and largest < _ABSURD):
        raise ValueError(f"{where}: mu or sigma holds NaN or infinity, or what comes near it; the file is damaged")
    if _make_symmetric(cov) > ASYMMETRY_TOLERANCE * largest:
        raise ValueError(f"{where}: sigma is not symmetric; the file is damaged")
    if cov.diagonal().min() < -ASYMMETRY_TOLERANCE * largest:
        raise ValueError(f"{where}: sigma has negative variances; the file is damaged")
    return Moments(mean, cov, num_images)


def _make_symmetric(matrix: NDArray[np.float64]) -> float:
    """Put (A + A^T) / 2 in the place of A, and return the largest |A - A^T|. In tiles that a cache holds."""
    apart, starts = 0.0, range(0, len(matrix), _TILE)
    for row, column in itertools.combinations_with_replacement(starts, 2):
        tile = matrix[row : row + _TILE, column : column + _TILE]
        mirror = matrix[column : column + _TILE, row : row + _TILE].T
        if not np.array_equal(tile, mirror):
            apart = max(apart, float(np.abs(tile - mirror).max()))
            tile[...] = mirror[...] = (tile + mirror) / 2
    return apart


def _check_features(metric: str, count: int, source: str) -> None:
    """ValueError for more features than a metric can have here: covariances grow with their square."""
    known = catalog.dims()
    most = known.get(metric, MAX_FEATURES)
    if count > most and metric in known:
        raise ValueError(_of_another_detector(metric, count, most, source))
    if count > most:
        raise ValueError(f"{source}: {metric[:80]}: {count} features: at most {most} are read")


def _of_another_detector(metric: str, found: int, expected: int, source: str) -> str:
    what = f"{metric} has {found} features, its detector {expected}"
    return f"{source}: {what}: these statistics are of another detector"


def _write_npz(path: Path, moments: Mapping[str, Moments], num_images: int, provenance: Mapping[str, Any]) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "num_images": np.array(num_images, dtype=np.int64),
        "provenance": np.array(json.dumps(provenance, sort_keys=True)),
    }
    for metric, each in moments.items():
        mu, sigma = PLAIN.get(metric, (f"{metric}.mu", f"{metric}.sigma"))
        arrays[mu], arrays[sigma] = each.mean, each.cov
        if each.features is not None:
            arrays[f"{metric}.features"] = each.features.astype(np.float32, copy=False)
    write_npz(path, arrays)


def _write_pickle(file: BinaryIO, moments: Mapping[str, Moments], num_images: int) -> None:
    """EDM2's layout, opcode by opcode: what numpy 2 itself would write, numpy before 1.26 could not read."""
    file.write(pickle.PROTO + b"\x03" + pickle.EMPTY_DICT + pickle.MARK)
    for metric, each in moments.items():
        file.write(_text(metric) + pickle.EMPTY_DICT + pickle.MARK)
        file.write(_text("mu") + _array(each.mean))
        file.write(_text("sigma") + _array(each.cov))
        file.write(pickle.SETITEMS)
    file.write(_text("num_images") + _integer(num_images) + pickle.SETITEMS + pickle.STOP)


def _text(value: str) -> bytes:
    data = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)


def _name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _array(array: NDArray[np.float64]) -> bytes:
    """A little-endian float64 array of one or two dimensions, as numpy's own pickles have them."""
    data = np.ascontiguousarray(array, dtype="<f8").tobytes()
    empty_shape = _integer(0) + pickle.TUPLE1
    type_code = pickle.SHORT_BINBYTES + b"\x01b"
    made = _name("numpy.core.multiarray", "_reconstruct") + _name("numpy", "ndarray") + empty_shape + type_code
    made += pickle.TUPLE3 + pickle.REDUCE
    dtype = _name("numpy", "dtype") + _text("f8") + pickle.NEWFALSE + pickle.NEWTRUE + pickle.TUPLE3 + pickle.REDUCE
    dtype_state = _integer(3) + _text("<") + pickle.NONE * 3 + _integer(-1) + _integer(-1) + _integer(0)
    dtype += pickle.MARK + dtype_state + pickle.TUPLE + pickle.BUILD
    shape = b"".join(_integer(size) for size in array.shape) + (pickle.TUPLE1, pickle.TUPLE2)[array.ndim - 1]
    content = pickle.BINBYTES + struct.pack("<I", len(data)) + data
    return made + pickle.MARK + _integer(1) + shape + dtype + pickle.NEWFALSE + content + pickle.TUPLE + pickle.BUILD
