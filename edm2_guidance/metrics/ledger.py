"""The ledger: one JSON line per result, with everything needed to say what it may be compared with."""

import codecs
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dnnlib.atomic import check_destination
from dnnlib.errors import naming
from dnnlib.plain_json import parse_json
from dnnlib.regular import open_regular
from dnnlib.stand_ins import refuse_stand_in
from edm2_guidance.recipe.stored import upgraded
from edm2_guidance.work.lease import Lease

SCHEMA = 2  # 1 had recipes of format 1; both are read
MAX_LINE_BYTES = 1 << 20  # the longest have some 5 kB
#: Or null, or left out.
_OBJECTS = ("images", "detector", "reference", "recipe", "environment", "row", "search", "interval")
_TEXTS = ("name", "time", "note", "recipe_hash")  # likewise
_CONFLICT_MARKS = (b"<<<<<<< ", b"||||||| ", b"=======", b">>>>>>> ")
_TO_UTF8 = "save it as UTF-8, for example by iconv --from-code=UTF-16 --to-code=UTF-8"
STANDARD_NUM_IMAGES = 50000  # what published scores are made of; other counts are named beside the metric


def result_name(metric: str, num_images: int | None) -> str:
    """The metric's name, with the number of images unless it is the 50,000 of published scores: fid@5000."""
    if num_images == STANDARD_NUM_IMAGES:
        return metric
    return f"{metric}@{'unknown' if num_images is None else num_images}"


def append(path: str | Path, record: Mapping[str, Any]) -> None:
    """Appends one record as one line, on disk when this returns; makes folders as needed.

    One process after the other, under a lease beside the ledger: not every file system that machines share appends in
    one step. ValueError: `read` would refuse the record. OSError: the file cannot be written; then it is as it was.
    """
    try:
        line = checked_line(record)  # one that cannot be read back would spoil all the others
    except ValueError as error:
        raise ValueError(f"a ledger could not be read with this record in it, which {error}") from error
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with Lease(path.parent, path.name), naming(path):
        _append(path, line)


def checked_line(record: Mapping[str, Any]) -> bytes:
    """A record as its line in the ledger. ValueError, whose text continues "which ...", for what `read` refuses."""
    try:
        line = json.dumps(record, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"is no plain finite JSON data: {error}") from error
    _record(line)
    return line + b"\n"


