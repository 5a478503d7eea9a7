"""One file over HTTP into a partial file: timeouts, bounded retries, resuming where an earlier try stopped.

Nothing here knows about caches or hashes.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from dnnlib.answers import TooSlow, ask
from dnnlib.errors import DownloadError, naming
from dnnlib.partial import PartialFile, Policy, Version, fits_header
from dnnlib.terminal import printable
from dnnlib.urls import without_secrets

_RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}
_HOPELESS = (
    requests.exceptions.InvalidSchema,  # of a proxy, say
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.SSLError,
)
_LONGEST_VALIDATOR = 1000  # characters of an ETag or a date


class _Interrupted(Exception):
    """This try failed, another may succeed. `wait` is the number of seconds the server asked for, if any."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def transfer(
    url: str, part: PartialFile, *, policy: Policy, hash_known: bool, report: Callable[[int, int | None], None]
) -> None:
    """Bring `part` to the complete content of `url`, continuing what is there if it is the same version.

    `hash_known` says that the caller will compare a hash: only then are files accepted whose completeness
    HTTP cannot prove, and web pages. `report(bytes so far, total or None)` is called as bytes arrive.
    Raises DownloadError once the policy's patience is over or when trying again is pointless (404, a web
    page instead of a file); what has arrived stays in `part` for the next run.
    """
    furthest = part.size() if part.resumable(url, hash_known) is not None else 0
    fruitless = 0
    for _ in range(policy.max_attempts):
        try:
            return _attempt(url, part, policy, hash_known, report)
        except _HOPELESS as error:
            raise DownloadError(_reason(error)) from error
        except (requests.RequestException, _Interrupted) as error:
            last = error
        fruitless = 0 if part.size() > furthest else fruitless + 1
        furthest = max(furthest, part.size())
        if fruitless >= policy.attempts:
            raise DownloadError(f"gave up after {fruitless} tries without progress: {_reason(last)}") from last
        asked = last.wait if isinstance(last, _Interrupted) and last.wait is not None else 0.0
        time.sleep(min(max(policy.backoff * 2 ** max(fruitless - 1, 0), asked), policy.backoff_max))
    raise DownloadError(f"gave up after {policy.max_attempts} tries: {_reason(last)}") from last


def _attempt(
    url: str,
    part: PartialFile,
    policy: Policy,
    hash_known: bool,
    report: Callable[[int, int | None], None],
) -> None:
    """One request, on a connection of its own. Returns with `part` complete, else raises."""
    version = part.resumable(url, hash_known)
    offset = part.size() if version is not None else 0
    if version is not None and offset == version.total:
        return  # complete, but its process ended before it could be used
    headers = {"Accept-Encoding": "identity"}  # lengths and ranges shall count the file's own bytes
    if version is not None:
        headers["Range"] = f"bytes={offset}-"
        if version.validator is not None:
            headers["If-Range"] = version.validator
    timeout = (policy.connect_timeout, policy.read_timeout)
    answer = ask(url, headers, timeout=timeout, limit=policy.chunk_timeout, chunk_bytes=policy.chunk_bytes)
    with closing(answer):
        response = _response_of(answer)
        _check_status(response, part, resuming=version is not None)
        if response.status_code == 200 or version is None:
            version = _begin(response, url, part, hash_known, policy)
        else:
            _check_continues(response, part, version, offset)
        _write_body(answer, part, version, policy, report)
    if version.total is not None and part.size() != version.total:
        raise _Interrupted(f"got {part.size():,} of {version.total:,} bytes")


def _response_of(answer: Iterator[Any]) -> requests.Response:
    try:
        response: requests.Response = next(answer)
    except TooSlow:
        raise _Interrupted("the connection stalled (no whole answer within the time limit)") from None
    return response


def _check_status(response: requests.Response, part: PartialFile, resuming: bool) -> None:
    """Let 200 pass, and 206 when continuing; sort the rest into worth another try and hopeless."""
    status = response.status_code
    said = f"the server answered {status} {printable(response.reason or '')[:100]}".rstrip()
    if status == 416 and resuming:  # shorter than what we have: not the file that we began
        part.discard()
        raise _Interrupted(said)
    if status in _RETRY_STATUS:
        wait = response.headers.get("Retry-After", "")
        raise _Interrupted(said, float(wait) if re.fullmatch(r"\d{1,6}", wait) else None)
    if status != 200 and not (status == 206 and resuming):
        raise DownloadError(said)
    if response.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
        raise DownloadError("the server sends the file compressed in transit, so its length cannot be checked")


