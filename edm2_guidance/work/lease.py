"""Who may do what only one process may: leases as files in a folder that machines can share. Torch-free.

A lease is `NAME.N.claim`, with its owner inside; the one with the highest N counts. It appears complete and at once
(a hard link fails if the name is taken). Whoever finds that the owner is gone adds the next number, which again only
one process can do: nobody ever removes another's lease, so a slow process cannot remove one that is new.

A process that lives touches its leases every `BEAT_SECONDS`. On the owner's machine the system says whether it lives;
elsewhere only its silence speaks, and since clocks jump, silence counts only as far as somebody watched it.

Other rooms use `Lease` alone.
"""

import atexit
import errno
import os
import re
import secrets
import socket
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from dnnlib.errors import naming
from dnnlib.regular import read_regular

#: How often a living process touches its leases.
BEAT_SECONDS = 20.0
#: A lease that nobody has touched for so long is given up on (NFS may show a touch a minute late).
STALE_SECONDS = 300.0
#: How long a lease of such an age, or from the future, is watched before its age is believed.
WATCH_SECONDS = 45.0

_CLOCK_SKEW = 5.0
_MOMENT_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 8.0
_ABSENT = 2  # numbers in a row that nobody has, after which no higher one is looked for
_PROCESS = secrets.token_hex(4)  # tells this process from an earlier one of the same number
_OWNER = re.compile(r"([A-Za-z0-9-]+)\.(\d{1,9})\.([0-9a-f]{8})")


def owner() -> str:
    """This process as `host.pid.token`, in characters that a file name can hold."""
    return f"{_host()}.{os.getpid()}.{_PROCESS}"


def is_gone(text: str) -> bool:
    """Whether the process of this `owner()`, or of a lease's text, has ended; False if nothing is known from here."""
    name, _, job = text.partition(" ")
    if _ended_by_slurm(job):
        return True
    found = _OWNER.fullmatch(name)
    if found is None or found[1] != _host() or os.name != "posix":
        return False
    pid = int(found[2])
    if pid == os.getpid():  # this process, or an earlier one of the same number
        return found[3] != _PROCESS
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _is_zombie(pid)


class LeaseLost(Exception):
    """Others took this process for dead while it held a lease: what it would write, another writes."""


@dataclass(frozen=True)
class Sign:
    """What can be seen of a lease: its file, whose it is, when it was touched (in seconds, by the folder's clock)."""

    path: Path
    holder: str
    touched: float


class Lease:
    """The lease `name` in `folder`: acquired and released, or held by a `with` block.

    Processes hold leases, not objects: a process that has it gets it again.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._name = name
        self._held: Path | None = None  # what this object took; it may be another's by now: see `_is_ours`

    def acquire(self, *, wait: bool = False, poll_seconds: float = 1.0) -> bool:
        """Whether this process holds the lease now; False if another does, or may, or if the folder is gone.

        wait: until it is known whether the holder lives, `STALE_SECONDS` or so at most; False then if it does.
        """
        first, waited = self.sign() if wait else None, False
        while not self._acquire_now():
            if not wait:
                return False
            now = self.sign()
            if not self.folder.exists() or (now is not None and (_lives_here(now) or _later(first, now))):
                return False
            if not waited and now is not None:
                warnings.warn(f"waiting for a sign of life of {now.holder}, {self._name} in {self.folder}",
                              RuntimeWarning, stacklevel=2)  # fmt: skip
            first, waited = first or now, True
            time.sleep(poll_seconds)
            poll_seconds = min(2 * poll_seconds, _LONGEST_POLL_SECONDS)  # a thousand may wait for one
        return True

    def __enter__(self) -> Self:
        """Hold it during a block that takes a moment, after everybody who has it now. FileNotFoundError: no folder."""
        while not self.acquire():
            if not self.folder.exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(self.folder))
            time.sleep(_MOMENT_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _acquire_now(self) -> bool:
        temporary = self.folder / f"{self._name}.{owner()}{secrets.token_hex(4)}.tmp"
        try:
            with naming(self.folder):
                temporary.write_text(_lease_text(), encoding="ascii")
            last = self.sign()
            if last is not None and _is_ours(last.holder):
                self._hold(last.path)
            elif last is None or _is_stale(last, now=temporary.stat().st_mtime):
                # Held before it is there, so that whatever ends this process in between leaves no lease behind.
                self._hold(self._path(_number(last.path) + 1 if last else 0))
                assert self._held is not None
                _link(temporary, self._held)
            else:
                self._hold(None)
        except (FileExistsError, FileNotFoundError):  # somebody was faster, or is through with everything
            self._hold(None)
        finally:
            temporary.unlink(missing_ok=True)
        return self._held is not None

    def _hold(self, path: Path | None) -> None:
        if self._held is not None and self._held != path:
            _heart(os.getpid()).discard(self._held)
        self._held = path
        if path is not None:
            _heart(os.getpid()).add(path)

    def is_held(self) -> bool:
        """Whether this process still holds the lease: nobody has given up on it since."""
        last = self.sign()
        return last is not None and last.path == self._held and _is_ours(last.holder)

    def check(self) -> None:
        """LeaseLost unless this process still holds it."""
        if not self.is_held():
            raise LeaseLost

    def release(self) -> None:
        """Let others have it, if this process holds it. Older leases, of processes that are gone, are swept away."""
        held = self._held
        self._hold(None)
        if held is not None and _owns(held):
            for number in range(_number(held) + 1):
                self._path(number).unlink(missing_ok=True)

    def holder(self) -> str:
        """Who has it, as `owner()` says; "nobody" if it is free."""
        last = self.sign()
        return "nobody" if last is None else last.holder.partition(" ")[0] or "somebody"

    def sign(self) -> Sign | None:
        """What is to be seen of the lease that counts; None if it is free."""
        for path in reversed(self.files()):
            with suppress(FileNotFoundError):
                return Sign(path, read_lease(path), path.stat().st_mtime)
        return None

    def files(self) -> list[Path]:
        """The files of all leases of this name, older ones first.

        They are asked for by number, since a folder may have thousands of others. Below a lease that counts a number
        may be missing: of a process that was given up on, and that released it all the same.
        """
        found: list[Path] = []
        number = absent = 0
        while absent < _ABSENT:
            path = self._path(number)
            number, absent = number + 1, 0 if path.exists() else absent + 1
            if absent == 0:
                found.append(path)
        return found

    def _path(self, number: int) -> Path:
        return self.folder / f"{self._name}.{number}.claim"


def read_lease(path: Path) -> str:
    """What a lease says. OSError as `open`; ValueError for what is no plain file, or far larger than any lease."""
    return read_regular(path, 1 << 12).decode("utf-8", "replace")


def sweep(folder: Path) -> None:
    """Remove all leases of processes that are known to be gone, but those below one that may count: see `files`."""
    held = set[str]()
    for path in sorted(folder.glob("*.claim"), key=_number, reverse=True):
        name = path.name.rsplit(".", 2)[0]
        with suppress(FileNotFoundError):
            if name in held or not is_gone(read_lease(path)):
                held.add(name)
            else:
                path.unlink()


class _Heart:
    """Touches the leases of this process, from a thread, while it lives; removes them when it ends in order."""

    def __init__(self, pid: int) -> None:
        self._paths: set[Path] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._beat, daemon=True, name="leases").start()
        atexit.register(lambda: self._stop() if os.getpid() == pid else None)  # and not at the end of its children

    def add(self, path: Path) -> None:
        with self._lock:
            self._paths.add(path)

    def discard(self, path: Path) -> None:
        with self._lock:
            self._paths.discard(path)

    def _stop(self) -> None:
        with self._lock:
            for path in filter(_owns, self._paths):
                path.unlink(missing_ok=True)
            self._paths.clear()

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            with self._lock:
                paths = list(self._paths)
            for path in filter(_owns, paths):
                with suppress(OSError):  # removed since, or a file system that is away for a moment
                    os.utime(path)


@cache
def _heart(pid: int) -> _Heart:
    """Of this process: one that was forked has no threads of its parent's."""
    return _Heart(pid)


