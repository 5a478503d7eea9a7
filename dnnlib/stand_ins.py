"""Small texts that stand where a file was meant: a Git LFS pointer, a sign-in page saved under the file's name."""

import os
import re

_LOOKED_AT = 512  # bytes at the start of a file
_MARKUP = re.compile(rb"<[!?A-Za-z]")
_POINTERS = {
    b"version https://git-lfs.": "a Git LFS pointer, not the file itself: run `git lfs pull` where it came from",
    b"/annex/objects/": "a git-annex pointer, not the file itself: run `git annex get` where it came from",
}


def stand_in(start: bytes) -> str | None:
    """What the first bytes of a file show it to be, and what to do, such as "a Git LFS pointer, ..."; None if nothing.

    For files that hold no markup of their own: networks, statistics, archives, images, tables.
    """
    start = start[:_LOOKED_AT]
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for beginning, what in _POINTERS.items():
        if text.startswith(beginning):
            return what
    if _MARKUP.match(text) and b"\0" not in start:
        return "a web page (HTML or XML), not the file itself: was the download redirected, to a sign-in perhaps?"
    return None


def refuse_stand_in(path: str | os.PathLike[str]) -> None:
    """ValueError, naming what it is, if a pointer or a web page lies at this path. OSError if it cannot be read.

    Pipes and devices are not touched.
    """
    if not os.path.isfile(path):
        return
    with open(path, "rb") as file:
        what = stand_in(file.read(_LOOKED_AT))
    if what is not None:
        raise ValueError(f"{os.fspath(path)} is {what}")