def _begin(response: requests.Response, url: str, part: PartialFile, hash_known: bool, policy: Policy) -> Version:
    """Start the partial file for a whole-file answer; refuse what is not the file or cannot be checked."""
    content_type = response.headers.get("Content-Type", "").lower()
    is_page = urlsplit(url).path.lower().endswith((".html", ".htm"))
    if content_type.startswith(("text/html", "application/xhtml")) and not hash_known and not is_page:
        raise DownloadError("the server sent a web page instead of the file (a sign-in or error page?)")
    length = response.headers.get("Content-Length", "")
    total = int(length) if re.fullmatch(r"\d{1,18}", length) else None
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    if total is None and not chunked and not hash_known:
        raise DownloadError("the server does not say how long the file is, so a cut copy would go unnoticed")
    part.discard()
    _check_size(0, total, part.path, policy)
    etag, last_modified = (_validator(response.headers.get(name)) for name in ("ETag", "Last-Modified"))
    version = Version(url=without_secrets(url), etag=etag, last_modified=last_modified, total=total)
    part.begin(version)
    return version


def _check_continues(response: requests.Response, part: PartialFile, version: Version, offset: int) -> None:
    """Make sure that a 206 continues our version at our offset; else drop what is there and start over."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    ok = found is not None and int(found[1]) == offset
    if ok and found is not None and found[2] != "*" and version.total is not None:
        ok = int(found[2]) == version.total
    etag, last_modified = (_validator(response.headers.get(name)) for name in ("ETag", "Last-Modified"))
    # The ETag must be repeated in a 206 (RFC 9110, 15.3.7), the date may be left out.
    ok = ok and etag == version.etag and last_modified in (None, version.last_modified)
    if not ok:
        part.discard()
        raise _Interrupted("the file changed on the server, or it continued at the wrong place; starting over")


def _validator(text: str | None) -> str | None:
    """A header that can be kept and sent back."""
    return text if text is not None and len(text) <= _LONGEST_VALIDATOR and fits_header(text) else None


def _check_size(done: int, total: int | None, path: Path, policy: Policy) -> None:
    """Refuse a file larger than was announced, than any that is read here, or than what the disk has room for.

    done: bytes that are there or about to be. _Interrupted, DownloadError, or OSError for the disk.
    """
    if total is None and done > policy.max_unannounced_bytes:
        what = f"the server does not say how long the file is, and has sent {policy.max_unannounced_bytes:,} bytes"
        raise DownloadError(f"{what}: if that is right, fetch it by other means")
    if total is not None and total > policy.max_bytes:
        raise DownloadError(f"the file has {total:,} bytes, more than any that is read here ({policy.max_bytes:,})")
    if total is not None and done > total:
        raise _Interrupted(f"the server sends more than the {total:,} bytes that it announced")
    missing = 0 if total is None else total - done
    if missing + policy.disk_reserve > shutil.disk_usage(path.parent).free:
        raise OSError(errno.ENOSPC, f"{total or done:,} bytes do not fit on its disk", os.fspath(path))


class _Pace:
    """Sees to it that chunks keep coming: the time limit on each does not tell a small one from a large one."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._since, self._bytes = time.monotonic(), 0

    def check(self, size: int) -> None:
        """Note that `size` more bytes came; TooSlow if too few did since the last time that enough had."""
        self._bytes += size
        now = time.monotonic()
        if self._bytes >= self._policy.chunk_bytes:
            self._since, self._bytes = now, 0
        elif now - self._since > self._policy.chunk_timeout:
            raise TooSlow


def _write_body(
    chunks: Iterator[Any],
    part: PartialFile,
    version: Version,
    policy: Policy,
    report: Callable[[int, int | None], None],
) -> None:
    """Append the body to the partial file as it arrives; one that is larger than it may be is removed.

    Where the disk is full it stays, for the next run.
    """
    pace = _Pace(policy)
    try:
        with naming(part.path), open(part.path, "ab") as file:
            done = file.tell()
            report(done, version.total)
            for chunk in chunks:
                done += len(chunk)
                _check_growth(done, version, part, policy)
                file.write(chunk)
                file.flush()  # what a kill loses is not what Python's version buffers
                report(done, version.total)
                pace.check(len(chunk))
    except TooSlow:
        rate = policy.chunk_bytes / policy.chunk_timeout
        raise DownloadError(f"the server sends less than {rate:,.0f} bytes per second; try again later") from None


def _check_growth(done: int, version: Version, part: PartialFile, policy: Policy) -> None:
    try:
        _check_size(done, version.total, part.path, policy)
    except (DownloadError, _Interrupted):
        part.discard()
        raise


def _reason(error: Exception) -> str:
    """One line for an exception of requests, which nest several layers of them."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no connection within the time limit"
    if isinstance(error, requests.exceptions.Timeout) or "Read timed out" in str(error):
        return "the connection stalled (nothing arrived within the time limit)"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke before the end of the file"
    if "SOCKS" in str(error):
        return "the proxy speaks SOCKS, which needs `pip install requests[socks]`"
    return printable(" ".join(str(error).split()))[:500] or type(error).__name__
