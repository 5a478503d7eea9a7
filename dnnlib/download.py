"""Files by path, URL or name: a cache that several processes can share and that never hands out a bad file.

The cache is the folder `downloads` in `$DNNLIB_CACHE_DIR` or `~/.cache/dnnlib`. The file of a URL is named
`<md5 of the URL>_<last part of its path>`, every character outside `[0-9a-zA-Z-._]` replaced by `_`: where
EDM2's own tools keep theirs, so files already there are used. Passwords and signatures of links do not count as part
of the URL, and are neither stored nor shown. What else we keep beside the file starts with a dot, because those tools
take whatever matches `<md5>_*` for the file:

    .<name>.json         the record: SHA-256, size, times and origin of the file
    .<name>.part[.json]  a transfer under way or interrupted; continued by the next run
    .<name>.lock         held by the process that fetches; the others wait for it
    .<name>.quarantine   the last copy that failed its check, kept to look at, never used

Checking. A file is hashed in full when it is fetched and when it is first found in the cache. If a SHA-256 is
published (argument `sha256`), it must match; otherwise the hash seen first is recorded, and every later copy
of that URL must have it. A later use compares size, modification and change time with the record, and hashes
again only where one of them differs (the same trust that git puts in its index): networks weigh up to 3 GiB
and every worker of a job opens them. Any write to the file through the filesystem, even one that restores the
modification time, moves the change time and is caught; decay of the disk underneath is not, until
`fetch(..., verify=True)` hashes in full. `recorded_sha256` serves programs that hash what they load anyway.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from glob import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from dnnlib.atomic import atomic_path, replace_synced
from dnnlib.cache import make_cache_dir_path
from dnnlib.errors import DownloadError
from dnnlib.filelock import exclusive
from dnnlib.partial import PartialFile, Policy
from dnnlib.places import find_file, near
from dnnlib.published import MODEL_ROOT, published_as
from dnnlib.regular import sha256_of
from dnnlib.shared_places import make_own
from dnnlib.stand_ins import refuse_stand_in, stand_in
from dnnlib.terminal import bar_options, is_quiet, printable
from dnnlib.urls import identity_of, is_url, without_secrets

__all__ = ["DownloadError", "Policy", "cache_path", "fetch", "recorded_sha256"]

MODEL_ROOT_VARIABLE = "EDM2_MODEL_ROOT"  # a mirror's URL or a folder of the same layout, used in its place
_MAX_NAME = 128  # characters kept of a file's name (its end, with the suffix)
_DEFAULT_POLICY = Policy()


@dataclass(frozen=True)
class _Record:
    """What is remembered about the cached file of a URL."""

    url: str
    sha256: str
    size: int
    mtime_ns: int
    ctime_ns: int
    origin: str  # URL that the bytes came from (a mirror's, perhaps), or "found in the cache"
    recorded: str  # when, ISO 8601

    def check(self) -> None:
        """ValueError if an entry, which was read from a file, is not of the kind that is written."""
        texts, numbers = (self.url, self.sha256, self.origin, self.recorded), (self.size, self.mtime_ns, self.ctime_ns)
        if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
            raise ValueError("entries of another kind")
        if re.fullmatch(r"[0-9a-f]{64}", self.sha256) is None:
            raise ValueError("sha256 is not 64 hexadecimal digits")


@dataclass(frozen=True)
class _Request:
    """A wanted URL: where from, what it must hash to, where it is kept."""

    url: str  # the published URL, as it may be shown
    origins: tuple[str, ...]  # URLs to ask, in this order
    sha256: str | None  # the published hash
    target: Path

    def beside(self, suffix: str) -> Path:
        return self.target.with_name(f".{self.target.name}.{suffix}")


def fetch(
    source: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    offline: bool = False,
    mirrors: Sequence[str] = (),
    progress: bool = True,
    verify: bool = False,
    policy: Policy = _DEFAULT_POLICY,
) -> Path:
    """A file on this machine for `source`: the file itself if it is a path, the cached copy if it is a URL.

    source: path (found by `dnnlib.places.find_file`), http(s) URL, or name of a published file (`dnnlib.published`),
        which stands for its URL and SHA-256. A URL under `MODEL_ROOT` is looked for under
        `$EDM2_MODEL_ROOT` instead, if that is set: a URL (a mirror) or a folder of the same layout.
    sha256: published hash of the file, 64 hex digits. None: see the head of this module.
    offline: ask no server; what is not here is an error that says where to put it.
    mirrors: further URLs of the same file, asked in turn when `source` fails.
    progress: show a bar on stderr while downloading.
    verify: hash the cached file in full even if it looks untouched.
    policy: timeouts and retries.

    Raises ValueError for a bad argument or a local file with a hash other than `sha256`, FileNotFoundError for
    a missing local file and for anything missing when offline, DownloadError (an OSError) when no server
    delivers the file, and OSError when it cannot be stored.
    """
    text, sha256 = published_as(os.fspath(source), sha256)
    wanted = _checked_sha256(sha256)
    if not is_url(text):
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
            raise ValueError(f"{without_secrets(text)}: only http and https URLs are fetched; give one, or a path")
        return _local_file(find_file(text), wanted, "")
    for mirror in mirrors:
        if not is_url(mirror):
            raise ValueError(f"mirror {mirror!r} is not an http or https URL")
    origin = _through_model_root(text)
    if isinstance(origin, Path):
        return _local_file(origin, wanted, f" (it stands for {text}, because {MODEL_ROOT_VARIABLE} is set)")
    request = _Request(without_secrets(text), (origin, *mirrors), wanted, cache_path(text))
    return _cached_file(request, offline=offline, progress=progress, verify=verify, policy=policy)


def cache_path(url: str) -> Path:
    """Where the cached copy of `url` belongs, whether it is there or not."""
    name = urlsplit(url).path.rpartition("/")[2] or "download"
    name = re.sub(r"[^0-9a-zA-Z\-._]", "_", name)[-_MAX_NAME:]
    digest = hashlib.md5(identity_of(url).encode(), usedforsecurity=False).hexdigest()
    return Path(make_cache_dir_path("downloads", f"{digest}_{name}"))


def cached_as(name: str) -> list[Path]:
    """The files of the cache whose names, without suffix, are this one, whatever their URLs."""
    found = Path(make_cache_dir_path("downloads")).glob(f"[!.]*_{escape(name)}*")
    return sorted(path for path in found if re.fullmatch(r"[0-9a-f]{32}_" + re.escape(name) + r"(\.\w+)?", path.name))


def recorded_sha256(url: str) -> str | None:
    """The hash that the copies of `url` are held to, from its record in the cache; None if there is none."""
    record = _read_record(_Request(url, (), None, cache_path(url)))
    return None if record is None else record.sha256


# ---------------------------------------------------------------------------------------------------------
# Sources


def _checked_sha256(sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    if re.fullmatch(r"[0-9a-fA-F]{64}", sha256) is None:
        raise ValueError(f"sha256 is 64 hexadecimal digits, got {sha256!r}")
    return sha256.lower()


def _local_file(path: Path, wanted: str | None, why: str) -> Path:
    """`path` itself, once it is known to be a readable file with the wanted hash."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file{why}")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}{why}{near(path)}")
    if not path.is_file():
        raise ValueError(f"{path} is a pipe or a device, not a file{why}")
    refuse_stand_in(path)
    if wanted is not None and (found := sha256_of(path)) != wanted:
        raise ValueError(f"{path} is not the expected file: its SHA-256 is {found}, not {wanted}{why}")
    return path


