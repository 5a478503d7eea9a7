"""Reading ZIP files that anybody may have made: what no honest one of images or arrays has is refused.

Opening compares the directory with the end of the file; a member's name, sizes and kind are checked before a byte of it
is read, and its bytes by their CRC. Torch-free.
"""

import errno
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dnnlib.regular import open_regular
from dnnlib.stand_ins import refuse_stand_in
from edm2_guidance.images.members import MAX_NAME, clean_name, is_junk

#: No member of an image set is larger than this; what claims to be is not read.
MAX_MEMBER_BYTES = 1 << 28

#: The same for JSON beyond the size of the whole ZIP: as objects it takes up to 35 times as much.
_MAX_JSON_BYTES = 1 << 24

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


def read_zip_member(path: Path, file: zipfile.ZipFile, name: str, max_bytes: int | None = MAX_MEMBER_BYTES) -> bytes:
    """All bytes of one member of the open ZIP `file`, its CRC-32 checked. max_bytes: as of `check_zip_member`.

    Raises ValueError, naming `path` and the member, if it is absurdly large or its bytes are damaged, OSError if the
    disk fails.
    """
    damaged = _damaged_member(path, name)
    with damage_means(damaged):
        info = file.getinfo(name)
    check_zip_member(path, file, info, max_bytes)
    with damage_means(damaged), file.open(info) as stream:
        return stream.read(info.file_size + 1)  # not all there is: `zipfile` unpacks it before it looks at the size


def _damaged_member(path: Path, name: str) -> str:
    return f"{name!r} in {path} is damaged: copy or make the ZIP again"


def check_local_header(path: Path, file: zipfile.ZipFile, name: str) -> None:
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
    """Refuse a member that no honest image ZIP has; see `images.archive.open_archive`.

    max_bytes None: for what is read in pieces, or is no image.
    """
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
    if len(name) > MAX_NAME:
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
