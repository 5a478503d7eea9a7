"""Small helpers without torch: attribute dictionaries, the cache folder, atomic files and hashes.

`EasyDict` and `make_cache_dir_path` are names that EDM2 network pickles refer to (the first as the class of
the outermost object, the second from the source text of the encoders inside); their names and meaning are
part of that format.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dnnlib.regular import open_regular
from dnnlib.shared_places import check_own


class EasyDict(dict[str, Any]):
    """A `dict` whose string keys can also be read, written and deleted as attributes.

    EDM2 pickles are instances of this class, found under the name `dnnlib.util.EasyDict`.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r}; there are: {', '.join(map(str, self)) or 'none'}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r} to delete") from None


class DownloadError(OSError):
    """A file could not be fetched. The message says from where, why, and what to do instead."""


def make_cache_dir_path(*parts: str) -> str:
    """Path inside the cache folder: `$DNNLIB_CACHE_DIR`, else `~/.cache/dnnlib`. Creates nothing.

    Where there is no home folder (some batch systems), one of this user's in the machine's folder for temporary files
    stands in. PermissionError if the cache lies in a place that all users share and others could have filled it.
    """
    root = os.path.expanduser(os.environ.get("DNNLIB_CACHE_DIR", ""))
    if root == "":
        home = os.path.expanduser("~")
        user = os.getuid() if hasattr(os, "getuid") else "user"
        own = os.path.join(tempfile.gettempdir(), f"dnnlib-cache-{user}")
        root = own if home == "~" else os.path.join(home, ".cache", "dnnlib")
    check_own(root)
    return os.path.join(root, *parts)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to; when the block ends well, it becomes `path` in one step.

    The temporary file stands in the same folder (made if missing) and keeps the suffix of `path`, so writers
    that look at it (`numpy.savez`) behave. On success it is synced to disk and renamed over `path`, with the mode that
    `open` gives a new file there; on any error or interrupt it is removed and `path` stays as it was. A symbolic link
    is followed, not replaced.

    Raises FileNotFoundError if the block ends without having written the file, IsADirectoryError if `path` is
    a folder, and the operating system's OSError if the folder cannot be written to.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file in it")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem[:60]}.{uuid.uuid4().hex[:12]}.tmp{target.suffix}")
    try:
        with naming(path):
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
    probe = file.with_name(f".{uuid.uuid4().hex[:12]}.tmp")
    with probe.open("xb") as opened:
        mode = os.fstat(opened.fileno()).st_mode & 0o777
    probe.unlink()
    file.chmod(mode)


class Refused(ValueError):
    """Work that may not begin as it was asked for: its place belongs to another run, or to another process."""


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Inside, an OSError that names no file, as of a write to a full disk, is made to name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise


@contextmanager
def odd_files_are_value_errors(where: str = "the file") -> Iterator[None]:
    """Inside, whatever a file of anybody makes its readers raise is a ValueError, `where` named; OSError passes.

    Readers refuse what they know to be wrong. This is for what nobody thought of.
    """
    try:
        yield
    except (ValueError, OSError):
        raise
    except MemoryError as error:
        raise ValueError(f"{where} needs more memory than there is") from error
    except Exception as error:
        raise ValueError(f"{where} is odd in a way that no reader knows ({type(error).__name__}: {error})") from error


def check_destination(path: str | os.PathLike[str]) -> None:
    """Check, without making anything, that a file of this name could be written; for use before long work.

    Raises IsADirectoryError if it is a folder, NotADirectoryError if it would lie in a file, PermissionError if its
    folder, or the nearest one that exists, is not writable.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir() or os.fspath(path).endswith(("/", os.sep)):
        raise IsADirectoryError(f"{path} is a folder; give the name of a file in it")
    folder = next(parent for parent in target.parents if parent.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, so {path} cannot be made; give another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is not writable, so {path} cannot be made; give another place")


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


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes as 64 lower-case hex digits. Reads in pieces.

    OSError if unreadable; ValueError if it is no plain file.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def printable(text: str) -> str:
    """One line for a terminal, whatever it quotes: what has no shape is written out, as `\\x1b` or `\\u202e`.

    That are line ends and other control characters, escape sequences among them, those that turn the direction of
    writing, and lone surrogates.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def is_url(source: str | os.PathLike[str]) -> bool:
    """Whether `source` is an http or https URL. Anything else, a Path included, is a name on this machine."""
    if not isinstance(source, str):
        return False
    try:
        parts = urlsplit(source)
    except ValueError:  # e.g. an unbalanced bracket: no URL
        return False
    return parts.scheme.lower() in ("http", "https") and parts.netloc != ""