_watched: dict[Path, tuple[float, float]] = {}  # by lease: when it was touched, since when (monotonic) it is watched


def _is_stale(sign: Sign, now: float) -> bool:
    """Whether the owner is gone or silent. now: by the clock of the file system that holds the lease.

    A clock that jumped makes any lease old, or from the future; the next beat of a living owner shows it.
    """
    if is_gone(sign.holder):
        return True
    if -_CLOCK_SKEW <= now - sign.touched <= STALE_SECONDS:
        return False
    touched, since = _watched.get(sign.path, (None, 0.0))
    if touched != sign.touched:
        _watched[sign.path] = (sign.touched, time.monotonic())
        return False
    return time.monotonic() - since >= WATCH_SECONDS


def _lives_here(sign: Sign) -> bool:
    """Whether the owner is a process of this machine that was heard of lately; a number alone may be in use again."""
    found = _OWNER.fullmatch(sign.holder.partition(" ")[0])
    if _is_ours(sign.holder):
        return False
    return found is not None and found[1] == _host() and abs(time.time() - sign.touched) < 2 * BEAT_SECONDS


def _later(first: Sign | None, now: Sign) -> bool:
    """Whether the lease was touched, or taken by another, since `first` was seen."""
    return first is not None and (now.path, now.touched) != (first.path, first.touched)


def _number(path: Path) -> int:
    text = path.name.split(".")[-2]
    return int(text) if text.isdecimal() else -1


def _link(temporary: Path, path: Path) -> None:
    """Give the finished file a further name. FileExistsError if that is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        if temporary.stat().st_nlink != 2:  # NFS may do it, lose the answer, and refuse when asked again
            raise
    except FileNotFoundError:
        raise
    except OSError:  # a filesystem without hard links: others may see it empty for a moment, which reads as held
        with open(path, "xb") as file:
            file.write(temporary.read_bytes())


def _is_ours(holder: str) -> bool:
    return holder.partition(" ")[0] == owner()


def _owns(path: Path) -> bool:
    """Whether the lease at `path` is there and this process'; one that was lost may have been made anew by another."""
    try:
        return _is_ours(read_lease(path))
    except OSError:
        return False


def _lease_text() -> str:
    job, restarts = _slurm_job()
    return owner() if job is None else f"{owner()} {job}:{restarts}"


def _ended_by_slurm(text: str) -> bool:
    """Whether `text`, a job and its restarts, is an earlier start of our own job: Slurm ends one before the next."""
    job, restarts = _slurm_job()
    theirs = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text)
    return theirs is not None and theirs[1] == job and int(theirs[2]) < restarts


def _slurm_job() -> tuple[str | None, int]:
    """Number of the Slurm job that this process belongs to, and how often Slurm has started it again."""
    job, restarts = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT", "0")
    return (job, int(restarts)) if job.isdecimal() and restarts.isdecimal() else (None, 0)


def _is_zombie(pid: int) -> bool:
    """Whether it has ended and nobody took notice, as in containers whose first process does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:1] == ["Z"]
    except OSError:
        return False


@cache
def _host() -> str:
    """This machine, and on Linux this system start and this container: elsewhere a process number says nothing."""
    name = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
    if name in ("", "localhost"):  # which many machines are called
        name += f"-{_PROCESS}"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return name
    return f"{name}-{boot[:8]}-{re.sub('[^0-9]', '', space)}"
