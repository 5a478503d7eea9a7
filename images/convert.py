"""From any tree of images to a training set of PNG files in the layout of `images.set_writer`.

Its bytes depend on the source's pixels, names and labels alone (and on the PNG encoder's version).
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from images.archive import Archive, Label, open_archive
from images.pool import OrderedPool
from images.set_writer import check_set_destination, image_set, pixels_name
from images.sinks import png_bytes
from images.transforms import TRANSFORMS, Pixels, stretch, to_rgb

#: PIL's names of what can be brought to 8-bit RGB, and of the 16 bits of grey of which the upper 8 are taken.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L")

_DEEP = "16 bits per channel, of which the upper 8 are kept"
_TRANSPARENT = "transparent pixels, which show as if they were opaque"


@dataclass(frozen=True)
class Decoded:
    """An image file's pixels, uint8 [H, W] if it is grey, else [H, W, 3], and what of the file they do not show."""

    pixels: Pixels
    losses: tuple[str, ...] = ()


class Conversion:
    """One conversion, checked when made: what is read, what becomes of every image, and where it goes.

    Attributes:
        num_images: How many images will be written.
        label_text: What labels the set gets, in a few words.
        note: Why it gets none although there are class folders; None if that is not so.
        losses: What of the files went lost, as a sentence each; filled by `run`.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        dest: str | os.PathLike[str],
        *,
        max_images: int | None = None,  # the first ones in sorted order; None = all
        transform: str | None = None,  # a name in TRANSFORMS; None = `stretch` to the resolution
        resolution: tuple[int, int] | None = None,  # width, height; None = images stay as they are
    ) -> None:
        """Looks at names and labels; reads no image.

        Raises:
            FileNotFoundError: Nothing is at `source`.
            FileExistsError: Something is at `dest`.
            ValueError: No images, bad labels, or options that do not go together.
        """
        self._transform = _transform(transform, resolution)
        if max_images is not None and max_images < 1:
            raise ValueError(f"--max-images={max_images}: give 1 or more")
        self._archive = open_archive(source)
        check_set_destination(Path(dest), source)
        self._dest = Path(dest)
        names = self._archive.names
        if any(name.lower().endswith(".npy") for name in names):
            raise ValueError(f"{source} holds .npy arrays: convert reads images only")
        listed = self._archive.labels()
        labels = listed if listed is not None else _folder_labels(names)
        self.note = _outside_folders(names) if labels is None else None
        self._names = names[:max_images]
        self._labels = None if labels is None else [labels[name] for name in self._names]
        self.num_images = len(self._names)
        self.label_text = _label_text(self._labels)
        self.losses: list[str] = []

    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """Write the set; `progress` is told each image. Nothing is at the destination until all is done.

        Raises ValueError, naming the file, for an image that cannot be read or, without a resolution, is unlike the
        first in size; OSError if the disk is full or the like.
        """
        first: tuple[int, ...] | None = None
        lossy: dict[str, list[str]] = {}
        with self._archive, image_set(self._dest, pixels_name, self._labels) as add:
            for name, (data, shape, losses) in zip(self._names, self._converted(), strict=True):
                first = shape if first is None else first
                if shape != first:
                    raise ValueError(
                        f"{name!r} is {shape[1]}x{shape[0]}, {self._names[0]!r} {first[1]}x{first[0]}: "
                        "give --resolution and --transform to bring all images to one size"
                    )
                add(data)
                for loss in losses:
                    lossy.setdefault(loss, []).append(name)
                if progress is not None:
                    progress(1)
        self.losses = [f"{len(names)} images, such as {names[0]!r}, have {loss}" for loss, names in lossy.items()]

    def _converted(self) -> Iterator[tuple[bytes, tuple[int, ...], tuple[str, ...]]]:
        """PNG, shape and losses of every image in order, worked on a few images ahead in threads."""
        waiting = iter(self._names)
        with OrderedPool[tuple[bytes, tuple[int, ...], tuple[str, ...]]]() as pool:
            for _ in self._names:
                while len(pool) < 2 * pool.threads and (name := next(waiting, None)) is not None:
                    pool.submit(self._convert, name)
                yield pool.pop()

    def _convert(self, name: str) -> tuple[bytes, tuple[int, ...], tuple[str, ...]]:
        decoded = read_pixels(self._archive, name)
        pixels = self._transform(decoded.pixels)
        return png_bytes(pixels), pixels.shape, decoded.losses


def _transform(name: str | None, resolution: tuple[int, int] | None) -> Callable[[Pixels], Pixels]:
    """What is done to every image; ValueError for options that do not go together."""
    if resolution is None:
        if name is not None:
            raise ValueError("--transform needs --resolution beside it")
        return to_rgb
    width, height = resolution
    if min(resolution) < 1:
        raise ValueError(f"--resolution={width}x{height}: give 1x1 or more")
    if name is not None and name not in TRANSFORMS:
        raise ValueError(f"--transform={name}: choose one of {', '.join(TRANSFORMS)}")
    function = stretch if name is None else TRANSFORMS[name]
    function(np.zeros([1, 1], dtype=np.uint8), width, height)  # refuses a resolution that it cannot make
    return lambda image: function(image, width, height)


def read_pixels(archive: Archive, name: str) -> Decoded:
    """Decode an image file; CMYK and palettes become RGB. No rotation that its EXIF data ask for is applied.

    Raises ValueError, naming the file, if it is damaged or no image.
    """
    data = archive.read(name)
    where = f"{name!r} in {archive.path}"
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        image.load()
    except Exception as error:  # on damaged bytes PIL raises nearly anything
        raise ValueError(f"{where} is no readable image ({error})") from error
    losses = []
    if image.mode in _DEEP_MODES or (data[:4] == b"\x89PNG" and data[24] == 16):  # PIL keeps the upper 8 of colours
        losses.append(_DEEP)
    if image.mode in _DEEP_MODES:
        return Decoded((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8), tuple(losses))
    if image.mode not in _MODES:
        raise ValueError(f"{where} has mode {image.mode}: convert it to 8-bit RGB first")
    has_alpha = "transparency" in image.info or image.mode in ("LA", "PA", "RGBA")
    if has_alpha and np.asarray(image.convert("RGBA"))[:, :, 3].min() < 255:
        losses.append(_TRANSPARENT)
    return Decoded(np.asarray(image if image.mode == "L" else image.convert("RGB")), tuple(losses))


def _label_text(labels: Sequence[Label] | None) -> str:
    """How many classes there are among the labels, or that there are none."""
    if labels is None:
        return "no labels"
    if isinstance(labels[0], list):
        return f"label vectors of {len(labels[0])} numbers"
    count = len({label for label in labels if isinstance(label, int)})
    return f"{count} {'class' if count == 1 else 'classes'}"


def _outside_folders(names: Sequence[str]) -> str | None:
    """That images beside folders keep the folders from being classes; None if there are no folders, or no others."""
    outside = [name for name in names if "/" not in name]
    if len(outside) in (0, len(names)):
        return None
    return (
        f"folders are no classes here, as {len(outside)} of {len(names)} images lie in none, such as {outside[0]!r}: "
        "the set gets no labels"
    )


def _folder_labels(names: Sequence[str]) -> dict[str, Label] | None:
    """Classes 0, 1, ... from the sorted names of the top-level folders; None if there are not at least two.

    Images outside of any folder have no class, hence none has.
    """
    folders = [name.split("/")[0] if "/" in name else None for name in names]
    classes = {folder: index for index, folder in enumerate(sorted({f for f in folders if f is not None}))}
    if None in folders or len(classes) < 2:
        return None
    return {name: classes[folder] for name, folder in zip(names, folders, strict=True) if folder is not None}