def _through_model_root(url: str) -> str | Path:
    """`url` with `MODEL_ROOT` replaced by `$EDM2_MODEL_ROOT`: a URL, or a path if that is a folder."""
    root = os.environ.get(MODEL_ROOT_VARIABLE, "")
    if root == "" or not url.startswith(MODEL_ROOT + "/"):
        return url
    rest = url[len(MODEL_ROOT) :]
    if is_url(root):
        return root.rstrip("/") + rest
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{MODEL_ROOT_VARIABLE}={without_secrets(root)} is neither an http(s) URL nor a folder here"
        )
    parts = unquote(urlsplit(rest).path).strip("/").split("/")
    if ".." in parts:
        raise ValueError(f"{url} leads out of {MODEL_ROOT}; give the plain URL")
    return folder.joinpath(*parts)


# ---------------------------------------------------------------------------------------------------------
# The cache


def _cached_file(request: _Request, *, offline: bool, progress: bool, verify: bool, policy: Policy) -> Path:
    """The checked file of the cache, fetched if it is missing or bad."""
    folder = request.target.parent
    if offline and not os.path.isdir(folder):
        raise FileNotFoundError(f"{request.url} is not in the cache, and offline was asked for. {_by_hand(request)}")
    _make_folder(folder)
    if not verify and (path := _untouched(request)) is not None:
        return path

    def waiting() -> None:
        if progress and not is_quiet():
            print(f"Waiting for another process that is fetching {request.target.name}", file=sys.stderr)

    with exclusive(request.beside("lock"), waiting=waiting) as locked:
        # Whoever held the lock before us has most likely just left the file here.
        if not verify and (path := _untouched(request)) is not None:
            return path
        if (path := _adopt(request, offline)) is not None:
            return path
        if offline:
            raise FileNotFoundError(
                f"{request.url} is not in the cache, and offline was asked for. {_by_hand(request)}"
            )
        return _download(request, locked=locked, progress=progress, policy=policy)


