"""Reading files that anybody may have put there: plain files only, so that nothing waits for ever or never ends."""

import hashlib
import os
import stat
from io import BufferedReader

_KINDS = {
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file for reading bytes, through symbolic links, if it is a plain one.

    Raises ValueError, saying what it is, for a pipe, device, socket or folder, none of which is waited for or read;
    OSError as `open` does.
    """
    _check_kind(path, os.stat(path).st_mode)  # before it is opened: that alone can make a device act
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        _check_kind(path, os.fstat(descriptor).st_mode)  # it may have been replaced meanwhile
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """All bytes of a plain file; ValueError if there are more than `limit`, and as `open_regular`."""
    with open_regular(path) as file:
        size = min(os.fstat(file.fileno()).st_size, limit)
        data = file.read(size + 1)
        if len(data) > size:  # more than it said: it is being written, or one of /proc, or too large
            data += file.read(limit + 1 - len(data))
    if len(data) > limit:
        raise ValueError(f"{os.fspath(path)} has more than the {limit} bytes allowed")
    return data


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes as 64 lower-case hex digits. Reads in pieces.

    OSError if unreadable; ValueError if it is no plain file.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_kind(path: str | os.PathLike[str], mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no plain file")
        raise ValueError(f"{os.fspath(path)} is {kind}, not a file: give a file in its place")
