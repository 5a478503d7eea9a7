"""From any tree of images to a training set of PNG files in the layout of `images.set_writer`.

Its bytes depend on the source's pixels, names and labels alone (and on the PNG encoder's version).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edm2_guidance.images.archive import Archive, open_archive
from edm2_guidance.images.class_folders import class_folders
from edm2_guidance.images.colour_profiles import has_other_colours
from edm2_guidance.images.decode import ImageRefused, decoded_bytes, has_more_frames, is_deep, opened_image, to_array
from edm2_guidance.images.labels import Label, count_classes
from edm2_guidance.images.members import shortened
from edm2_guidance.images.pool import OrderedPool
from edm2_guidance.images.set_writer import check_set_destination, image_set, pixels_name
from edm2_guidance.images.sinks import png_bytes
from edm2_guidance.images.transforms import TRANSFORMS, Pixels, stretch, to_rgb

#: After so many images that cannot be used, the rest is not looked at: an option is missing, or the source is no set.
MAX_BAD = 1000

#: PIL's names of what can be brought to 8-bit RGB, and of the 16 bits of grey of which the upper 8 are taken.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L")

_DEEP = "have 16 bits per channel, of which the upper 8 are kept"
_TRANSPARENT = "have transparent pixels, which show as if they were opaque"
_FRAMES = "hold several frames or pages, of which the first is kept"
_INKS = "are CMYK, and become RGB by PIL's rule, without a colour profile"
_PROFILE = "have a colour profile that is not applied: their numbers are taken for sRGB"
_TURNED = "ask to be shown turned or mirrored (EXIF), and are kept as they are stored"

_TURNED_TIFF = "are TIFFs that ask to be shown turned or mirrored (EXIF), and are kept as they are shown"

_ORIENTATION = 0x0112  # EXIF tag; 1 is upright


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
        notes: What of the source is left out or taken in a way that its maker may not have meant, a sentence each.
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
            PermissionError: The folder that `dest` lies in is not writable.
            ValueError: No images, bad labels, class folders without images, or options that do not go together.
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
        labels, self._class_names, notes = labels_of(self._archive)
        self.notes = [*self._archive.notes, *notes]
        self._names = names[:max_images]
        self._labels = None if labels is None else [labels[name] for name in self._names]
        self.num_images = len(self._names)
        self.label_text = _label_text(self._labels)
        self.losses: list[str] = []

    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """Write the set; `progress` is told each image. Nothing is at the destination until all is done.

        Raises ValueError for images that cannot be read or, without a resolution, are unlike the first in size: all are
        looked at, up to `MAX_BAD` bad ones, and the first ten named. OSError if the disk is full or the like.
        """
        lossy: dict[str, list[str]] = {}
        bad: list[str] = []
        seen = 0
        with self._archive, image_set(self._dest, pixels_name, self._labels, self._class_names) as add:
            for name, made in zip(self._names, self._converted(), strict=True):
                seen += 1
                if isinstance(made, ValueError):
                    bad.append(str(made))
                elif not bad:  # else nothing will be written
                    add(made.png)
                for loss in () if isinstance(made, ValueError) else made.losses:
                    lossy.setdefault(loss, []).append(name)
                if progress is not None:
                    progress(1)
                if len(bad) == MAX_BAD:
                    break
            if bad:
                raise ValueError(_bad_text(bad, seen, self.num_images))
        self.losses = [f"{len(names)} images, such as {names[0]!r}, {loss}" for loss, names in lossy.items()]

    def _converted(self) -> Iterator["_Made | ValueError"]:
        """What becomes of every image in order, or why it cannot be used; worked on ahead in threads."""
        waiting = iter(self._names)
        first: tuple[str, tuple[int, ...]] | None = None
        with OrderedPool[_Made | ValueError]() as pool:
            for name in self._names:
                while len(pool) < 2 * pool.threads and (ahead := next(waiting, None)) is not None:
                    pool.submit(self._convert, ahead, pool.reserve)
                made = pool.pop()
                if isinstance(made, _Made):
                    first = first or (name, made.shape)
                    made = made if made.shape == first[1] else _other_size(name, made.shape, *first)
                yield made

    def _convert(self, name: str, reserve: Callable[[int], None]) -> "_Made | ValueError":
        try:
            decoded = read_pixels(self._archive, name, reserve)
        except ValueError as error:
            return error
        except (FileNotFoundError, PermissionError) as error:  # of this file: what else a disk does ends the work
            return ValueError(f"{self._archive.where(name)}: {error.strerror}")
        pixels = self._transform(decoded.pixels)
        return _Made(png_bytes(pixels), pixels.shape, decoded.losses)


@dataclass(frozen=True)
class _Made:
    """A finished image: PNG file, shape [H, W, 3], and what went lost."""

    png: bytes
    shape: tuple[int, ...]
    losses: tuple[str, ...]


def labels_of(archive: Archive) -> tuple[dict[str, Label] | None, tuple[str, ...] | None, Sequence[str]]:
    """Labels, names of classes, and notes: from `dataset.json` if there is one, else from the top-level folders."""
    listed = archive.labels()
    if listed is not None:
        return listed, *archive.class_names(count_classes(listed.values()))
    if archive.has_labels_file:
        return None, None, []
    found = class_folders(archive.names, archive.folders, archive.root, str(archive.path))
    return found.labels, found.names, found.notes


def _other_size(name: str, shape: tuple[int, ...], first: str, first_shape: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"{name!r} is {shape[1]}x{shape[0]}, {first!r} {first_shape[1]}x{first_shape[0]}: "
        "give --resolution and --transform to bring all images to one size"
    )


def _bad_text(bad: Sequence[str], seen: int, total: int) -> str:
    """What is wrong with the bad ones among the images seen; one alone is said as it is."""
    if len(bad) == 1:
        return f"{bad[0]}; nothing was written"
    stopped = f", and the other {total - seen} were not looked at" if seen < total else ""
    return f"{len(bad)} of {seen} images cannot be used{stopped}; nothing was written: {shortened(bad, '; ')}"


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


def read_pixels(archive: Archive, name: str, reserve: Callable[[int], None] = lambda num_bytes: None) -> Decoded:
    """Decode an image file; CMYK and palettes become RGB. A rotation that EXIF data ask for is applied to TIFF alone.

    reserve: told how many bytes the pixels will take, before they are decoded. Raises ValueError, naming the file, if
    it is damaged, no image, or too large.
    """
    data = archive.read(name)
    with opened_image(data, archive.where(name)) as image:
        losses = [_FRAMES] if has_more_frames(image) else []
        if is_deep(image, data):
            losses.append(_DEEP)
        if image.mode not in _MODES + _DEEP_MODES:
            raise ImageRefused(f"has mode {image.mode}: convert it to 8-bit RGB first")
        reserve(decoded_bytes(image))
        if image.format == "TIFF" and _is_turned(image):  # PIL turns it, and forgets that it did
            losses.append(_TURNED_TIFF)
        image.load()
        if image.format != "TIFF" and _is_turned(image):
            losses.append(_TURNED)
        if image.mode == "CMYK":
            losses.append(_INKS)
        elif has_other_colours(image, data):
            losses.append(_PROFILE)
        if _shows_through(image):
            losses.append(_TRANSPARENT)
        return Decoded(_rgb_or_grey(image), tuple(losses))


def _is_turned(image: Image.Image) -> bool:
    """Whether EXIF data ask for a rotation or a mirror image; damaged ones ask for nothing."""
    try:
        return image.getexif().get(_ORIENTATION, 1) not in (0, 1)
    except Exception:  # as of damaged pixels, nearly anything
        return False


def _shows_through(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    if image.mode in _DEEP_MODES or not (image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info):
        return False
    if image.mode in ("LA", "RGBA"):
        return bool(to_array(image.getchannel("A"), "L").min() < 255)
    return bool(to_array(image, "RGBA")[:, :, 3].min() < 255)


def _rgb_or_grey(image: Image.Image) -> Pixels:
    """uint8 [H, W] of a grey image, else [H, W, 3]."""
    if image.mode in _DEEP_MODES:
        return (to_array(image, image.mode) >> 8).clip(0, 255).astype(np.uint8)
    return to_array(image, "L" if image.mode == "L" else "RGB")


def _label_text(labels: Sequence[Label] | None) -> str:
    """How many classes there are among the labels, or that there are none."""
    if labels is None:
        return "no labels"
    if isinstance(labels[0], list):
        return f"label vectors of {len(labels[0])} numbers"
    count = len({label for label in labels if isinstance(label, int)})
    return f"{count} {'class' if count == 1 else 'classes'}"
