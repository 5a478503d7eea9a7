"""Reading pickles without running anything: networks of the EDM2 format, and statistics.

Python's unpickler calls what a file tells it to call, and EDM2's files carry source text to be executed on top. Here
a file becomes a tree of inert nodes (`pickle_tree`), and the few names that such files need get a meaning of our own
(`pickle_rules`):

- a persistent object becomes a `PersistentRecord`, a torch container a `ModuleRecord`: data, not objects;
- a tensor becomes a `StoredTensor`, a checked window on the bytes of the file. Its storage is a pickle stream in the
  pickle, read by the same reader with a list of names of its own: `torch.load` is never called;
- numpy arrays and scalars of plain numbers are built from their bytes. Object and structured types are refused;
- dictionaries of all kinds become dict.

Every other name is refused. Loops, nesting, repetition and declared sizes are bounded too, so that whoever walks
through the result may do so carelessly. What the records say is for others to check: `training.network_io` builds
networks from them.
"""

import mmap
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from dnnlib.stand_ins import stand_in
from torch_utils.pickle_records import ModuleRecord, PersistentRecord, StoredTensor
from torch_utils.pickle_rules import (
    PERSISTENT_OBJECT,
    RULES,
    STORAGE_BYTES,
    Evaluator,
    only_names_in,
    read_storage_stream,
    sha256_of_text,
)
from torch_utils.pickle_tree import Budget, Call, DamagedPickleError, GlobalName, UnsafePickleError, read_tree

__all__ = [
    "DamagedPickleError",
    "GlobalName",
    "ModuleRecord",
    "OtherFormatError",
    "PersistentRecord",
    "PickleScan",
    "ScannedClass",
    "StoredTensor",
    "UnsafePickleError",
    "load",
    "loads",
    "scan",
]


class OtherFormatError(DamagedPickleError):
    """A file that is whole, perhaps, but no pickle at all."""


MAX_FILE_BYTES = 16 * 2**30  # the largest published network would have 6 GiB in float32


def load(file: str | os.PathLike[str] | BinaryIO) -> Any:
    """Content of a pickle file: plain data, numpy arrays, and the records of this module.

    file: path, or binary file object (read to its end). A file given by path is mapped into memory; its tensors stay
    there until `StoredTensor.to_torch`. Byte strings come as read-only memoryview.

    Raises UnsafePickleError (a ValueError), saying what was found and where, for anything but data of the known
    kinds, and OSError if the file cannot be read.
    """
    return loads(bytes_of(file))


def check_is_pickle(file: str | os.PathLike[str]) -> None:
    """OtherFormatError, saying what it is, if a file is of another kind. OSError if it cannot be read."""
    _refuse_other_formats(bytes_of(file))


def loads(data: bytes | memoryview) -> Any:
    """As `load`, from the bytes of a pickle."""
    view = memoryview(data).toreadonly().cast("B")
    _refuse_other_formats(view)
    budget = Budget()
    root, end = read_tree(view, 0, budget, on_global=only_names_in(RULES))
    _check_end(view, end)
    return Evaluator(len(view), budget).evaluate(root)


def _check_end(view: memoryview, end: int) -> None:
    if end != len(view):
        raise UnsafePickleError(f"{len(view) - end} bytes follow the end of the pickle at byte {end}")


# ----------------------------------------------------------------------------
# Looking at files that may be refused.


@dataclass(frozen=True)
class ScannedClass:
    """A class that a file brings along as source text, and how many objects of it there are."""

    class_name: str
    source_sha256: str
    source_characters: int
    count: int


@dataclass(frozen=True)
class PickleScan:
    """What a pickle refers to.

    names: all names that it would import, also inside tensors, in order of appearance. classes: those it brings
    along as source text. refusal: why `load` refuses the file, None if it does not. content: what `load` returns,
    None if it refuses.
    """

    names: tuple[str, ...]
    classes: tuple[ScannedClass, ...]
    refusal: str | None
    content: Any = field(repr=False)


def scan(file: str | os.PathLike[str] | BinaryIO) -> PickleScan:
    """Names and embedded classes of any pickle, also of one that `load` refuses, as far as it can be followed.

    Like `load` it imports and executes nothing. Raises OSError if the file cannot be read, and UnsafePickleError
    only where there is nothing to look at: an empty file or no plain file.
    """
    view = bytes_of(file).toreadonly()
    names = _Names()
    calls: list[Call] = []
    content = refusal = None
    try:
        content = _content(view, names, calls.append)
    except UnsafePickleError as error:
        refusal = error
    budget = Budget()
    for call in calls:
        if str(call.function) == STORAGE_BYTES and isinstance(_only_argument(call), memoryview):
            with suppress(UnsafePickleError):
                read_storage_stream(_only_argument(call), budget, names.note)
    return PickleScan(tuple(names.seen), _embedded_classes(calls), None if refusal is None else str(refusal), content)