def _append(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if not _ends_with_newline(descriptor):  # somebody's editor left it so
            data = b"\n" + data
        os.lseek(descriptor, size, os.SEEK_SET)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        except BaseException:
            os.ftruncate(descriptor, size)  # half a line would spoil the others
            raise
    finally:
        os.close(descriptor)


def check_writable(path: str | Path) -> None:
    """Makes sure, without making anything, that a result of hours can be written down: OSError if it cannot.

    ValueError: it is no plain file, but a pipe or a device, or UTF-16 text, which lines of UTF-8 would spoil.
    """
    check_destination(path)
    if Path(path).exists():
        with open_regular(path) as file:
            if _is_utf16(file.read(2)):
                raise ValueError(f"{path} is UTF-16 text: {_TO_UTF8}")
        with open(path, "ab"):
            return


def _ends_with_newline(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    if size == 0:
        return True
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1) == b"\n"


def read(path: str | Path) -> list[dict[str, Any]]:
    """All records in the order they were written.

    FileNotFoundError: no ledger there. ValueError naming the file and the line that is not a record of a known schema.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f"there is no ledger {path} yet: reproduce.py run, calculate_metrics.py calc and gen start one, "
            "or name another file"
        )
    refuse_stand_in(path)
    with open_regular(path) as file:
        return list(_records(path, file.read().split(b"\n")))


def _records(path: str | Path, lines: Sequence[bytes], before: int = 0) -> Iterator[dict[str, Any]]:
    """The records of these lines, which come after `before` others."""
    for number, line in enumerate(lines, start=before + 1):
        if line.removeprefix(codecs.BOM_UTF8).strip() == b"":
            continue
        if line.startswith(codecs.BOM_UTF8):
            warnings.warn(
                f"{path}, line {number}, begins with a byte-order mark, which is skipped here; save the file as UTF-8 "
                "without it, or other programs may stumble",
                RuntimeWarning,
                stacklevel=3,
            )
        try:
            yield _record(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, {_diagnosis(line, str(error))}") from error


class Index:
    """The records of a ledger by keys, for a process that asks often: the file is read once, then as far as it grew.

    keys_of: the keys under which a record is found. again: records that were there when this was made are not found,
    so that what they say is computed once more.
    """

    def __init__(self, path: str | Path, keys_of: Callable[[Mapping[str, Any]], Iterable[str]], *, again: bool = False):
        self.path = Path(path)
        self._keys_of = keys_of
        self._forget()
        self._hidden = 0
        if again:
            self._refresh()
            self._hidden = self._number

    def find(self, key: str) -> list[Mapping[str, Any]]:
        """The records of this key, older ones first. ValueError as `read`."""
        self._refresh()
        return [record for number, record in self._by_key.get(key, ()) if number >= self._hidden]

    def _forget(self) -> None:
        self._by_key: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
        self._number = self._lines = self._size = 0
        self._inode: int | None = None

    def _refresh(self) -> None:
        if not self.path.exists():
            with suppress(OSError):
                os.listdir(self.path.parent)  # makes NFS ask anew
            return
        if self._inode is None:
            refuse_stand_in(self.path)
        with open_regular(self.path) as file:
            there = os.fstat(file.fileno())
            if there.st_ino != self._inode or there.st_size < self._size:  # it is another file, or was edited
                self._forget()
            is_first, self._inode = self._inode is None, there.st_ino
            if there.st_size == self._size:
                return
            file.seek(self._size)
            data = file.read()
        self._add(data, whole=is_first)

    def _add(self, data: bytes, *, whole: bool) -> None:
        """Take over what was appended; unless it is the whole file, without a line that somebody is just writing."""
        if not whole:
            data = data[: data.rfind(b"\n") + 1]
        lines = data.split(b"\n")
        for record in _records(self.path, lines, self._lines):
            for key in self._keys_of(record):
                self._by_key.setdefault(key, []).append((self._number, record))
            self._number += 1
        self._lines += len(lines) - 1
        self._size += len(data)


def _diagnosis(line: bytes, error: str) -> str:
    """What is wrong with a line that is no record, and what to do so that nothing good is lost."""
    if _is_utf16(line):
        return f"is UTF-16 text, as PowerShell's > writes it: {_TO_UTF8}"
    if line.startswith(_CONFLICT_MARKS):
        return (
            "is a conflict mark of git: the lines between the marks are results of both sides; take out the marks "
            "(<<<<<<<, |||||||, =======, >>>>>>>) alone"
        )
    return f"{error}: mend that line, or move it to another file"


def _is_utf16(start: bytes) -> bool:
    return start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in start[:2]


def _record(line: bytes) -> dict[str, Any]:
    """One line's record, so far checked that readers may rely on its types; ValueError says what it is instead."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"has {len(line)} bytes, more than the {MAX_LINE_BYTES} allowed")
    try:
        record = parse_json(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8 text") from error
    if not isinstance(record, dict) or "metric" not in record or "value" not in record:
        raise ValueError("is not a result: it lacks 'metric' or 'value'")
    schema = record.get("schema")
    if schema not in (1, SCHEMA):
        newer = isinstance(schema, int) and schema > SCHEMA
        by = " (a newer version of this program wrote it: read the ledger with that one)" if newer else ""
        raise ValueError(f"has schema {_short(schema)}, this version reads {SCHEMA}{by}")
    if not _is_number(record["value"]):
        raise ValueError(f"has {_short(record['value'])} for 'value', not a finite number")
    for key in _OBJECTS:
        if not isinstance(record.get(key), dict | None):
            raise ValueError(f"has {_short(record[key])} for {key!r}, not an object")
    for key in ("metric", *_TEXTS):
        if not isinstance(record.get(key), str if key == "metric" else str | None):
            raise ValueError(f"has {_short(record[key])} for {key!r}, not a text")
    if not (record.get("num_images") is None or type(record["num_images"]) is int):
        raise ValueError(f"has {_short(record['num_images'])} for 'num_images', not an integer")
    search = record.get("search")
    if search and not (isinstance(search.get("name"), str) and _is_point(search.get("point"))):
        raise ValueError("has a 'search' without a name and a point of numbers")
    interval = record.get("interval")
    if interval and not all(_is_number(interval.get(end)) for end in ("low", "high", "error")):
        raise ValueError("has an 'interval' without ends and error")
    if not isinstance(record.get("flags"), list | None):
        raise ValueError(f"has {_short(record['flags'])} for 'flags', not a list")
    return upgraded(record)


def _short(value: object) -> str:
    """A value as JSON, in few characters."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_point(point: object) -> bool:
    return isinstance(point, dict) and all(map(_is_number, point.values()))


def now() -> str:
    """The time in UTC to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
