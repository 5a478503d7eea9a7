"""Images that are already on disk: a ZIP, tar, folder tree or `.npz`, or several as one, streamed in batches.

Whatever is not an 8-bit RGB image of the same size as the others is an error that names the file: a metric
over silently converted images is not comparable with anything.
"""

import copy
import hashlib
import itertools
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dnnlib.places import near
from dnnlib.urls import refuse_url
from edm2_guidance.images import npy
from edm2_guidance.images.archive import Archive, open_archive, select_subset
from edm2_guidance.images.batch import ImageBatch
from edm2_guidance.images.decode import (
    MAX_PIXELS,
    SMALL_PIXELS,
    ImageRefused,
    decoded_bytes,
    has_more_frames,
    is_deep,
    opened_image,
    plain_png,
    to_array,
)
from edm2_guidance.images.members import has_image_suffix
from edm2_guidance.images.pool import OrderedPool
from edm2_guidance.images.unzip import check_zip, damage_means, open_zip, read_zip_member

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]

#: An `.npz` of more images than this is refused: what is known of each takes memory before the first is read.
MAX_IMAGES = 10**7

#: A batch takes no more than this, or is one image: fewer images than asked for are in it where they are that large.
MAX_BATCH_BYTES = 1 << 29

_OF_SEED = re.compile(r"(\d{6,})\.png", re.ASCII)
_KINDS = {
    "1": "a black-and-white image",
    "L": "a grey image",
    "LA": "a grey image with transparency",
    "I": "an image of 16 or 32 bits per channel",
    "I;16": "a grey image of 16 bits",
    "P": "a palette image",
    "RGBA": "an image with transparency (RGBA)",
    "CMYK": "a CMYK image",
}


