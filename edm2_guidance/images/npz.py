"""Arrays by name in a ZIP, numpy's `.npz`: always written in the same bytes, and read with checksums. Torch-free."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edm2_guidance.images import npy
from edm2_guidance.images.unzip import damage_means, read_zip_member
from edm2_guidance.images.zips import ZipWriter


def write_npz(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """An .npz without a copy of its arrays and, unlike numpy.savez, without the time on every one of them."""
    with ZipWriter(path) as writer:
        add_arrays(writer, arrays)


def add_arrays(writer: ZipWriter, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Append arrays to an .npz that is being written, which may hold other members as well."""
    for name, array in arrays.items():
        writer.add(f"{name}.npy", *npy.pieces(array))


def npz_array(path: Path, file: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """An array of the open .npz `file` at `path`, of any size. ValueError if it is damaged or not there."""
    data = read_zip_member(path, file, f"{name}.npy", None)
    with damage_means(f"{name} in {path} is no readable array"):
        return npy.from_bytes(data)
