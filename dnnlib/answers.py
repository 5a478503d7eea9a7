"""Asking a web server that may be slow, broken or hostile: safe redirects, and nothing waited for without end.

The work is done by a thread, and what it brings is taken from it within a time limit: a limit on a socket begins anew
with every byte, so a server that sends one now and then would never meet it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests

from dnnlib.errors import DownloadError

T = TypeVar("T")

MAX_REDIRECTS = 10


def ask(
    url: str, headers: dict[str, str], *, timeout: tuple[float, float], limit: float, chunk_bytes: int
) -> Generator[requests.Response | bytes, None, None]:
    """The answer to a GET after all redirects, then its body in chunks of at most `chunk_bytes`.

    timeout: seconds to connect, and of silence. limit: seconds for the answer, and for every chunk. Bodies of redirects
    are not read at all. Raises TooSlow, DownloadError for a redirect that leaves https, that leads to no web server, or
    one too many, and what `requests` raises.
    """
    return _each_within(limit, _answer_and_body(url, headers, timeout, chunk_bytes))


def _answer_and_body(
    url: str, headers: dict[str, str], timeout: tuple[float, float], chunk_bytes: int
) -> Generator[requests.Response | bytes, None, None]:
    with _Session() as session:
        for _ in range(MAX_REDIRECTS + 1):
            response = session.get(url, headers=headers, stream=True, timeout=timeout, allow_redirects=False)
            with response:
                target = requests.Session.get_redirect_target(session, response)
                if target is None:
                    yield response
                    yield from response.iter_content(chunk_bytes)
                    return
            url = _redirected(url, target)
    raise DownloadError(f"more than {MAX_REDIRECTS} redirects")


class _Session(requests.Session):
    """Sees no redirects: even if told not to follow one, `requests` would read its body, whatever comes."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


def _redirected(url: str, target: str) -> str:
    """Where a redirect leads. A user and password in `url` go along to the same server alone."""
    try:
        old, new = urlsplit(url), urlsplit(urljoin(url, target))
        same_server = (old.scheme, old.hostname, old.port) == (new.scheme, new.hostname, new.port)
    except ValueError:
        raise DownloadError("the server redirects to something that is no URL") from None
    if new.scheme not in ("http", "https") or not new.hostname:
        raise DownloadError("the server redirects to something that is no http or https URL")
    if old.scheme == "https" and new.scheme != "https":
        raise DownloadError("the server redirects from https to http, where anybody on the way could change the file")
    if same_server and "@" in old.netloc and "@" not in new.netloc:
        new = new._replace(netloc=f"{old.netloc.rpartition('@')[0]}@{new.netloc}")
    return urlunsplit(new)


class TooSlow(Exception):
    """Something did not come within its time limit."""


def _each_within(seconds: float, items: Iterator[T]) -> Generator[T, None, None]:
    """The items, or what the iterator raises; TooSlow if one of them takes more than so many seconds.

    A thread of its own asks for them. One that is left behind ends with its next item, and holds up nothing.
    """
    brought: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=8)
    left = threading.Event()

    def bring(kind: str, value: Any) -> None:
        while not left.is_set():
            with suppress(queue.Full):
                brought.put((kind, value), timeout=0.5)
                break

    def work() -> None:
        try:
            for item in items:
                bring("item", item)
                if left.is_set():
                    return
            bring("end", None)
        except Exception as error:
            bring("error", error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            kind, value = brought.get(timeout=seconds)
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    except queue.Empty:
        raise TooSlow from None
    finally:
        left.set()
