"""Reading plain tar files that anybody may have made: what no honest one of images has is refused.

Python's `tarfile` ends at a damaged header as if the file ended there, and takes the memory that an extended header
announces. Here a file that is not whole is refused, and what is read is bounded. Torch-free.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from dnnlib.regular import open_regular
from dnnlib.stand_ins import refuse_stand_in
from edm2_guidance.images.members import MAX_NAME, clean_name, is_junk
from edm2_guidance.images.unzip import MAX_MEMBER_BYTES, check_member_name

BLOCK = 512
_ZEROS = bytes(BLOCK)
_MAX_EXTENDED = 1 << 20  # bytes of an extended header: a name, and what a file system keeps beside a file
_PIECE = 1 << 20

_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\x04\x22\x4d\x18": "unlz4",
}
_NAME = re.compile(r"\.(tar(\.[a-z0-9]+)?|tgz|txz|tbz2?)$", re.ASCII | re.IGNORECASE)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
_SPARSE = "is a sparse file, of which not all bytes are there; write the tar without --sparse"
_ODD_KINDS = {
    tarfile.CHRTYPE: "is a device",
    tarfile.BLKTYPE: "is a device",
    tarfile.FIFOTYPE: "is a pipe (FIFO)",
    tarfile.GNUTYPE_SPARSE: _SPARSE,
}
_NUMBER = rb"[0-7]{6}[0-7 \0][ \0]"
#: A plain file's header as most programs write it: name, size, checksum, prefix of the name.
_USUAL = re.compile(
    rb"(.{100})" + 3 * _NUMBER + rb"([0-7]{11})[ \0][0-7]{11}[ \0]([0-7]{6})[ \0]{2}0.{172}"
    rb"(?:" + 2 * _NUMBER + rb"|\0{16})(.{155}).{12}",
    re.DOTALL,
)


@dataclass(slots=True)
class _Header:
    """What counts of a header. type: one of the letters that `tarfile` names."""

    name: str
    size: int
    type: bytes


class TarMember(NamedTuple):
    """A file in a tar: its name as stored, where its bytes begin, and how many there are."""

    name: str
    start: int
    size: int


def is_tar(path: Path) -> bool:
    """Whether a file is a tar, also a compressed one, by its first bytes or its name. OSError if it cannot be read."""
    with open_regular(path) as file:
        start = file.read(BLOCK)
    return start[257:262] == b"ustar" or (not start.startswith(b"PK") and _NAME.search(path.name) is not None)


def list_members(path: Path) -> tuple[list[TarMember], list[str]]:
    """The files of a tar in the order in which they lie, and the names of its folders.

    Raises ValueError, naming tar and member: it is compressed, no tar, cut off, damaged or goes on after its end; or a
    member has an unsafe name, is a link, device, pipe or sparse file, or is absurdly large. Of junk only the name is
    looked at. OSError if the disk fails.
    """
    refuse_stand_in(path)
    files, folders = [], []
    with open_regular(path) as file:
        _refuse_other_files(path, file.read(BLOCK))
        for info, start in _headers(path, file):
            check_member_name(path, info.name)
            if info.type == tarfile.DIRTYPE:
                folders.append(info.name + "/")
            elif not is_junk(clean_name(info.name)):
                _check_file(path, info)
                files.append(TarMember(info.name, start, info.size))
            elif info.type in _FILES:
                files.append(TarMember(info.name, start, info.size))
    return files, folders


def _refuse_other_files(path: Path, start: bytes) -> None:
    program = next((program for magic, program in _COMPRESSED.items() if start.startswith(magic)), None)
    if program is not None:
        raise ValueError(f"{path} is compressed, and only plain tars are read: unpack it first ({program} {path})")
    if start == b"":
        raise ValueError(f"{path} is empty: copy or make it again")


def _headers(path: Path, file: IO[bytes]) -> Iterator[tuple[_Header, int]]:
    """Every member, with the name and size that extended headers before it give, and where its bytes begin."""
    end = os.fstat(file.fileno()).st_size
    position, extended = 0, _Extended()
    while True:
        info = _header(path, file, position)
        if info is None:
            return _check_end(path, file, position)
        extends = info.type in _Extended.KINDS
        if extended.size is not None and not extends:
            info.size = extended.size
        start, size = position + BLOCK, info.size if _has_bytes(info) else 0
        if size < 0 or start + size > end:
            raise ValueError(f"{path} is cut off, or damaged, in {info.name[:MAX_NAME]!r}: copy or make it again")
        if extends:
            extended.read(path, file, info)
        else:
            if extended.said:
                info.name = info.name if extended.name is None else extended.name
                info.type = tarfile.GNUTYPE_SPARSE if extended.sparse else info.type
                extended = _Extended()
            yield info, start
        position = start + -(-size // BLOCK) * BLOCK


def _has_bytes(info: _Header) -> bool:
    """Whether the size of a member is that of bytes which follow; of links and folders it means something else."""
    return info.type not in _WITHOUT_BYTES


def _header(path: Path, file: IO[bytes], position: int) -> _Header | None:
    """The header at a position; None for zeros, with which a tar ends."""
    file.seek(position)
    block = file.read(BLOCK)
    usual = _USUAL.fullmatch(block)
    if usual is not None:
        name, size, checksum, prefix = usual.groups()
        if int(checksum, 8) == sum(block) - sum(block[148:156]) + 8 * ord(" "):
            whole = (prefix, name) if prefix[0] else (name,)
            return _Header("/".join(_decoded(part.partition(b"\0")[0]) for part in whole), int(size, 8), block[156:157])
    return _unusual_header(path, block, position)


def _unusual_header(path: Path, block: bytes, position: int) -> _Header | None:
    """The same of any header, ten times slower."""
    if block == _ZEROS:
        return None
    if len(block) < BLOCK:
        raise ValueError(f"{path} is cut off: it has no mark at its end; copy or make it again")
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, OverflowError) as error:
        what = "is no tar" if position == 0 else f"is damaged at byte {position}"
        raise ValueError(f"{path} {what} ({error}): copy or make it again") from error
    return _Header(info.name, info.size, info.type)


def _check_end(path: Path, file: IO[bytes], position: int) -> None:
    """ValueError if anything but zeros follows the end."""
    file.seek(position)
    while piece := file.read(_PIECE):
        if piece.count(0) < len(piece):
            raise ValueError(
                f"{path} goes on after its end, as tars do that were joined by cat, or damaged: "
                "put its parts into a folder, and give that"
            )


class _Extended:
    """What headers before that of a member say of it: a long name, a large size."""

    KINDS = (
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    )

    def __init__(self) -> None:
        self.name: str | None = None
        self.size: int | None = None
        self.sparse = False
        self.said = False

    def read(self, path: Path, file: IO[bytes], info: _Header) -> None:
        """Take in the bytes that follow a header of one of the `KINDS`."""
        self.said = True
        if info.size > _MAX_EXTENDED:
            raise ValueError(f"{path} holds an extended header of {info.size} bytes: no image tar has one")
        data = file.read(info.size)
        if info.type == tarfile.GNUTYPE_LONGNAME:
            self.name = _text(data.partition(b"\0")[0])
        elif info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            try:
                self._take(dict(_records(data)))
            except ValueError as error:
                raise ValueError(f"{path} holds a damaged extended header: copy or make it again") from error

    def _take(self, records: dict[bytes, bytes]) -> None:
        if b"path" in records:
            self.name = _text(records[b"path"])
        if b"size" in records:
            self.size = int(records[b"size"])
        self.sparse = self.sparse or any(key.startswith(b"GNU.sparse") for key in records)


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records `LENGTH KEY=VALUE\\n` of an extended header. ValueError if it holds anything else."""
    position = 0
    while position < len(data):
        digits = data[position : position + 10].partition(b" ")[0]
        record = data[position : position + int(digits)]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not (digits.isdigit() and equals and record.endswith(b"\n") and len(record) == int(digits)):
            raise ValueError("it is no record")
        yield key, value
        position += len(record)


def _text(name: bytes) -> str:
    return _decoded(name).rstrip("/")


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


#: Of members of these types, `tarfile` reads none.
_WITHOUT_BYTES = frozenset(tarfile.SUPPORTED_TYPES) - {*_FILES, *_Extended.KINDS, tarfile.GNUTYPE_SPARSE}


def _check_file(path: Path, info: _Header) -> None:
    """ValueError for a member that is no plain file of a sane size."""
    if info.type in _FILES and info.size <= MAX_MEMBER_BYTES:
        return
    where = f"{info.name!r} in {path}"
    if info.type in _LINKS:
        raise ValueError(f"{where} is a link; write the tar with --dereference and --hard-dereference")
    if info.type not in _FILES:
        raise ValueError(f"{where} {_ODD_KINDS.get(info.type, 'is of an unknown kind')}; write the tar without it")
    raise ValueError(f"{where} has {info.size} bytes: no image is like that, the tar is damaged or hostile")