class _Names:
    """Takes down all names of a file, and the refusal of the first that is not allowed, so that reading goes on."""

    def __init__(self) -> None:
        self.seen: dict[str, None] = {}
        self.refusal: UnsafePickleError | None = None
        self._check = only_names_in(RULES)

    def note(self, found: GlobalName) -> None:
        self.seen.setdefault(str(found))

    def check(self, found: GlobalName) -> None:
        self.note(found)
        try:
            self._check(found)
        except UnsafePickleError as error:
            self.refusal = self.refusal or error


def _content(view: memoryview, names: _Names, on_call: Callable[[Call], None]) -> Any:
    """As `loads`, but a name that is refused stops the reading only at its end."""
    _refuse_other_formats(view)
    budget = Budget()
    try:
        root, end = read_tree(view, 0, budget, on_global=names.check, on_call=on_call)
    except UnsafePickleError as error:
        raise names.refusal or error from None
    if names.refusal is not None:
        raise names.refusal
    _check_end(view, end)
    return Evaluator(len(view), budget).evaluate(root)


def _embedded_classes(calls: list[Call]) -> tuple[ScannedClass, ...]:
    counts: dict[tuple[str, str], int] = {}
    for call in calls:
        if str(call.function) != PERSISTENT_OBJECT:
            continue
        meta = _only_argument(call)
        meta = meta.items if isinstance(meta, Call) else meta  # the description may be an EasyDict
        if isinstance(meta, dict):
            class_name, source = meta.get("class_name"), meta.get("module_src")
            if isinstance(class_name, str) and isinstance(source, str):
                counts[class_name, source] = counts.get((class_name, source), 0) + 1
    hashes = {source: sha256_of_text(source) for _, source in counts}
    return tuple(ScannedClass(name, hashes[source], len(source), n) for (name, source), n in counts.items())


def _only_argument(call: Call) -> Any:
    return call.args[0] if len(call.args) == 1 else None


# ----------------------------------------------------------------------------
# Files.

_TRAINING_STATE = (
    "written by torch.save: a training state, or weights alone. Give the network file that its trainer wrote beside it "
    "(network-snapshot-KIMG-LENGTH.pkl)"
)
# The first that fits: how a file begins, and what must follow soon.
_OTHER_FORMATS = {
    (b"PK\x03\x04", b"/data.pkl"): _TRAINING_STATE,
    (b"PK\x03\x04", b".npy"): "an .npz of arrays: statistics, or images, which calculate_metrics.py reads",
    (b"PK\x03\x04", b".png"): "a ZIP of images, which calculate_metrics.py scores and dataset_tool.py repacks",
    (b"PK\x03\x04", b""): "a ZIP archive",
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b""): _TRAINING_STATE,  # torch.save before 1.6
    (b"\x1f\x8b", b""): "compressed by gzip; decompress it first",
    (b"\x93NUMPY", b""): "a numpy .npy file",
    (b"\x89HDF", b""): "an HDF5 file",
}


def _refuse_other_formats(view: memoryview) -> None:
    if len(view) == 0:
        raise DamagedPickleError("the file is empty")
    start = bytes(view[:512])
    fitting = (what for (magic, more), what in _OTHER_FORMATS.items() if start.startswith(magic) and more in start)
    what = stand_in(start) or next(fitting, None)
    if what is not None:
        raise OtherFormatError(f"it is {what}")


def bytes_of(file: str | os.PathLike[str] | BinaryIO) -> memoryview:
    if not isinstance(file, str | os.PathLike):
        data = file.read(MAX_FILE_BYTES + 1)
        _check_size(len(data))
        return memoryview(data)
    with open(file, "rb", opener=_open_without_waiting) as opened:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UnsafePickleError(f"{os.fspath(file)!r} is not a plain file")
        _check_size(status.st_size)
        return memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))


def _check_size(size: int) -> None:
    if size == 0:
        raise DamagedPickleError("the file is empty")
    if size > MAX_FILE_BYTES:
        raise UnsafePickleError(f"the file has {size} bytes: at most {MAX_FILE_BYTES} are read")


def _open_without_waiting(path: str, flags: int) -> int:
    """So that a named pipe is refused instead of waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
