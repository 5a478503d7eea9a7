"""Writing an image set in the layout of EDM2: one uncompressed ZIP, or a folder, with labels in `dataset.json`.

Items are numbered from 0; number 12345 of pixels is `00012/img00012345.png`, of latents
`00012/img-mean-std-00012345.npy`. Torch-free.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dnnlib.atomic import atomic_path, check_place
from dnnlib.errors import naming
from edm2_guidance.images.labels import Label
from edm2_guidance.images.members import LABELS_NAME, RECIPE_NAME
from edm2_guidance.images.zips import ZipWriter, dataset_json, json_bytes

Add = Callable[[bytes], None]


def pixels_name(index: int) -> str:
    """Name of image number `index`: 12345 is 00012/img00012345.png."""
    digits = f"{index:08d}"
    return f"{digits[:5]}/img{digits}.png"


def latents_name(index: int) -> str:
    """Name of array number `index`: 12345 is 00012/img-mean-std-00012345.npy."""
    digits = f"{index:08d}"
    return f"{digits[:5]}/img-mean-std-{digits}.npy"


def check_set_destination(dest: Path, source: str | os.PathLike[str]) -> None:
    """Check that a set made from `source` can be written to `dest`, without making anything.

    Raises FileExistsError if something is there (an empty folder is nothing), ValueError for a name that is neither
    that of a ZIP nor of a folder, or that lies in the source, and as `check_place`.
    """
    if dest.is_dir() and any(dest.iterdir()):
        raise FileExistsError(f"{dest} is a folder with files in it; give another --out, or move it away")
    if os.path.ismount(dest):
        raise FileExistsError(f"{dest} is a disk, whose place no folder can take; give --out={dest / 'images'}")
    if dest.is_file():
        raise FileExistsError(f"{dest} exists; give another --out, or move it away")
    if dest.suffix.lower() not in ("", ".zip"):
        raise ValueError(f"{dest}: give a name ending in .zip, or that of a folder")
    if dest.is_dir() and dest.suffix.lower() == ".zip":
        raise FileExistsError(f"{dest} is a folder; give another --out, or move it away")
    if Path(os.path.realpath(dest)).is_relative_to(os.path.realpath(source)):
        raise ValueError(f"--out={dest} lies in the source {os.fspath(source)}; give a place outside of it")
    check_place(dest)


@contextmanager
def image_set(
    dest: Path,
    name_of: Callable[[int], str],
    labels: Sequence[Label] | None,
    class_names: Sequence[str] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Iterator[Add]:
    """Give a function that appends the bytes of the next item; all of it appears at `dest` when the block ends well.

    Args:
        dest: A name ending in .zip, or a folder.
        name_of: From the item's number to its name.
        labels: One per item, in order; None for a set without.
        class_names: Of classes 0, 1, ..., kept beside the labels, where other readers do not look; None if unknown.
        origin: What recipe.json says, of images that scores must not take for others; None for none.
    """
    with _members(dest) as write:
        count = 0

        def add(data: bytes) -> None:
            nonlocal count
            write(name_of(count), data)
            count += 1

        yield add
        if labels is not None and len(labels) != count:
            raise RuntimeError(f"{len(labels)} labels for {count} items")
        pairs = None if labels is None else [(name_of(i), label) for i, label in enumerate(labels)]
        write(LABELS_NAME, dataset_json(pairs, class_names))
        if origin is not None:
            write(RECIPE_NAME, json_bytes(origin))


@contextmanager
def _members(dest: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Give a function that adds a member (name, bytes) to a ZIP or folder that appears when all is written."""
    if dest.suffix.lower() == ".zip":
        with atomic_path(dest) as temporary, ZipWriter(temporary) as archive:
            yield archive.add
        return
    target = Path(os.path.realpath(dest))
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.{os.urandom(6).hex()}.tmp")
    try:
        with naming(dest, folder):
            folder.mkdir()
            yield lambda name, data: _write_file(folder / name, data)
            if target.is_dir():
                target.rmdir()  # an empty one, whose place no folder can take on Windows
            os.replace(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
