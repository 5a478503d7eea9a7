"""One way to read an image set: a ZIP, a tar, a folder tree, or several ZIPs and tars as one; members sorted.

Labels are in `dataset.json`, or in a file beside each image. Only bytes are handed out; decoding is the caller's. Names
use forward slashes and are relative to the set, so a folder, a ZIP and a tar of it look the same. Which names are
images, and which are what file managers and unfinished writers leave behind, `images.members` says. Torch-free.
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

from dnnlib.places import files_like, near
from dnnlib.plain_json import parse_json
from dnnlib.regular import open_regular, read_regular
from dnnlib.stand_ins import stand_in
from dnnlib.urls import refuse_url
from edm2_guidance.images.labels import (
    Label,
    check_same_kind,
    parse_class_names,
    parse_label_beside,
    parse_label_file,
    parse_labels,
    says_label,
)
from edm2_guidance.images.members import IMAGE_SUFFIXES, LABELS_NAME, RECIPE_NAME, shortened, sort_out
from edm2_guidance.images.tar import is_tar, list_members
from edm2_guidance.images.unzip import MAX_MEMBER_BYTES, check_local_header, check_zip, open_zip, read_zip_member

#: Of a set with more bytes than this, `content_hash` looks into so many members alone.
HASHED_BYTES, HASHED_FILES = 1 << 30, 1000

#: ZIPs and tars in one set: every ZIP is held open, and systems let a process have some thousand files.
MAX_PARTS = 500

_MAX_NOTES = 10


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
        self.path = path
        try:
            members = sort_out(files, folders, self._holds_label)
        except ValueError as error:
            raise ValueError(f"{path} holds {error}") from None
        self._stored, self._label_files = members.stored, members.label_files
        self.names, self.root, self.folders = members.images, members.root, members.folders
        self.notes = tuple(f"{path}: {note}" for note in members.notes)

    def __contains__(self, name: object) -> bool:
        """Whether there is a member (an image or any other file) of this name."""
        return name in self._stored

    def read(self, name: str) -> bytes:
        """All bytes of a member, checked against the archive's CRC where it has one.

        Raises ValueError, naming archive and member, if there is no such member or if it is damaged or
        absurdly large, and OSError if the file cannot be read.
        """
        if name not in self._stored:
            raise ValueError(f"{self.path} holds no member {name!r}")
        return _itself(self._bytes(self._stored[name]), name, self.path)

    @abstractmethod
    def _bytes(self, stored: str) -> bytes:
        """All bytes of the member that is stored under this name; errors as of `read`."""

    def where(self, name: str) -> str:
        """A member and the file or folder that it is in, for messages."""
        return f"{name!r} in {self.path}"

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

    @property
    def knows_checksums(self) -> bool:
        """Whether the checksums of the members are known without reading them."""
        return False

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
        """The label of every image: all class indices, or all vectors of one length.

        They are in `dataset.json` or, without it, in a file beside each image, as webdataset has them: KEY.cls, or else
        KEY.json with `cls` or `label`. Returns None if there is neither, or if `dataset.json` says `{"labels": null}`.

        Raises ValueError if a file is malformed, `dataset.json` names an image that is not there or twice, leaves one
        out, or kinds of labels are mixed.
        """
        content = self._label_file()
        if content is not None:
            return parse_labels(content, self._labels_where, self.root, self.names)
        files = self._label_files.items()
        labels = {name: parse_label_beside(self.read(file), file, str(self.path)) for name, file in files}
        check_same_kind(labels, str(self.path))
        return labels or None

    def _holds_label(self, stored: str) -> bool:
        try:
            return says_label(self._bytes(stored))
        except ValueError:  # damaged: it is no image's, and nobody asked for it
            return False

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
    """Open a set of images: a ZIP, a tar, a folder tree, or several ZIPs and tars as one.

    Several are given as the folder that they lie in, if there is no image in it, or as a pattern of their names, such
    as `shards/train-*.tar`; see `JointArchive`.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: It is a URL, none of these, is truncated, holds no images, or has members that no
            honest image ZIP has: absolute or climbing (`..`) names, one name twice, encryption, a compression
            other than deflate, a declared size beyond `MAX_MEMBER_BYTES` or beyond what its compressed bytes
            can hold; of a tar, what `images.tar.list_members` refuses. Of several: two have images of one name, or
            labels of two kinds.
    """
    path = Path(path)
    parts = files_like(path)
    if not parts and not path.exists():
        refuse_url(path)
        raise FileNotFoundError(f"{path} does not exist; give a ZIP file or a folder of images{near(path)}")
    archive: Archive
    if parts:
        archive = JointArchive(path, parts)
    elif path.is_dir():
        folder = archive = FolderArchive(path)
        if not folder.names and (parts := folder.archives()):
            archive = JointArchive(path, parts)
            archive.notes = (*folder.notes_beside(parts), *archive.notes)
    else:
        archive = TarArchive(path) if is_tar(path) else ZipArchive(path)
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

    def _bytes(self, stored: str) -> bytes:
        return read_zip_member(self.path, self._file(), stored)

    def _sizes(self, names: Iterable[str]) -> Iterable[int]:
        return (info.file_size for info in self._infos(names))

    def _crcs(self, names: Iterable[str]) -> Iterable[int]:
        return (info.CRC for info in self._infos(names))

    @property
    def knows_checksums(self) -> bool:
        """See `Archive.knows_checksums`."""
        return True

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

    def _bytes(self, stored: str) -> bytes:
        """Devices, pipes and the like are refused as damaged files are."""
        return read_regular(os.path.join(self.path, stored), MAX_MEMBER_BYTES)

    def archives(self) -> list[Path]:
        """The ZIPs and tars at its top, sorted."""
        names = sorted(name for name in self._stored if "/" not in name and name.lower().endswith((".zip", ".tar")))
        return [self.path / name for name in names]

    def notes_beside(self, parts: Sequence[Path]) -> tuple[str, ...]:
        """What is not read if these of its files are the set, as `notes`."""
        others = sorted(name for name in self._stored if self.path / name not in parts)
        return (f"{self.path}: {shortened(map(repr, others))} beside the ZIPs and tars not read",) if others else ()

    def _sizes(self, names: Iterable[str]) -> Iterable[int]:
        return (os.stat(self.path / self._stored[name]).st_size for name in names)

    def _crcs(self, names: Iterable[str]) -> Iterable[int]:
        return map(zlib.crc32, map(self.read, names))


class TarArchive(Archive):
    """Files in a plain tar, found once and read where they lie; see `Archive`. It has no checksums."""

    def __init__(self, path: Path) -> None:
        self._read_as = _state_of(path)
        files, folders = list_members(path)
        self._places = {member.name: (member.start, member.size) for member in files}
        super().__init__(path, ((member.name, member.name) for member in files), folders)

    def _bytes(self, stored: str) -> bytes:
        start, size = self._places[stored]
        with open_regular(self.path) as file:
            if _state_of(file.fileno()) != self._read_as:
                raise ValueError(f"{self.path} was changed while it was read: start again")
            file.seek(start)
            data = file.read(size)
        if len(data) < size:
            raise ValueError(f"{stored!r} in {self.path} is cut off: copy or make the tar again")
        return data

    def _sizes(self, names: Iterable[str]) -> Iterable[int]:
        return (self._places[self._stored[name]][1] for name in names)

    def _crcs(self, names: Iterable[str]) -> Iterable[int]:
        return map(zlib.crc32, map(self.read, names))


class JointArchive(Archive):
    """The images of several ZIPs and tars as one set, by their names in these; see `Archive`.

    Each part keeps its own labels, which all or none must have. Names must differ from part to part.
    """

    def __init__(self, path: Path, parts: Sequence[Path]) -> None:
        """Raises ValueError, as `open_archive`, for a part that is damaged or without images, and for too many."""
        if len(parts) > MAX_PARTS:
            raise ValueError(f"{path}: {len(parts)} ZIPs and tars, more than the {MAX_PARTS} that are read as one set")
        self._parts: list[Archive] = []
        self._recipe: bytes | None = None
        try:
            for part in parts:
                self._parts.append(open_archive(part))
            self._part_of = self._index(path)
            folders = [part.root + folder for part in self._parts for folder in part.folders]
            super().__init__(path, ((name, name) for name in self._part_of), folders)
            self._recipe = self._joint_recipe()
        except BaseException:
            self.close()
            raise
        notes = [note for part in self._parts for note in part.notes]
        more = (f"{path}: {len(notes) - _MAX_NOTES} more notes of this kind",) if len(notes) > _MAX_NOTES else ()
        self.notes = (*notes[:_MAX_NOTES], *more)

    def _index(self, path: Path) -> dict[str, Archive]:
        found: dict[str, Archive] = {}
        for part in self._parts:
            for name in part.names:
                if name in found:
                    both = f"{found[name].path.name} and {part.path.name}"
                    raise ValueError(f"{path}: {both} both hold {name!r}: rename it in one, or score them one by one")
                found[name] = part
        return found

    def _joint_recipe(self) -> bytes | None:
        """The recipe of all parts with the seeds of all; None unless they differ in nothing else."""
        if not all(RECIPE_NAME in part for part in self._parts):
            return None
        try:
            found = [parse_json(part.read(RECIPE_NAME)) for part in self._parts]
        except ValueError:
            return None
        if not all(isinstance(recipe, dict) and isinstance(recipe.get("seeds"), str) for recipe in found):
            return None
        joint = {**found[0], "seeds": ",".join(recipe["seeds"] for recipe in found), "num_images": len(self._part_of)}
        of_all = {"seeds", "num_images", *(["recipe"] if "recipe_hash" in joint else [])}  # files may have moved since
        shared = {key: joint.get(key) for key in of_all}
        return json.dumps(joint).encode() if all({**recipe, **shared} == joint for recipe in found) else None

    def __contains__(self, name: object) -> bool:
        """See `Archive.__contains__`; of what is no image, there is the recipe of all parts alone."""
        return name in self._part_of or (name == RECIPE_NAME and self._recipe is not None)

    def read(self, name: str) -> bytes:
        """See `Archive.read`."""
        if name == RECIPE_NAME and self._recipe is not None:
            return self._recipe
        return super().read(name)

    def where(self, name: str) -> str:
        """See `Archive.where`: the part."""
        return self._part_of[name].where(name)

    def labels(self) -> dict[str, Label] | None:
        """See `Archive.labels`."""
        found = [(part, part.labels()) for part in self._parts]
        bare = [part.path.name for part, labels in found if labels is None]
        if len(bare) == len(found):
            return None
        if bare:
            raise ValueError(f"{self.path}: parts with labels, and others without: {shortened(bare)}")
        joint = {name: label for _, labels in found for name, label in (labels or {}).items()}
        check_same_kind(joint, str(self.path))
        return {name: joint[name] for name in self.names}

    def class_names(self, num_classes: int) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
        """See `Archive.class_names`: those that all parts agree on."""
        found = [part.class_names(num_classes) for part in self._parts]
        if any(names != found[0][0] for names, _ in found):
            return None, (f"classes have no names: the parts of {self.path} give them different ones",)
        return found[0]

    @property
    def has_labels_file(self) -> bool:
        """See `Archive.has_labels_file`."""
        return any(part.has_labels_file for part in self._parts)

    @property
    def knows_checksums(self) -> bool:
        """See `Archive.knows_checksums`."""
        return all(part.knows_checksums for part in self._parts)

    def close(self) -> None:
        """Close what the parts hold open."""
        for part in self._parts:
            part.close()

    def _bytes(self, stored: str) -> bytes:
        return self._part_of[stored].read(stored)

    def _sizes(self, names: Iterable[str]) -> Iterable[int]:
        return (size for name in names for size in self._part_of[name]._sizes([name]))

    def _crcs(self, names: Iterable[str]) -> Iterable[int]:
        return (crc for name in names for crc in self._part_of[name]._crcs([name]))


def _state_of(file: Path | int) -> tuple[int, ...]:
    """What tells whether a file is still the same."""
    status = os.stat(file)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


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
