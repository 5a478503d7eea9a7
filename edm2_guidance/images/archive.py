"""One way to read an image set: a ZIP file or a folder tree, members sorted, labels in `dataset.json`.

Only bytes are handed out; decoding is the caller's. Names use forward slashes and are relative to the set, so a folder
and a ZIP of it look the same. Which names are images, and which are what file managers and unfinished writers leave
behind, `images.members` says. Torch-free.
"""

import errno
import hashlib
import json
import os
import struct
import sys
import unicodedata
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from dnnlib.places import near
from dnnlib.plain_json import parse_json
from dnnlib.regular import open_regular, read_regular
from dnnlib.stand_ins import refuse_stand_in, stand_in
from dnnlib.urls import refuse_url
from edm2_guidance.images.members import (
    IMAGE_SUFFIXES,
    LABELS_NAME,
    clean_name,
    has_image_suffix,
    is_junk,
    shortened,
    sort_out,
)
from edm2_guidance.recipe.class_names import checked_names, why_no_names

#: No member of an image set is larger than this; what claims to be is not read.
MAX_MEMBER_BYTES = 1 << 28

#: The same for JSON beyond the size of the whole ZIP: as objects it takes up to 35 times as much.
_MAX_JSON_BYTES = 1 << 24

#: Of a set with more bytes than this, `content_hash` looks into so many members alone.
HASHED_BYTES, HASHED_FILES = 1 << 30, 1000

#: Longest name of a member, in characters: what file systems take for a path is hardly longer.
_MAX_NAME = 1024

#: Characters of what `zipfile` has to say; it quotes names of any length.
_MAX_REASON = 300

#: Deflate cannot shrink by more than about 1032.
_MAX_EXPANSION = 1100

_LOCAL_BYTES = 30  # of the record before a member's bytes, apart from names
_END_BYTES = 22  # the record at the end of a ZIP, apart from its comment
_END64_BYTES = 56 + 20  # what comes before it in one of more than 65,535 members or 4 GiB: a record and where it is

_COUNTED_MODULO = 1 << 16  # what the number of members is modulo, in a ZIP without ZIP64 that has more
_PLACED_MODULO = 1 << 32  # the same of places

_ZIP_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    OverflowError,
    RuntimeError,
    ValueError,
)

