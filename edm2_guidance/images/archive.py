"""One way to read an image set: a ZIP file or a folder tree, members sorted, labels in `dataset.json`.

Only bytes are handed out; decoding is the caller's. Names use forward slashes and are relative to the set, so a folder
and a ZIP of it look the same. Which names are images, and which are what file managers and unfinished writers leave
behind, `images.members` says. Torch-free.
"""

import hashlib
import json
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from dnnlib.places import near
from dnnlib.regular import read_regular
from dnnlib.stand_ins import stand_in
from dnnlib.urls import refuse_url
from edm2_guidance.images.labels import Label, parse_class_names, parse_label_file, parse_labels
from edm2_guidance.images.members import IMAGE_SUFFIXES, LABELS_NAME, sort_out
from edm2_guidance.images.unzip import MAX_MEMBER_BYTES, check_local_header, check_zip, open_zip, read_zip_member

#: Of a set with more bytes than this, `content_hash` looks into so many members alone.
HASHED_BYTES, HASHED_FILES = 1 << 30, 1000


class Archive(ABC):
    """An image set open for reading. Make one with `open_archive`.

    It can be pickled and survives `fork`: every other process opens files for itself when it first reads. `read`
    may be called from several threads at once. Closing (or leaving a `with` block) gives the file handle
    back; a later `read` opens it again, and parses the list of members again, which takes a while if it is long.

    Attributes:
        path: Where the set is, as given.
        names: Names of the image and `.npy` members, sorted by code point.
        root: The top of the set: the folder that everything lies in, such as "pets/"; "" if there is none.
        folders: Names of the folders in the root, sorted, also of those without images.
        notes: What of the set is not read, as a sentence each, for the user.
    """

    root: str = ""
    folders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, files: Iterable[tuple[str, str]], folders: Iterable[str]) -> None:
        """files: (name, name under which it is stored) of all; folders: all that are known, also empty ones."""
        try:
            members = sort_out(files, folders)
        except ValueError as error:
            raise ValueError(f"{path} holds {error}; rename one of them, or write the ZIP again") from None
        self.path = path
        self._stored = members.stored
        self.names, self.root, self.folders = members.images, members.root, members.folders
        self.notes = tuple(f"{path}: {note}" for note in members.notes)

    def __contains__(self, name: object) -> bool:
        """Whether there is a member (an image or any other file) of this name."""
        return name in self._stored

    @abstractmethod
    def read(self, name: str) -> bytes:
        """All bytes of a member, checked against the archive's CRC where it has one.

        Raises ValueError, naming archive and member, if there is no such member or if it is damaged or
        absurdly large, and OSError if the file cannot be read.
        """

    def content_hash(self, names: Sequence[str]) -> str:
        """SHA-256, 64 hex digits, of the names, sizes and CRC-32s of members, in the order given.

        If the members take more than `HASHED_BYTES`, only the CRCs of at most `HASHED_FILES` of them count, spread
        evenly. These are read in a folder; a ZIP's directory has them. So both give the same for the same members.

        Raises ValueError and OSError as `read` does.
        """
        sizes = list(self._sizes(names))
        step = 1 if sum(sizes) <= HASHED_BYTES else -(-len(names) // HASHED_FILES)
        crcs = iter(self._crcs(names[::step]))
        total = hashlib.sha256()
        for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
            row = (name, size, next(crcs) if number % step == 0 else None)
            total.update(json.dumps(row).encode())
        return total.hexdigest()

    @abstractmethod
    def _sizes(self, names: Iterable[str]) -> Iterable[int]:
        """Bytes of members."""

    @abstractmethod
    def _crcs(self, names: Iterable[str]) -> Iterable[int]:
        """CRC-32 of members."""

    def checksums(self) -> Iterator[tuple[str, int, int]]:
        """(name, CRC-32, bytes) of every image, sorted; a folder is read for it."""
        return zip(self.names, self._crcs(self.names), self._sizes(self.names), strict=True)

    def close(self) -> None:  # noqa: B027 - a folder holds nothing open
        """Give back what is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def labels(self) -> dict[str, Label] | None:
        """The label of every image from `dataset.json`: all class indices, or all vectors of one length.

        Returns None if there is no `dataset.json` or if it says `{"labels": null}`.

        Raises ValueError if the file is malformed, names an image that is not there or twice, leaves one
        out, or mixes kinds of labels.
        """
        content = self._label_file()
        return None if content is None else parse_labels(content, self._labels_where, self.root, self.names)

    def class_names(self, num_classes: int) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
        """The names of classes 0, 1, ... from `class_names` in `dataset.json`, or None; and notes, as in `notes`.

        num_classes: how many the labels have; names may be fewer, which is noted as what keeps them from being read is.
        Raises ValueError if `dataset.json` is malformed.
        """
        return parse_class_names(self._label_file() or {}, self._labels_where, num_classes)

    @property
    def has_labels_file(self) -> bool:
        """Whether there is a `dataset.json`, be it to say that there are no labels."""
        return LABELS_NAME in self

    @property
    def _labels_where(self) -> str:
        return f"{LABELS_NAME} of {self.path}"

    def _label_file(self) -> dict[str, Any] | None:
        """Content of `dataset.json`, which has an entry `labels`; None if there is no such file."""
        return parse_label_file(self.read(LABELS_NAME), self._labels_where) if LABELS_NAME in self else None


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """Open a ZIP file or a folder tree of images.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: It is a URL, neither a ZIP nor a folder, is truncated, holds no images, or has members that no
            honest image ZIP has: absolute or climbing (`..`) names, one name twice, encryption, a compression
            other than deflate, a declared size beyond `MAX_MEMBER_BYTES` or beyond what its compressed bytes
            can hold.
    """
    path = Path(path)
    if not path.exists():
        refuse_url(path)
        raise FileNotFoundError(f"{path} does not exist; give a ZIP file or a folder of images{near(path)}")
    archive: Archive = FolderArchive(path) if path.is_dir() else ZipArchive(path)
    if not archive.names:
        archive.close()
        kinds = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        instead = "".join(f" ({note.removeprefix(f'{path}: ')})" for note in archive.notes)
        raise ValueError(f"{path} holds no images; looked for names ending in {kinds}{instead}")
    return archive


class ZipArchive(Archive):
    """Members of a ZIP file; see `Archive`."""

    def __init__(self, path: Path) -> None:
        file = open_zip(path)
        self._opened: tuple[int, zipfile.ZipFile] | None = (os.getpid(), file)
        try:
            check_zip(path, file)
            members = file.infolist()
            files = ((_true_name(info), info.filename) for info in members if not _is_folder(info))
            super().__init__(path, files, (_true_name(info) for info in members if _is_folder(info)))
            images = {self._stored[name] for name in self.names}
            for info in members:
                if info.filename not in images:  # nobody may read it, and its name may be that of a damaged image
                    check_local_header(path, file, info.filename)
        except BaseException:
            self.close()
            raise

    def read(self, name: str) -> bytes:
        """See `Archive.read`."""
        if name not in self._stored:
            raise ValueError(f"{self.path} holds no member {name!r}")
        return _itself(read_zip_member(self.path, self._file(), self._stored[name]), name, self.path)

    def _sizes(self, names: Iterable[str]) -> Iterable[int]:
        return (info.file_size for info in self._infos(names))

    def _crcs(self, names: Iterable[str]) -> Iterable[int]:
        return (info.CRC for info in self._infos(names))

    def _infos(self, names: Iterable[str]) -> Iterator[zipfile.ZipInfo]:
        return map(self._file().getinfo, map(self._stored.__getitem__, names))

    def close(self) -> None:
        """Close this process's file handle; the next `read` opens it again."""
        if self._opened is not None and self._opened[0] == os.getpid():
            self._opened[1].close()
        self._opened = None

    def _file(self) -> zipfile.ZipFile:
        # A handle inherited through fork shares its file position with the parent: never read through it.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), open_zip(self.path))
        return self._opened[1]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None}


