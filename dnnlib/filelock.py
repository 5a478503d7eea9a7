"""One process at a time: an advisory lock on a file, which the operating system drops when its holder dies."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# What filesystems answer that know no locks, and what a read-only folder answers to the lock file itself.
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS, errno.EACCES}


@contextmanager
def exclusive(path: Path, *, waiting: Callable[[], None] | None = None, poll_seconds: float = 0.1) -> Iterator[bool]:
    """Hold the lock file `path` during the block; wait for as long as somebody else holds it.

    Yields True with the lock held, False where the folder cannot carry one (no lock support, read-only): the
    caller must then do without. `waiting` is called once, when the lock turns out to be taken. The lock file
    stays behind, empty: removing it would let a third process lock a new file of the same name while a
    second one, still waiting on the old file, gets that one.
    """
    descriptor = _open(path)
    if descriptor is None:
        yield False
        return
    try:
        yield _acquire(descriptor, waiting, poll_seconds)
    finally:
        os.close(descriptor)  # which also lets the lock go


def _open(path: Path) -> int | None:
    """Open (and make) the lock file; None where that cannot be. Another user's file will do for reading."""
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        try:
            return os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno not in {*_NO_LOCKS_HERE, errno.ENOENT}:
                raise
            if not path.parent.is_dir():  # that is no matter of locks
                raise
    return None


def _acquire(descriptor: int, waiting: Callable[[], None] | None, poll_seconds: float) -> bool:
    """Try until the lock is ours (True) or the filesystem says that it has none (False)."""
    announced = False
    while True:
        try:
            _lock_now(descriptor)
            return True
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno in _NO_LOCKS_HERE:
                return False
            raise
        if waiting is not None and not announced:
            waiting()
            announced = True
        time.sleep(poll_seconds)


if sys.platform == "win32":
    import msvcrt

    def _lock_now(descriptor: int) -> None:
        """Lock or raise BlockingIOError. Windows reports a taken lock as EACCES (EDEADLK in older ones)."""
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked by another process") from error

else:
    import fcntl

    def _lock_now(descriptor: int) -> None:
        """Lock or raise BlockingIOError. `flock`, not `lockf`: it also holds between threads of a process."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