Label = int | list[float]


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
        sizes = [self._size(name) for name in names]
        step = 1 if sum(sizes) <= HASHED_BYTES else -(-len(names) // HASHED_FILES)
        total = hashlib.sha256()
        for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
            row = (name, size, self._crc(name) if number % step == 0 else None)
            total.update(json.dumps(row).encode())
        return total.hexdigest()

    @abstractmethod
    def _size(self, name: str) -> int:
        """Bytes of a member."""

    @abstractmethod
    def _crc(self, name: str) -> int:
        """CRC-32 of a member."""

    def checksums(self) -> list[tuple[str, int, int]]:
        """(name, CRC-32, bytes) of every image, sorted; a folder is read for it."""
        return [(name, self._crc(name), self._size(name)) for name in self.names]

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
        listed = None if content is None else _parse_labels(content, self._labels_where, self.root, self.names)
        if listed is None:
            return None
        known = set(self.names)
        strange = [name for name in listed if name not in known]
        missing = [name for name in self.names if name not in listed]
        if strange:
            names = shortened(map(repr, strange))
            raise ValueError(f"{self._labels_where} has a label for {names}, which is not in the image set")
        if missing:
            names = shortened(map(repr, missing))
            raise ValueError(f'{self._labels_where} has no label for {names}; add it, or write {{"labels": null}}')
        return listed

    def class_names(self, num_classes: int) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
        """The names of classes 0, 1, ... from `class_names` in `dataset.json`, or None; and notes, as in `notes`.

        num_classes: how many the labels have; names may be fewer, which is noted as what keeps them from being read is.
        Raises ValueError if `dataset.json` is malformed.
        """
        value = (self._label_file() or {}).get("class_names")
        problem = None if value is None else why_no_names(value, num_classes)
        names = checked_names(value)
        text = "some classes have no names" if names else "classes have no names"
        notes = () if problem is None else (f"{text}; class_names in {self._labels_where}: {problem}",)
        return names, notes

    @property
    def has_labels_file(self) -> bool:
        """Whether there is a `dataset.json`, be it to say that there are no labels."""
        return LABELS_NAME in self

    @property
    def _labels_where(self) -> str:
        return f"{LABELS_NAME} of {self.path}"

    def _label_file(self) -> dict[str, Any] | None:
        """Content of `dataset.json`, which has an entry `labels`; None if there is no such file."""
        if LABELS_NAME not in self:
            return None
        data = self.read(LABELS_NAME)
        try:
            content = parse_json(data)
        except ValueError as error:
            raise ValueError(f"{self._labels_where} {error}") from error
        if not isinstance(content, dict) or "labels" not in content:
            raise ValueError(
                f'{self._labels_where} has no "labels"; expected {{"labels": [[name, label], ...]}} or null'
            )
        return content


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
            for info in file.infolist():
                if not is_image_name(info.filename):  # nobody may read it, and its name may be that of a damaged image
                    _check_local_header(path, file, info.filename)
            found = [(_true_name(info), info.filename) for info in file.infolist()]
            files = [(name, stored) for name, stored in found if not name.endswith(("/", "\\"))]
            folders = [name for name, _ in found if name.endswith(("/", "\\"))]
            super().__init__(path, files, folders)
        except BaseException:
            self.close()
            raise

    def read(self, name: str) -> bytes:
        """See `Archive.read`."""
        if name not in self._stored:
            raise ValueError(f"{self.path} holds no member {name!r}")
        return _itself(read_zip_member(self.path, self._file(), self._stored[name]), name, self.path)

    def _size(self, name: str) -> int:
        return self._file().getinfo(self._stored[name]).file_size

    def _crc(self, name: str) -> int:
        return self._file().getinfo(self._stored[name]).CRC

    def checksums(self) -> list[tuple[str, int, int]]:
        """See `Archive.checksums`."""
        members = self._file().infolist()
        return sorted((info.filename, info.CRC, info.file_size) for info in members if is_image_name(info.filename))

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

    def _size(self, name: str) -> int:
        return os.stat(self.path / self._stored[name]).st_size

    def _crc(self, name: str) -> int:
        return zlib.crc32(self.read(name))


def _itself(data: bytes, name: str, path: Path) -> bytes:
    """The bytes of a member, unless they are a pointer to it or a page about it."""
    what = stand_in(data)
    if what is not None:
        raise ValueError(f"{name!r} in {path} is {what}")
    return data


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a ZIP file for reading, with errors that say what is wrong with it.

    Raises ValueError if it is no ZIP, cut off, or lacks members that its end announces, OSError if it cannot be opened.
    """
    refuse_stand_in(path)
    with open_regular(path) as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        problem = f"{path} is a damaged or truncated ZIP: copy or make it again"
    elif start == b"":
        raise ValueError(f"{path} is empty: copy or make it again")
    else:
        problem = f"{path} is not a ZIP file; give a ZIP or a folder of images"
    with damage_means(problem):
        archive = zipfile.ZipFile(path)
        try:
            _check_count(archive)
        except BaseException:
            archive.close()
            raise
    return archive


def _check_count(archive: zipfile.ZipFile) -> None:
    """BadZipFile unless the directory has as many members as the end of the file says, which `zipfile` does not ask.

    One flipped bit in the directory can make a member's comment swallow all that follow. macOS writes no ZIP64 record:
    there the number is one modulo 65,536, and places are modulo 4 GiB.
    """
    assert archive.fp is not None
    end = -_END_BYTES - len(archive.comment)
    archive.fp.seek(end, os.SEEK_END)
    record = archive.fp.read(_END_BYTES)
    if not record.startswith(b"PK\5\6"):
        raise zipfile.BadZipFile("other bytes follow its end")
    announced, modulo = int.from_bytes(record[10:12], "little"), _COUNTED_MODULO
    archive.fp.seek(max(archive.start_dir, archive.fp.tell() - _END_BYTES - _END64_BYTES))
    record64 = archive.fp.read(_END64_BYTES)
    if record64.startswith(b"PK\6\6"):
        announced, modulo = int.from_bytes(record64[32:40], "little"), 1 << 64
    if announced != len(archive.filelist) % modulo:
        raise zipfile.BadZipFile(f"{announced} members are announced, {len(archive.filelist)} are listed")
    if modulo == _COUNTED_MODULO:
        _unwrap_places(archive, int.from_bytes(record[16:20], "little"))


def _unwrap_places(archive: zipfile.ZipFile, directory: int) -> None:
    """Mend the places of members in a ZIP of 4 GiB or more without ZIP64, whose directory is announced at `directory`.

    `zipfile` takes the bytes before the announced place for something in front of the ZIP. Members are listed in the
    order in which they lie, so every step back is another 4 GiB. What is read there is checked as always.
    """
    shift = archive.start_dir - directory
    if shift <= 0 or shift % _PLACED_MODULO:
        return
    before = wraps = 0
    for info in archive.filelist:
        place = info.header_offset - shift
        wraps += place < before
        before = place
        info.header_offset = place + wraps * _PLACED_MODULO


def read_zip_member(path: Path, file: zipfile.ZipFile, name: str) -> bytes:
    """All bytes of one member of the open ZIP `file`, its CRC-32 checked.

    Raises ValueError, naming `path` and the member, if it is absurdly large or its bytes are damaged, OSError if the
    disk fails.
    """
    with damage_means(_damaged_member(path, name)):
        info = file.getinfo(name)
    check_zip_member(path, file, info)
    with damage_means(_damaged_member(path, name)), file.open(info) as stream:
        return stream.read(info.file_size + 1)  # not all there is: `zipfile` unpacks it before it looks at the size


def _damaged_member(path: Path, name: str) -> str:
    return f"{name!r} in {path} is damaged: copy or make the ZIP again"


def _check_local_header(path: Path, file: zipfile.ZipFile, name: str) -> None:
    """ValueError if what lies before the bytes of a member does not have the name that the directory gives it."""
    with damage_means(_damaged_member(path, name)):
        file.open(name).close()


@contextmanager
def damage_means(message: str) -> Iterator[None]:
    """Turn what `zipfile` raises on damaged bytes into a ValueError; a disk's own errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL is a seek to a position that only damage can ask for
            raise
        raise ValueError(f"{message} ({error})") from error
    except _ZIP_DAMAGE as error:
        raise ValueError(f"{message} ({str(error)[:_MAX_REASON]})") from error


def check_zip(path: Path, file: zipfile.ZipFile, max_bytes: int | None = MAX_MEMBER_BYTES) -> list[str]:
    """The names of all members, in order, each checked by `check_zip_member`.

    ValueError if a name comes twice, or if members overlap.
    """
    names: dict[str, None] = {}
    for info in file.infolist():
        check_zip_member(path, file, info, max_bytes)
        if info.filename in names:
            raise ValueError(f"{path} holds two members named {info.filename!r}; write the ZIP again")
        names[info.filename] = None
    _check_no_overlap(path, file)
    return list(names)


def _check_no_overlap(path: Path, file: zipfile.ZipFile) -> None:
    """ValueError if members share bytes: so a small file can claim to be one that fills every disk."""
    end, last = 0, ""
    for info in sorted(file.infolist(), key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise ValueError(f"{last!r} and {info.filename!r} in {path} share bytes: the ZIP is damaged or hostile")
        end, last = info.header_offset + _LOCAL_BYTES + info.compress_size, info.filename


def check_zip_member(
    path: Path, file: zipfile.ZipFile, info: zipfile.ZipInfo, max_bytes: int | None = MAX_MEMBER_BYTES
) -> None:
    """Refuse a member that no honest image ZIP has; see `open_archive`. max_bytes None: for what is read in pieces."""
    name = info.filename
    check_member_name(path, name)
    if info.flag_bits & 0x1:
        raise ValueError(f"{name!r} in {path} is encrypted; write the ZIP without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name!r} in {path} is compressed by another method than deflate; write the ZIP again")
    if info.header_offset + info.compress_size > file.start_dir:
        raise ValueError(
            f"{name!r} in {path} claims {info.compress_size} bytes, which are not there: the ZIP is damaged or hostile"
        )
    stored = info.compress_type == zipfile.ZIP_STORED
    possible = info.compress_size * (1 if stored else _MAX_EXPANSION)
    if name.lower().endswith(".json"):
        max_bytes = _MAX_JSON_BYTES + file.start_dir
    if info.file_size > (possible if max_bytes is None else min(possible, max_bytes)):
        raise ValueError(
            f"{name!r} in {path} claims {info.file_size} bytes in {info.compress_size} compressed ones: "
            "no image is like that, the ZIP is damaged or hostile"
        )


def check_member_name(path: Path, name: str) -> None:
    """Refuse a member name that is empty, absolute, or climbs out of the folder it is unpacked to, on any system.

    Windows takes `C:x` for a place on another drive, and `.. ` or `...` for `..`. Names of files that are no text,
    which Python shows as lone surrogates, no ZIP can hold. The characters of junk are nobody's concern: macOS ends the
    name of a folder's icon with a carriage return.
    """
    if len(name) > _MAX_NAME:
        raise ValueError(f"{path} holds a member with a name of {len(name)} characters; write the ZIP again without it")
    parts = name.replace("\\", "/").split("/")
    drive = parts[0][1:2] == ":"
    climbs = any(part.strip(". ") == "" and part not in ("", ".") for part in parts)
    odd = (
        not name.isprintable()
        and any(ord(char) < 32 or 0xD800 <= ord(char) < 0xE000 for char in name)
        and not is_junk(clean_name(name))
    )
    if name == "" or parts[0] == "" or drive or climbs or odd:
        raise ValueError(f"{path} holds a member with the unsafe name {name!r}; write the ZIP again without it")


def is_image_name(name: str) -> bool:
    """Whether a member name, as it is stored, is that of an image or `.npy` array."""
    cleaned = clean_name(name)
    return has_image_suffix(cleaned) and not is_junk(cleaned) and not name.endswith(("/", "\\"))


def _true_name(info: zipfile.ZipInfo) -> str:
    """The member's name; macOS writes UTF-8 without saying so, which `zipfile` then takes for the DOS code page."""
    name = info.filename
    if not name.isascii() and not info.flag_bits & 0x800:
        with suppress(UnicodeError):
            return name.encode("cp437").decode("utf-8")
    return name


def count_classes(labels: Iterable[Label]) -> int:
    """The largest class index + 1; 0 without labels, or for vectors."""
    return 1 + max((label for label in labels if isinstance(label, int)), default=-1)


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


def _parse_labels(content: dict[str, Any], where: str, root: str, names: Sequence[str]) -> dict[str, Label] | None:
    """The pairs of `{"labels": [[name, label], ...]}`, checked for shape and kind; None for null.

    root: the folder that everything lies in, which the names may begin with or not. names: of the images.
    """
    pairs = content["labels"]
    if pairs is None:
        return None
    if not isinstance(pairs, list):
        raise ValueError(f'"labels" in {where} is a {type(pairs).__name__}; expected a list or null')
    image_of = _name_finder(root, names)
    labels: dict[str, Label] = {}
    for index, pair in enumerate(pairs):
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ValueError(f"entry {index} of the labels in {where} is not [name, label]: {str(pair)[:80]}")
        if len(pair[0]) > _MAX_NAME:
            raise ValueError(f"entry {index} of the labels in {where} has a name of {len(pair[0])} characters")
        name = image_of(pair[0])
        if name in labels:
            raise ValueError(f"{where} has two labels for {name!r}")
        labels[name] = _parse_label(pair[1], name, where)
    _check_same_kind(labels, where)
    return labels


def _name_finder(root: str, names: Sequence[str]) -> Callable[[str], str]:
    """A function from a name in `dataset.json` to that of the image it means; other names come back clean."""
    known = frozenset(names)
    by_form: dict[str, str] = {}

    def find(name: str) -> str:
        if name in known:
            return name
        name = clean_name(name)  # some data sets were packed on Windows
        for meant in (root + name, name):
            if meant in known:
                return meant
        if not by_form:
            by_form.update(_by_form(names))
        forms = (unicodedata.normalize("NFC", meant) for meant in (root + name, name))
        return next((by_form[form] for form in forms if form in by_form), name)

    return find


def _by_form(names: Sequence[str]) -> dict[str, str]:
    """Names by their composed Unicode form, where only one has it: macOS takes letters and their accents apart."""
    forms = [unicodedata.normalize("NFC", name) for name in names]
    counts = Counter(forms)
    return {form: name for form, name in zip(forms, names, strict=True) if counts[form] == 1}


def _parse_label(value: object, name: str, where: str) -> Label:
    """A class index or a vector of finite floats."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
        return value
    if isinstance(value, list) and value and all(_is_finite(x) for x in value):
        return [float(x) for x in value]
    raise ValueError(
        f"the label of {name!r} in {where} is {str(value)[:80]}; "
        "expected a class index (0 or more) or a vector of finite numbers"
    )


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # False for NaN too


def _check_same_kind(labels: dict[str, Label], where: str) -> None:
    """All labels are class indices, or all are vectors of one length."""
    first: tuple[str, int | None] | None = None
    for name, label in labels.items():
        length = len(label) if isinstance(label, list) else None
        first = (name, length) if first is None else first
        if length != first[1]:
            kinds = ["a class index" if n is None else f"a vector of {n}" for n in (first[1], length)]
            raise ValueError(f"{where} mixes labels: {first[0]!r} has {kinds[0]}, {name!r} {kinds[1]}")