class FolderArchive(Archive):
    """Files below a folder, through symbolic links too; see `Archive`."""

    def __init__(self, path: Path) -> None:
        names = list(_walk(path, "", ()))
        files = [(name, name) for name in names if not name.endswith("/")]
        super().__init__(path, files, [name for name in names if name.endswith("/")])

    def read(self, name: str) -> bytes:
        """See `Archive.read`. Devices, pipes and the like are refused as damaged files are."""
        if name not in self._stored:
            raise ValueError(f"{self.path} holds no file {name!r}")
        return _itself(read_regular(self.path / self._stored[name], MAX_MEMBER_BYTES), name, self.path)

    def _sizes(self, names: Iterable[str]) -> Iterable[int]:
        return (os.stat(self.path / self._stored[name]).st_size for name in names)

    def _crcs(self, names: Iterable[str]) -> Iterable[int]:
        return map(zlib.crc32, map(self.read, names))


def _itself(data: bytes, name: str, path: Path) -> bytes:
    """The bytes of a member, unless they are a pointer to it or a page about it."""
    what = stand_in(data)
    if what is not None:
        raise ValueError(f"{name!r} in {path} is {what}")
    return data


def _is_folder(info: zipfile.ZipInfo) -> bool:
    return info.filename.endswith(("/", "\\"))


def _true_name(info: zipfile.ZipInfo) -> str:
    """The member's name; macOS writes UTF-8 without saying so, which `zipfile` then takes for the DOS code page."""
    name = info.filename
    if not name.isascii() and not info.flag_bits & 0x800:
        with suppress(UnicodeError):
            return name.encode("cp437").decode("utf-8")
    return name


def select_subset(n: int, max_size: int | None, seed: int) -> list[int]:
    """Which of `n` items to use when at most `max_size` are wanted: a random subset in ascending order.

    The rule of StyleGAN's and EDM2's data sets: all if there are no more than `max_size` (or if it is None);
    else shuffle all indices with `numpy.random.RandomState(seed mod 2^31)`, take the first, sort them.

    Args:
        n: Number of items, 0 or more.
        max_size: How many to take at most, 1 or more; None takes all.
        seed: Any integer.

    Returns:
        Indices in [0, n), ascending.
    """
    if n < 0:
        raise ValueError(f"cannot select from {n} items")
    if max_size is not None and max_size < 1:
        raise ValueError(f"a subset of {max_size} images was asked for; ask for 1 or more, or for all")
    if max_size is None or max_size >= n:
        return list(range(n))
    order = np.arange(n, dtype=np.int64)
    np.random.RandomState(seed % (1 << 31)).shuffle(order)
    return sorted(order[:max_size].tolist())


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Relative names of all files below `folder`, and of all folders, which end with a slash.

    `above` identifies the folders on the way down to it.
    """
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above and here != (0, 0):
        raise ValueError(f"{folder} is a link to a folder that contains it; remove the link")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield f"{prefix}{entry.name}/"
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", (*above, here))
            else:  # broken links, pipes and the like too: they must fail when read, not vanish
                yield prefix + entry.name
