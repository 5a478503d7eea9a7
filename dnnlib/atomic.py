"""Files that are whole or not there: written beside their place, synced, renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dnnlib.errors import naming


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to; when the block ends well, it becomes `path` in one step.

    The temporary file stands in the same folder (made if missing) and keeps the suffix of `path`, so writers
    that look at it (`numpy.savez`) behave. On success it is synced to disk and renamed over `path`, with the mode that
    `open` gives a new file there; on any error or interrupt it is removed and `path` stays as it was. A symbolic link
    is followed, not replaced.

    Raises FileNotFoundError if the block ends without having written the file, IsADirectoryError if `path` is
    a folder, and the operating system's OSError, of `path`, if the folder cannot be written to.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file in it")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem[:60]}.{os.urandom(6).hex()}.tmp{target.suffix}")
    try:
        with naming(path, temporary):
            yield temporary
            if not temporary.exists():
                raise FileNotFoundError(f"nothing was written for {path}: {temporary} does not exist")
            _open_to_others(temporary)
            replace_synced(temporary, target)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _open_to_others(file: Path) -> None:
    """Some writers (safetensors) make files that only their owner can read: give such a file the mode of a new one."""
    if file.stat().st_mode & 0o077:
        return
    probe = file.with_name(f".{os.urandom(6).hex()}.tmp")
    with probe.open("xb") as opened:
        mode = os.fstat(opened.fileno()).st_mode & 0o777
    probe.unlink()
    file.chmod(mode)


def replace_synced(temporary: Path, target: Path) -> None:
    """Rename the finished file `temporary` to `target`, with content and name on disk before it returns."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)
    with suppress(OSError):  # not every system can sync a folder; the rename is atomic anyway
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def check_destination(path: str | os.PathLike[str]) -> None:
    """Check, without making anything, that a file of this name could be written; for use before long work.

    Raises IsADirectoryError if it is a folder; else as `check_place`.
    """
    if os.path.isdir(path) or os.fspath(path).endswith(("/", os.sep)):
        raise IsADirectoryError(f"{path} is a folder; give the name of a file in it")
    check_place(path)


def check_place(path: str | os.PathLike[str]) -> None:
    """The same of a file or folder of this name, whatever is there now.

    Raises NotADirectoryError if it would lie in a file, PermissionError if its folder, or the nearest one that exists,
    is not writable.
    """
    folder = next(parent for parent in Path(os.path.realpath(path)).parents if parent.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, so {path} cannot be made; give another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is not writable, so {path} cannot be made; give another place")