def _make_folder(folder: Path) -> None:
    """The cache's folder; an OSError that names the variable for another place if it cannot be made (no home, say)."""
    try:
        make_own(folder)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.EEXIST):
            raise
        cure = "set DNNLIB_CACHE_DIR to a folder to keep downloads in"
        raise type(error)(f"the cache {folder} cannot be made ({error.strerror}): {cure}") from error


def _by_hand(request: _Request) -> str:
    """What a user without (this) network can do."""
    known = "none published" if request.sha256 is None else request.sha256
    root = f", or set {MODEL_ROOT_VARIABLE} to a mirror or folder" if request.url.startswith(MODEL_ROOT) else ""
    return f"Put the file at {request.target} (SHA-256: {known}){root}"


def _present(request: _Request) -> Path | None:
    """The cached file: ours, or one that another tool left under the same hash and another name."""
    if request.target.is_file():
        return request.target
    prefix = request.target.name[:33]  # md5 and "_"
    with suppress(FileNotFoundError):
        others = [path for path in request.target.parent.iterdir() if path.name.startswith(prefix)]
        if len(others) == 1 and others[0].is_file():
            return others[0]
    return None


def _read_record(request: _Request) -> _Record | None:
    path = request.beside("json")
    try:
        record = _Record(**json.loads(path.read_text(encoding="utf-8")))
        record.check()
        return record
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        raise DownloadError(f"{path} is damaged ({error}); move it away if you trust the file it stands for") from error


def _write_record(request: _Request, file: Path, sha256: str, origin: str) -> None:
    stat = file.stat()
    record = _Record(
        url=request.url,
        sha256=sha256,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        ctime_ns=stat.st_ctime_ns,
        origin=origin,
        recorded=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    with atomic_path(request.beside("json")) as temporary:
        temporary.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


def _untouched(request: _Request) -> Path | None:
    """The cached file if its record vouches for it, without reading it; None otherwise."""
    file, record = _present(request), _read_record(request)
    if file is None or record is None or request.sha256 not in (None, record.sha256):
        return None
    stat = file.stat()
    same = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) == (record.size, record.mtime_ns, record.ctime_ns)
    return file if same else None


def _adopt(request: _Request, offline: bool) -> Path | None:
    """The cached file if it passes the full check, its record brought up to date; a bad one is set aside."""
    file = _present(request)
    if file is None:
        return None
    record = _read_record(request)
    found, problem = _check(request, file, record)
    if problem is None:
        origin = "found in the cache" if record is None else record.origin
        try:
            _write_record(request, file, found, origin)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            # A shared cache that is read-only for us: its file is good, and will be hashed again next time.
        return file
    if offline:
        raise DownloadError(f"{file} cannot be used: it {problem}; and offline was asked for. {_by_hand(request)}")
    os.replace(file, request.beside("quarantine"))
    print(f"{file} {problem}; fetching it again", file=sys.stderr)
    return None


