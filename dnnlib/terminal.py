"""Text on its way to a terminal: whatever files, names and errors hold, no control character gets there.

`guard` puts a filter before a stream, in one place, so that no print can forget it. What draws with control
characters on purpose, a progress bar, asks for the stream behind the filter, and is careful with its texts itself.
"""

import codecs
import re
from typing import Any, TextIO

_KEPT = ("\n", "\t")
_PARTS = re.compile(r"([\n\t])")


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


def guard(stream: Any) -> Any:
    """The stream behind a filter of control characters; None, which stands for a closed one, stays None."""
    if stream is None or isinstance(stream, _Guarded):
        return stream
    if hasattr(stream, "reconfigure"):  # click goes past a stream of ASCII, and others would fail on "é"
        stream.reconfigure(encoding="utf-8" if _is_ascii(stream) else None, errors="backslashreplace")
    return _Guarded(stream)


def _is_ascii(stream: Any) -> bool:
    return codecs.lookup(stream.encoding).name == "ascii"


def unguarded(stream: Any) -> Any:
    """The stream behind the filter of `guard`, for progress bars."""
    return stream.unguarded if isinstance(stream, _Guarded) else stream
