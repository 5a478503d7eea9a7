"""From any tree of images to a training set in the layout of EDM2.

The set is an uncompressed ZIP, or a folder, of `{i:08d}`[:5]/img{i:08d}.png, i counting from 0 in the sorted order of
the source's names, and a `dataset.json` with the labels. Its bytes depend on the source's pixels, names and labels
alone (and on the PNG encoder's version).
"""

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from dnnlib.util import atomic_path
from images.archive import LABELS_NAME, Archive, Label, open_archive
from images.sinks import png_bytes
from images.transforms import TRANSFORMS, Pixels, to_rgb
from images.zips import ZipWriter, json_bytes

#: PIL's names of what can be brought to 8-bit RGB without loss.
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")

Writer = Callable[[str, bytes], None]


class Conversion:
    """One conversion, checked when made: what is read, what becomes of every image, and where it goes.

    Attributes:
        num_images: How many images will be written.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        dest: str | os.PathLike[str],
        *,
        max_images: int | None = None,  # the first ones in sorted order; None = all
        transform: str | None = None,  # a name in TRANSFORMS; None = images stay as they are
        resolution: tuple[int, int] | None = None,  # width, height of the result; goes with `transform`
    ) -> None:
        """Looks at names and labels; reads no image.

        Raises:
            FileNotFoundError: Nothing is at `source`.
            FileExistsError: Something is at `dest`.
            ValueError: No images, bad labels, or options that do not go together.
        """
        if (transform is None) != (resolution is None):
            given, missing = ("--transform", "--resolution") if resolution is None else ("--resolution", "--transform")
            raise ValueError(f"{given} needs {missing} beside it")
        if transform is not None and transform not in TRANSFORMS:
            raise ValueError(f"--transform={transform}: choose one of {', '.join(sorted(TRANSFORMS))}")
        if resolution is not None and min(resolution) < 1:
            raise ValueError(f"--resolution={resolution[0]}x{resolution[1]}: give 1x1 or more")
        if max_images is not None and max_images < 1:
            raise ValueError(f"--max-images={max_images}: give 1 or more")
        self._archive = open_archive(source)
        _check_destination(Path(dest))
        self._dest = Path(dest)
        self._transform, self._resolution = transform, resolution
        names = self._archive.names
        if any(name.lower().endswith(".npy") for name in names):
            raise ValueError(f"{source} holds .npy arrays: convert reads images only")
        listed = self._archive.labels()
        labels = listed if listed is not None else _folder_labels(names)
        self._names = names[:max_images]
        self._labels = None if labels is None else [labels[name] for name in self._names]
        self.num_images = len(self._names)

    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """Write the set; `progress` is told each image. Nothing is at the destination until all is done.

        Raises ValueError, naming the file, for an image that cannot be read or, without a transform, is unlike the
        first in size; OSError if the disk is full or the like.
        """
        size: tuple[int, ...] | None = None
        with self._archive, _destination(self._dest) as write:
            for index, name in enumerate(self._names):
                image = self._convert(name)
                size = image.shape if size is None else size
                if image.shape != size:
                    raise ValueError(
                        f"{name!r} is {image.shape[1]}x{image.shape[0]}, {self._names[0]!r} {size[1]}x{size[0]}: "
                        "give --resolution and --transform to bring all images to one size"
                    )
                write(member_name(index), png_bytes(image))
                if progress is not None:
                    progress(1)
            write(LABELS_NAME, _labels_json(self._labels))

    def _convert(self, name: str) -> Pixels:
        image = read_pixels(self._archive, name)
        if self._transform is None or self._resolution is None:
            return to_rgb(image)
        return TRANSFORMS[self._transform](image, *self._resolution)


def member_name(index: int) -> str:
    """Name of image number `index`: 12345 is 00012/img00012345.png."""
    digits = f"{index:08d}"
    return f"{digits[:5]}/img{digits}.png"


def read_pixels(archive: Archive, name: str) -> Pixels:
    """An image as uint8 [H, W] if it is grey, else [H, W, 3]; CMYK and palettes become RGB.

    Raises ValueError, naming the file, if it is damaged, has more than 8 bits per channel, or transparent pixels.
    """
    data = archive.read(name)
    where = f"{name!r} in {archive.path}"
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        image.load()
    except Exception as error:  # on damaged bytes PIL raises nearly anything
        raise ValueError(f"{where} is no readable image ({error})") from error
    deep_png = data[:4] == b"\x89PNG" and data[24] == 16  # PIL would drop the lower bits silently
    if deep_png or image.mode not in _MODES:
        raise ValueError(f"{where} has more than 8 bits per channel, or mode {image.mode}: convert it first")
    if "transparency" in image.info or image.mode in ("LA", "RGBA"):
        alpha = np.asarray(image.convert("RGBA"))[:, :, 3]
        if alpha.min() < 255:
            raise ValueError(f"{where} has transparent pixels: put it on a background first")
    return np.asarray(image if image.mode == "L" else image.convert("RGB"))


def _folder_labels(names: Sequence[str]) -> dict[str, Label] | None:
    """Classes 0, 1, ... from the sorted names of the top-level folders; None if there are not at least two.

    Images outside of any folder have no class, hence none has.
    """
    folders = [name.split("/")[0] if "/" in name else None for name in names]
    classes = {folder: index for index, folder in enumerate(sorted({f for f in folders if f is not None}))}
    if None in folders or len(classes) < 2:
        return None
    return {name: classes[folder] for name, folder in zip(names, folders, strict=True) if folder is not None}


def _labels_json(labels: Sequence[Label] | None) -> bytes:
    pairs = None if labels is None else [[member_name(i), label] for i, label in enumerate(labels)]
    return json_bytes({"labels": pairs}, indent=None)


def _check_destination(dest: Path) -> None:
    if dest.is_dir() and any(dest.iterdir()):
        raise FileExistsError(f"{dest} is a folder with files in it; give another --dest, or empty it")
    if dest.is_file():
        raise FileExistsError(f"{dest} exists; give another --dest, or delete it")
    if dest.suffix.lower() not in ("", ".zip"):
        raise ValueError(f"{dest}: give a name ending in .zip, or that of a folder")
    if dest.is_dir() and dest.suffix.lower() == ".zip":
        raise FileExistsError(f"{dest} is a folder; give another --dest, or delete it")


@contextmanager
def _destination(dest: Path) -> Iterator[Writer]:
    """Give a function that adds a member (name, bytes); all of it appears at `dest` when the block ends well."""
    if dest.suffix.lower() == ".zip":
        with atomic_path(dest) as temporary, ZipWriter(temporary) as archive:
            yield archive.add
        return
    dest.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{dest.name}.", suffix=".tmp", dir=dest.parent))
    try:
        yield lambda name, data: _write_file(folder / name, data)
        folder.chmod(0o777 & ~_umask())
        os.replace(folder, dest)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
