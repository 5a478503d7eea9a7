"""Text on its way to a terminal or a log: whatever files, names and errors hold, no control character gets there.

`guard` puts a filter before a stream, in one place, so that no print can forget it. What draws with control
characters on purpose, a progress bar, asks by `bar_options` where to, and is careful with its texts itself.
"""

import codecs
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, TextIO, TypeVar

Bar = TypeVar("Bar")

_KEPT = ("\n", "\t")
_PARTS = re.compile(r"([\n\t])")
_LOG_SECONDS = 30  # between lines of progress in a log, which keeps them all
_QUIET, _USUAL, _VERBOSE = range(3)
_loudness = _USUAL


def printable(text: str) -> str:
    """One line for a terminal, whatever it quotes: what has no shape is written out, as `\\x1b` or `\\u202e`.

    That are line ends and other control characters, escape sequences among them, those that turn the direction of
    writing, and lone surrogates.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def counted(number: int, noun: str, form: str = "") -> str:
    """So many of something, "1 image", "2 classes"; form: of the number, such as ","."""
    plural = f"{noun}es" if noun.endswith(("s", "x", "ch")) else f"{noun}s"
    return f"{number:{form}} {noun if number == 1 else plural}"


class _Guarded:
    """A text stream that writes out control characters, except line feeds and tabs."""

    def __init__(self, stream: TextIO) -> None:
        self.unguarded = stream

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"a text stream takes str, not {type(text).__name__}")
        if not text.isprintable():
            text = "".join(part if part in _KEPT else printable(part) for part in _PARTS.split(text))
        return self.unguarded.write(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __iter__(self) -> Any:
        return iter(self.unguarded)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unguarded, name)


class _Log(_Guarded):
    """A guarded stream into a log, whose lines begin with the time.

    Not those that are indented, which belong to one before, and no error: that it is one is told by its first word.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._begins = True

    def write(self, text: str) -> int:
        if isinstance(text, str):
            text = "".join(map(self._dated, text.splitlines(keepends=True)))
        return super().write(text)

    def _dated(self, line: str) -> str:
        plain = not self._begins or line[0].isspace() or line.startswith("Error: ")
        self._begins = line.endswith("\n")
        return line if plain else f"{time.strftime('%H:%M:%S')} {line}"


class _LinesOfBar:
    """Where a progress bar writes to in a log: each of its states is a line."""

    def __init__(self, log: _Log) -> None:
        self._log = log

    def write(self, text: str) -> None:
        if text.strip():
            self._log.write(f"{text.strip()}\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


def guard(stream: Any) -> Any:
    """The stream behind a filter of control characters; None, which stands for a closed one, stays None."""
    if stream is None or isinstance(stream, _Guarded):
        return stream
    if hasattr(stream, "reconfigure"):  # click goes past a stream of ASCII, and others would fail on "é"
        stream.reconfigure(encoding="utf-8" if _is_ascii(stream) else None, errors="backslashreplace")
    return _Guarded(stream)


def log(stream: Any) -> Any:
    """A guarded stream; its lines get the time if it leads into a file or a pipe, and not to a terminal."""
    if not isinstance(stream, _Guarded) or isinstance(stream, _Log) or stream.isatty():
        return stream
    try:
        stream.fileno()
    except OSError:  # that of a notebook or a test
        return stream
    return _Log(stream.unguarded)


def _is_ascii(stream: Any) -> bool:
    return codecs.lookup(stream.encoding).name == "ascii"


def unguarded(stream: Any) -> Any:
    """The stream behind the filter of `guard`."""
    return stream.unguarded if isinstance(stream, _Guarded) else stream


def bar_options(stream: Any) -> dict[str, Any]:
    """How a bar of tqdm is drawn on this stream: in a log, a line every half minute."""
    if isinstance(stream, _Log):
        line = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
        return {"file": _LinesOfBar(stream), "mininterval": _LOG_SECONDS, "bar_format": line, "disable": is_quiet()}
    seconds = 0.1 if stream.isatty() else _LOG_SECONDS
    return {"file": unguarded(stream), "mininterval": seconds, "dynamic_ncols": True, "disable": is_quiet()}


@cache  # each kind of bar has a thread
def unlocking(kind: type[Bar]) -> type[Bar]:
    """This kind of tqdm's bars; if drawing fails (a full disk, a closed pipe), in whatever thread, others may draw on.

    tqdm's own leaves its lock taken, and the bar could not even be closed.
    """

    class Unlocking(kind):  # type: ignore[misc, valid-type]
        def refresh(self, nolock: bool = False, lock_args: Any = None) -> Any:
            with nullcontext() if nolock else self.get_lock():
                return super().refresh(nolock=True)

    return Unlocking


@contextmanager
def loudness(*, quiet: bool, verbose: bool) -> Iterator[None]:
    """Inside, if so: no more than warnings and errors is said, or details as well. One for the process."""
    global _loudness
    before = _loudness
    _loudness = _QUIET if quiet else _VERBOSE if verbose else before
    try:
        yield
    finally:
        _loudness = before


def is_quiet() -> bool:
    """Whether no more than warnings and errors is to be said."""
    return _loudness == _QUIET


def is_verbose() -> bool:
    """Whether details are to be said as well."""
    return _loudness == _VERBOSE
