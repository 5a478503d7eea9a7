"""Diagnostics of images on their way: in shards, as `diagnostics.NAME.npy`, then in one file beside the ZIP.

    out.zip.diagnostics.npz         the arrays of `images.diagnostics.Diagnostics`, and about.json: what guides and
                                    networks are called, and the hash of the recipe

Torch-free.
"""

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edm2_guidance.images import npy
from edm2_guidance.images.diagnostics import Diagnostics
from edm2_guidance.images.npz import add_arrays
from edm2_guidance.images.sinks import image_name
from edm2_guidance.images.unzip import open_zip
from edm2_guidance.images.zips import ZipWriter, json_bytes, read_json, read_recipe
from edm2_guidance.work.shards import ShardFolder

if TYPE_CHECKING:
    from edm2_guidance.images.batch import ImageBatch

SUFFIX = ".diagnostics.npz"  # of the file beside a ZIP, after its name
_ABOUT = "about.json"
_PREFIX = "diagnostics."  # of arrays in shards


class Recorded:
    """The `diagnostics` of the batches that a shard is made of."""

    computes = False

    def check(self, path: Path, file: zipfile.ZipFile, seeds: tuple[int, ...], head: Mapping[str, Any]) -> None:
        """ValueError unless the shard holds them, as far as names tell."""
        if f"{_PREFIX}difference.npy" not in file.NameToInfo or not isinstance(head.get("diagnostics"), dict):
            raise ValueError(f"{path} does not hold the diagnostics of this shard")

    def collect(
        self, seeds: tuple[int, ...], add: Callable[[str, bytes], None]
    ) -> AbstractContextManager["_Collector"]:
        """They are kept until the shard is full."""
        return nullcontext(_Collector(add))


class _Collector:
    def __init__(self, add: Callable[[str, bytes], None]) -> None:
        self._add = add
        self._parts: list[Diagnostics] = []

    def write(self, batch: "ImageBatch") -> None:
        """ValueError for images without."""
        if batch.diagnostics is None:
            raise ValueError("images without diagnostics: give a source of guided images that takes them down")
        self._parts.append(batch.diagnostics)

    def finish(self, labels: Sequence[int] | None) -> dict[str, Any]:
        made = Diagnostics.joined(self._parts)
        for name, array in made.arrays().items():
            self._add(f"{_PREFIX}{name}.npy", npy.to_bytes(array))
        return {"diagnostics": made.texts()}


def path_beside(path: Path) -> Path:
    """The file of the diagnostics of a ZIP."""
    return path.with_name(path.name + SUFFIX)


def write_joined(work: ShardFolder, path: Path) -> None:
    """Write those of all images of a work, in the order of its plan, beside the ZIP of that path.

    ShardsMissing if shards are missing or damaged.
    """

    def read(index: int, file: zipfile.ZipFile, head: Mapping[str, Any]) -> Diagnostics:
        found = Diagnostics.read(work.path(index), file, head["diagnostics"], _PREFIX)
        if tuple(found.seeds) != work.plan.shard(index):
            raise ValueError(f"{work.path(index)} holds the diagnostics of other seeds")
        return found

    found = Diagnostics.joined(list(work.each(read)))
    with work.becoming(path_beside(path)) as temporary:
        write_file(temporary, found, work.content["recipe_hash"])


def write_file(path: Path, found: Diagnostics, recipe_hash: str) -> None:
    """Write a file as it lies beside ZIPs; into its place, so give a temporary path."""
    with ZipWriter(path) as file:
        add_arrays(file, found.arrays())
        file.add(_ABOUT, json_bytes({**found.texts(), "recipe_hash": recipe_hash}))


def stored_diagnostics(path: str | os.PathLike[str]) -> Diagnostics:
    """Of a ZIP, by the file beside it; or of that file alone.

    ValueError if the ZIP was made without, or if the file is damaged or of other images; OSError if it cannot be read.
    """
    given = Path(os.path.realpath(path))
    if given.suffix.lower() == ".npz":
        return _read(given)[0]
    with open_zip(given) as images:
        names = [name for name in images.namelist() if name.endswith(".png")]
    if not path_beside(given).exists():
        raise ValueError(f"{path} was made without diagnostics: make it with --diagnostics, under another name")
    found, recipe_hash = _read(path_beside(given))
    if recipe_hash != (read_recipe(given) or {}).get("recipe_hash") or names != list(map(image_name, found.seeds)):
        raise ValueError(f"{path_beside(given)} is of other images than {path}: move it away")
    return found


def _read(path: Path) -> tuple[Diagnostics, Any]:
    """The content of such a file, and the hash of the recipe that it is of."""
    with open_zip(path) as file:
        if any(info.compress_type != zipfile.ZIP_STORED for info in file.infolist()) or _ABOUT not in file.NameToInfo:
            raise ValueError(f"{path} holds no diagnostics: give a ZIP that was made with --diagnostics")
        about = read_json(path, file, _ABOUT)
        return Diagnostics.read(path, file, about), about.get("recipe_hash")
