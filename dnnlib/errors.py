"""Errors that every package raises, and blocks that make others into such as name what is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class DownloadError(OSError):
    """A file could not be fetched. The message says from where, why, and what to do instead."""


class Refused(ValueError):
    """Work that may not begin as it was asked for: its place belongs to another run, or to another process."""


@contextmanager
def naming(path: str | os.PathLike[str], temporary: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Inside, an OSError that names no file, as of a write to a full disk, is made to name `path`.

    So is one that names `temporary`, which stands for `path` until it is whole, or a file in it.
    """
    try:
        yield
    except OSError as error:
        of_temporary = temporary is not None and str(error.filename).startswith(os.fspath(temporary))
        if error.errno is not None and (error.filename is None or of_temporary):
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