class StoredImages:
    """The images of a ZIP, tar, folder tree or `.npz`, as an `ImageSource`. Memory does not grow with N.

    ZIPs, tars and folders are read as `images.archive` describes, in sorted name order; names `{seed:06d}.png`
    (in any folder) give seeds, class indices give labels (label vectors are checked, not
    passed on). An `.npz` holds `arr_0`, uint8 [N, H, W, 3], and optionally `arr_1`, one class per image.

    Attributes:
        path: Where the images are.
        num_images: How many one pass gives.
        image_size: (height, width) of every image, in pixels.
        batch: Images per batch: as asked, or as many as `MAX_BATCH_BYTES` hold.
        notes: What of the set is not read, as a sentence each, for the user.
    """

    def __init__(
        self, path: str | os.PathLike[str], batch: int = 64, max_images: int | None = None, seed: int = 0
    ) -> None:
        """Look at the set: its names, labels and first image. A ZIP stays open until a pass has ended.

        Args:
            path: What `open_archive` takes, or a file ending in `.npz`.
            batch: Images per batch, 1 or more; the last batch may be smaller.
            max_images: At most this many images, chosen by `select_subset`; None takes all. A set with fewer
                images gives what it has: compare `num_images`.
            seed: Seed of that choice.

        Raises:
            FileNotFoundError: Nothing is at `path`.
            ValueError: It is no image set, is malformed, or its first image is unusable. Later images raise
                ValueError during the pass, naming the file.
        """
        if batch < 1:
            raise ValueError(f"{batch} images per batch: need 1 or more")
        self.path = Path(path)
        self._set: _ImageSet = _NpzSet(self.path) if self.path.suffix.lower() == ".npz" else _FileSet(self.path)
        self._choose(batch, max_images, seed)

    def chosen(self, batch: int = 64, max_images: int | None = None, seed: int = 0) -> "StoredImages":
        """Others of the same set, which is not opened again: as `StoredImages(path, ...)`."""
        other = copy.copy(self)
        other._choose(batch, max_images, seed)
        return other

    def _choose(self, batch: int, max_images: int | None, seed: int) -> None:
        self._indices = select_subset(self._set.count, max_images, seed)
        self.num_images = len(self._indices)
        self.image_size: tuple[int, int] = self._set.first_size(self._indices[0])
        self.batch = min(batch, max(1, MAX_BATCH_BYTES // (3 * math.prod(self.image_size))))
        self.notes: tuple[str, ...] = self._set.notes

    @property
    def numbers(self) -> list[int]:
        """Which image of the set each is, from 0, in the order of a pass."""
        return list(self._indices)

    @property
    def names(self) -> list[str] | None:
        """Names of the images in the order of a pass; None for an `.npz`."""
        return None if self.archive is None else [self.archive.names[index] for index in self._indices]

    @property
    def seeds(self) -> tuple[int, ...] | None:
        """The seed of each image in the order of a pass; None where the names are no seeds."""
        return _pick(self._set.seeds, self._indices)

    @property
    def labels(self) -> tuple[int, ...] | None:
        """The class of each image in the order of a pass; None where nobody says."""
        return _pick(self._set.labels, self._indices)

    @property
    def archive(self) -> Archive | None:
        """What the images are in; None for an `.npz`."""
        return self._set.archive

    def check(self) -> None:
        """Read all of an `.npz`, whose checksum is that of the whole array; files are checked one by one, as read.

        ValueError if it is damaged.
        """
        for _ in self._set.read([], 1):
            pass

    def pick(self, rows: Sequence[int]) -> ImageBatch:
        """The images of some rows of a pass, counted from 0, in any order. What was read stays open for the next ones.

        Of an `.npz`, whose array is a stream, rows that rise from call to call take one pass. ValueError as in a pass.
        """
        found = {row: self._set.pixels(self._indices[row]) for row in sorted(rows)}
        for row, pixels in found.items():
            if pixels.shape[:2] != self.image_size:
                _refuse_sizes(self.path, "the first", self.image_size, f"number {row + 1}", pixels.shape)
        (images,) = _stacked((found[row] for row in rows), len(rows))
        indices = [self._indices[row] for row in rows]
        return ImageBatch(images, _pick(self._set.seeds, indices), _pick(self._set.labels, indices))

    def __len__(self) -> int:
        return -(-self.num_images // self.batch)

    def __iter__(self) -> Iterator[ImageBatch]:
        done = 0
        for images in _stacked(self._set.read(self._indices, self.batch), self.batch):
            chosen = self._indices[done : done + len(images)]
            done += len(images)
            yield ImageBatch(images, _pick(self._set.seeds, chosen), _pick(self._set.labels, chosen))


class _ImageSet(Protocol):
    """What `StoredImages` needs to know of a kind of image set."""

    count: int
    seeds: Sequence[int] | None
    labels: Sequence[int] | None
    notes: tuple[str, ...]
    archive: Archive | None

    def first_size(self, index: int) -> tuple[int, int]:
        """(height, width) of an image, which all others share."""

    def read(self, indices: Sequence[int], ahead: int) -> Iterator[Pixels]:
        """uint8 [H, W, 3] of each of the ascending `indices`, at most about `ahead` of them decoded early."""

    def pixels(self, index: int) -> Pixels:
        """uint8 [H, W, 3] of one image."""


class _FileSet:
    """Image files in an `Archive`."""

    def __init__(self, path: Path) -> None:
        archive = open_archive(path)
        self.archive: Archive | None = archive
        self._archive = archive
        self._names = archive.names
        self.notes = archive.notes
        self.count = len(self._names)
        self.seeds: Sequence[int] | None = seeds_of(self._names)
        listed = archive.labels()
        labels = [] if listed is None else [listed[name] for name in self._names]
        self.labels: Sequence[int] | None = [
            label for label in labels if isinstance(label, int)
        ] or None  # all are, or none is

    def first_size(self, index: int) -> tuple[int, int]:
        height, width, _ = self._decode(index).shape
        return height, width

    def read(self, indices: Sequence[int], ahead: int) -> Iterator[Pixels]:
        if len(indices) == 0:
            return
        with self._archive:
            first, rest = self._decode(indices[0]), indices[1:]
            small = first.shape[0] * first.shape[1] <= SMALL_PIXELS  # threads that take turns cost more than decoding
            others = map(self._decode, rest) if small else self._by_threads(rest, ahead)
            yield first
            for index, pixels in zip(rest, others, strict=True):
                if pixels.shape != first.shape:
                    names = self._names[indices[0]], self._names[index]
                    _refuse_sizes(self._archive.path, names[0], first.shape, names[1], pixels.shape)
                yield pixels

    def _by_threads(self, indices: Sequence[int], ahead: int) -> Iterator[Pixels]:
        waiting = iter(indices)
        with OrderedPool[Pixels]() as pool:
            for _ in indices:
                while len(pool) < ahead + pool.threads and (ready := next(waiting, None)) is not None:
                    pool.submit(self._decode, ready, pool.reserve)
                yield pool.pop()

    def pixels(self, index: int) -> Pixels:
        return self._decode(index)

    def _decode(self, index: int, reserve: Callable[[int], None] = lambda num_bytes: None) -> Pixels:
        name = self._names[index]
        where = self._archive.where(name)
        if name.lower().endswith(".npy"):
            raise ValueError(f"{where} is an array (latents?), no image; give the set that holds the pixels")
        return decode_rgb(self._archive.read(name), where, reserve)


class _NpzSet:
    """The array `arr_0` of an `.npz`, read as a stream: such files are larger than memory."""

    seeds: Sequence[int] | None = None
    notes: tuple[str, ...] = ()
    archive: Archive | None = None

    def __init__(self, path: Path) -> None:
        if not path.exists():
            refuse_url(path)
            raise FileNotFoundError(f"{path} does not exist; give an .npz, a ZIP or a folder of images{near(path)}")
        self._path = path
        self._damage = f"arr_0 in {path} is damaged: copy or make the file again"
        with open_zip(path) as file:
            names = {name.removesuffix(".npy") for name in check_zip(path, file, max_bytes=None)}
            if "arr_0" not in names:
                _refuse_npz(path, names)
            with damage_means(f"arr_0 in {path} is no readable array"), file.open("arr_0.npy") as stream:
                self.count, *self._shape = _image_shape(npy.read_header(stream))
                self._start = stream.tell()
            size = file.getinfo("arr_0.npy").file_size - self._start
            if size != self.count * self._num_bytes:
                shape = [self.count, *self._shape]
                raise ValueError(f"arr_0 in {path} has {size} bytes, but its shape {shape} needs another number")
            self.labels: Sequence[int] | None = _npz_labels(path, file, self.count) if "arr_1" in names else None
        self._pass: Iterator[Pixels] = iter(())  # of `pixels`: where it reads
        self._next = self.count  # and what comes next there

    @property
    def _num_bytes(self) -> int:
        return math.prod(self._shape)

    def first_size(self, index: int) -> tuple[int, int]:
        return self._shape[0], self._shape[1]

    def read(self, indices: Sequence[int], ahead: int) -> Iterator[Pixels]:
        wanted = iter(indices)
        following = next(wanted, None)
        with open_zip(self._path) as file, file.open("arr_0.npy") as stream:
            self._read_exactly(stream, self._start)
            for index in range(self.count):  # all of them, also for a subset: the CRC covers the whole array
                data = self._read_exactly(stream, self._num_bytes)
                if index == following:
                    following = next(wanted, None)
                    yield np.frombuffer(data, dtype=np.uint8).reshape(self._shape)
            with damage_means(self._damage):
                stream.read(1)  # reaching the end makes zipfile compare the CRC

    def pixels(self, index: int) -> Pixels:
        if index < self._next:
            self._pass, self._next = self.read(range(self.count), 1), 0
        skipped, self._next = index - self._next, index + 1
        return next(itertools.islice(self._pass, skipped, None))

    def _read_exactly(self, stream: IO[bytes], size: int) -> bytes:
        pieces = bytearray()
        with damage_means(self._damage):
            while len(pieces) < size:
                piece = stream.read(size - len(pieces))
                if piece == b"":
                    raise EOFError("the file ends early")
                pieces += piece
        return bytes(pieces)


def decode_rgb(data: bytes, where: str, reserve: Callable[[int], None] = lambda num_bytes: None) -> Pixels:
    """Decode an image file that must hold 8-bit RGB.

    Args:
        data: Content of a PNG, JPEG, WebP, BMP, GIF or TIFF file.
        where: Name of the file for error messages.
        reserve: Told how many bytes the pixels will take, before they are decoded.

    Returns:
        uint8 [H, W, 3], not to be written to.

    Raises ValueError if it is no such file, is truncated or damaged, has more than `MAX_PIXELS` pixels, or is
    grey, palette, transparent, animated or deeper than 8 bits per channel.
    """
    if (pixels := plain_png(data)) is not None:
        return pixels
    with opened_image(data, where) as image:
        _check_image(image, data)
        reserve(decoded_bytes(image))
        return to_array(image, "RGB")


def _check_image(image: Image.Image, data: bytes) -> None:
    """Refuse what would need a conversion. Only the header has been read so far."""
    if is_deep(image, data):
        raise ImageRefused("has 16 bits per channel, and only 8-bit RGB is read: convert the image set first")
    transparent = image.mode == "RGB" and "transparency" in image.info
    mode = "RGBA" if transparent else image.mode
    if mode != "RGB":
        kind = _KINDS.get(mode, f"an image of mode {mode}")
        raise ImageRefused(f"is {kind}, and only 8-bit RGB is read: convert the image set first")
    if has_more_frames(image) and image.format != "MPO":  # a camera's second picture, beside the whole first one
        raise ImageRefused("is an animation; keep one frame of it")


def content_sha256(source: str | Path | StoredImages) -> str:
    """Hash of the sorted names, sizes and checksums of the images in a ZIP, .npz or folder, which is read for it.

    A folder and a ZIP of it have the same one. source: the set, or where it is. ValueError for anything else.
    """
    if isinstance(source, StoredImages) and source.archive is not None:
        return _hash_of(source.archive.checksums())
    path = source.path if isinstance(source, StoredImages) else Path(source)
    if path.suffix.lower() == ".npz":
        with open_zip(path) as file:
            return _hash_of(
                sorted((m.filename, m.CRC, m.file_size) for m in file.infolist() if has_image_suffix(m.filename))
            )
    with open_archive(path) as archive:
        return _hash_of(archive.checksums())


def _hash_of(members: Iterable[tuple[str, int, int]]) -> str:
    text = "".join(f"{checksum:08x} {size} {name}\n" for name, checksum, size in members)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def seeds_of(names: Sequence[str]) -> list[int] | None:
    """The seeds in the names of generated images, `{seed:06d}.png` in any folder.

    None if any name is of another form, or if a seed comes twice.
    """
    found = (_OF_SEED.fullmatch(name.rpartition("/")[2]) for name in names)
    seeds = [int(match[1]) for match in found if match is not None and match[1] == f"{int(match[1]):06d}"]
    return seeds if len(seeds) == len(names) == len(set(seeds)) else None


def _stacked(images: Iterator[Pixels], batch: int) -> "Iterator[Tensor]":
    """Stack images [H, W, 3] to uint8 [N, 3, H, W] with N = `batch`, less in the last; no image is kept beside them."""
    import torch

    for first in images:
        stacked = np.empty([batch, 3, *first.shape[:2]], dtype=np.uint8)
        count = 0
        for image in itertools.chain([first], itertools.islice(images, batch - 1)):
            stacked[count] = image.transpose(2, 0, 1)
            count += 1
        yield torch.from_numpy(stacked[:count])


def _pick(values: Sequence[int] | None, indices: Sequence[int]) -> tuple[int, ...] | None:
    return None if values is None else tuple(values[index] for index in indices)


def _image_shape(header: npy.Header) -> tuple[int, ...]:
    """The shape of an array that must hold uint8 [N, H, W, 3] in C order; ValueError says what it is."""
    dtype, shape, fortran_order = header
    usable = dtype == np.uint8 and len(shape) == 4 and shape[3] == 3 and not fortran_order
    if not usable or 0 in shape:
        order = " in Fortran order" if fortran_order else ""
        raise ValueError(f"it is {dtype} {list(shape)}{order}; need uint8 [N, H, W, 3]")
    if shape[1] * shape[2] > MAX_PIXELS:
        raise ValueError(f"its images have {shape[2]}x{shape[1]} pixels, more than the {MAX_PIXELS} allowed")
    if shape[0] > MAX_IMAGES:
        raise ValueError(f"it holds {shape[0]} images, more than the {MAX_IMAGES} allowed")
    return shape


def _npz_labels(path: Path, file: zipfile.ZipFile, count: int) -> list[int]:
    """`arr_1`: one class index per image."""
    size = file.getinfo("arr_1.npy").file_size
    if size > 8 * count + npy.MAX_HEADER:
        raise ValueError(f"arr_1 in {path} has {size} bytes; need one class index per image, [{count}]")
    data = read_zip_member(path, file, "arr_1.npy")
    with damage_means(f"arr_1 in {path} is no readable array"):
        labels = npy.from_bytes(data)
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise ValueError(
            f"arr_1 in {path} is {labels.dtype} {list(labels.shape)}; need one class index per image, [{count}]"
        )
    return [int(label) for label in labels]


def _refuse_npz(path: Path, names: set[str]) -> NoReturn:
    if {"mu", "sigma"} <= names:
        raise ValueError(f"{path} holds statistics (mu, sigma), no images: use it as the reference instead")
    raise ValueError(f"{path} has no arr_0 (uint8 [N, H, W, 3]); it holds {', '.join(sorted(names)[:5]) or 'nothing'}")


def _refuse_sizes(path: Path, first: str, size: tuple[int, ...], name: str, other: tuple[int, ...]) -> NoReturn:
    raise ValueError(
        f"{path} mixes sizes: {first!r} has {size[1]}x{size[0]} pixels, {name!r} {other[1]}x{other[0]}; "
        "resize the image set to one size"
    )
