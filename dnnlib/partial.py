"""What is kept of a file while it is fetched, and how patient a fetch is. Nothing here knows about HTTP.

The partial file `X` has a companion `X.json` that says which URL it comes from and which version of it (ETag or
Last-Modified), so that two versions are never spliced.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from dnnlib.atomic import atomic_path
from dnnlib.urls import without_secrets


@dataclass(frozen=True)
class Policy:
    """How patient a download is, and how much it takes. Times in seconds."""

    connect_timeout: float = 10.0
    read_timeout: float = 30.0  # a connection silent for so long has stalled
    attempts: int = 5  # tries in a row that bring no new byte before giving up
    max_attempts: int = 50  # tries in all
    backoff: float = 1.0  # wait after the first failure; doubles with every further one
    backoff_max: float = 30.0  # ceiling of a wait, also of one that the server asks for
    chunk_bytes: int = 1 << 16  # at most so much of what arrived is lost when a connection breaks
    chunk_timeout: float = 35.0  # a server that takes longer for an answer, or for so many bytes, is too slow to go on
    max_bytes: int = 16 << 30  # of a file: none that is read here may be larger
    max_unannounced_bytes: int = 2 << 30  # of a file whose length the server does not say
    disk_reserve: int = 256 << 20  # bytes that a download leaves free on its disk


@dataclass(frozen=True)
class Version:
    """What the server said about the file when the partial file was begun."""

    url: str  # as it may be stored: the link to the same file may be signed anew
    etag: str | None
    last_modified: str | None
    total: int | None  # bytes of the whole file; None: not said

    def check(self) -> None:
        """ValueError if an entry, which was read from a file, is not of the kind that is written."""
        sent = [text for text in (self.etag, self.last_modified) if text is not None]
        ok = isinstance(self.url, str) and all(isinstance(text, str) and fits_header(text) for text in sent)
        if not ok or not (self.total is None or (type(self.total) is int and self.total >= 0)):
            raise ValueError("entries of another kind")

    @property
    def validator(self) -> str | None:
        """What to send as If-Range: a strong ETag, else the date; None if the server gave neither."""
        if self.etag is not None and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified


def fits_header(text: str) -> bool:
    """Whether HTTP can send it back."""
    return text.isprintable() and max(map(ord, text), default=0) < 256


class PartialFile:
    """A file being fetched and its companion. One process at a time may use it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.companion = path.with_name(path.name + ".json")

    def size(self) -> int:
        """Bytes there so far; 0 if there is no file."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def discard(self) -> None:
        """Remove both files, content first: a version without content is harmless, the reverse is not."""
        self.path.unlink(missing_ok=True)
        self.companion.unlink(missing_ok=True)

    def begin(self, version: Version) -> None:
        """Empty the file, then note the version that is about to be written into it (in this order)."""
        self.path.unlink(missing_ok=True)
        self.path.open("xb").close()  # a new one, which no link leads elsewhere
        with atomic_path(self.companion) as temporary:
            temporary.write_text(json.dumps(asdict(version)), encoding="utf-8")

    def resumable(self, url: str, hash_known: bool) -> Version | None:
        """The version to continue, or None (and a clean slate) if what is there cannot be continued.

        Continuing needs a validator, or a known hash that would reveal a splice afterwards.
        """
        if self.path.is_symlink() or self.companion.is_symlink():
            self.discard()
            return None
        try:
            version = Version(**json.loads(self.companion.read_text(encoding="utf-8")))
            version.check()
        except (FileNotFoundError, ValueError, TypeError, RecursionError):
            self.discard()
            return None
        fits = version.total is None or self.size() <= version.total
        same = version.validator is not None or hash_known
        if version.url == without_secrets(url) and self.size() > 0 and fits and same:
            return version
        self.discard()
        return None