def _check(request: _Request, file: Path, record: _Record | None) -> tuple[str, str | None]:
    """SHA-256 of a file and what is wrong with it, if anything: "has SHA-256 ...", None if it is good."""
    found = sha256_of(file)
    if request.sha256 is not None:
        if found != request.sha256:
            return found, f"has SHA-256 {found}, not the published {request.sha256}"
    elif record is not None:
        if found != record.sha256:
            return found, (
                f"has SHA-256 {found}, not {record.sha256} as on {record.recorded[:10]}"
                f" (if it was republished, move {request.beside('json')} away)"
            )
    else:
        return found, _implausible(file, request.target.name)
    return found, None


def _implausible(file: Path, name: str) -> str | None:
    """What is visibly wrong with a file of which nothing but the name is known; None if nothing is."""
    size = file.stat().st_size
    if size == 0:
        return "is empty"
    with open(file, "rb") as stream:
        head = stream.read(512)
        stream.seek(size - 1)
        last = stream.read(1)
    what = stand_in(head)
    if what is not None and not name.endswith((".html", ".htm")):
        return f"is {what}"
    if name.endswith(".pkl") and last != b".":  # the opcode that ends every pickle
        return "does not end as a pickle does, so it was cut short or is something else"
    if name.endswith((".npz", ".zip")) and not zipfile.is_zipfile(file):
        return "is no zip archive, so it was cut short or is something else"
    return None


def _download(request: _Request, *, locked: bool, progress: bool, policy: Policy) -> Path:
    """Ask the origins in turn; put the first good file in its place, with its record."""
    # Without a lock somebody else may be writing too: then a file of our own, which no later run continues.
    part = PartialFile(request.beside("part" if locked else f"{os.urandom(6).hex()}.part"))
    problems: list[str] = []
    try:
        for origin in request.origins:
            found = _from_origin(request, origin, part, problems, progress=progress, policy=policy)
            if found is not None:
                replace_synced(part.path, request.target)
                part.discard()
                _write_record(request, request.target, found, without_secrets(origin))
                return request.target
    finally:
        if not locked:
            part.discard()
    raise DownloadError(f"could not fetch {request.url}: {'; '.join(problems)}. {_by_hand(request)}")


def _from_origin(
    request: _Request, origin: str, part: PartialFile, problems: list[str], *, progress: bool, policy: Policy
) -> str | None:
    """Fetch from one origin into `part`, a second time if the content is wrong. The hash, or None if it failed.

    What went wrong is appended to `problems`. A wrong copy goes to quarantine.
    """
    from dnnlib.transfer import transfer  # most programs find all files in place, and `requests` loads slowly

    record = _read_record(request)
    hash_known = request.sha256 is not None or record is not None
    for _ in range(2):
        try:
            with _ProgressBar(request.target.name[33:], progress) as bar:
                transfer(origin, part, policy=policy, hash_known=hash_known, report=bar.report)
        except DownloadError as error:
            problems.append(without_secrets(f"{origin}: {error}"))
            return None
        found, problem = _check(request, part.path, record)
        if problem is None:
            return found
        os.replace(part.path, request.beside("quarantine"))
        part.discard()
        problems.append(f"{without_secrets(origin)}: the file {problem}")
    return None


class _ProgressBar:
    """A bar on stderr that appears with the first byte and may jump, as resumed and restarted transfers do."""

    def __init__(self, name: str, enabled: bool) -> None:
        self._name = name
        self._enabled = enabled
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def report(self, done: int, total: int | None) -> None:
        """Show that `done` bytes of `total` (None: unknown) are there."""
        if not self._enabled:
            return
        bar = self._bar
        if bar is None:
            name = self._name
            bar = tqdm(
                **bar_options(sys.stderr),
                desc=printable(name),
                initial=done,
                total=total,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
            )
            self._bar = bar
        bar.total = total
        bar.update(done - bar.n)
