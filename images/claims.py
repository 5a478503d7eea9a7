"""Who may do what only one process may: claims as files in a folder that machines can share. Torch-free.

A claim is `NAME.N.claim`, with its owner inside; the one with the highest N counts. It appears complete and at once
(a hard link fails if the name is taken). Whoever finds that the owner is gone adds the next number, which again only
one process can do: nobody ever removes another's claim, so a slow process cannot remove one that is new.
"""

import os
import re
import secrets
import socket
from contextlib import suppress
from pathlib import Path

#: A claim that nobody has touched for so long is given up on, whatever became of its owner on another machine.
STALE_SECONDS = 600

_PROCESS = secrets.token_hex(4)  # tells this process from an earlier one of the same number


def owner() -> str:
    """This process as `host.pid.token`, in characters that a file name can hold."""
    return f"{_host()}.{os.getpid()}.{_PROCESS}"


def is_gone(text: str) -> bool:
    """Whether the process of this `owner()` has ended; False if that cannot be known from here."""
    found = re.fullmatch(r"([A-Za-z0-9-]+)\.(\d{1,9})\.([0-9a-f]{8})", text)
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
    return False


class Claim:
    """The claim `name` in `folder`. Processes hold claims, not objects: a process that has it gets it again."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._held: Path | None = None

    def take(self) -> bool:
        """Whether this process holds the claim now; False if another does, or if the folder is gone."""
        temporary = self._folder / f"{self._name}.{owner()}{secrets.token_hex(4)}.tmp"
        try:
            temporary.write_text(owner())
            last = self._last()
            if last is not None and last.read_text() == owner():
                self._held = last
            elif last is None or _is_stale(last, now=temporary.stat().st_mtime):
                self._held = self._folder / f"{self._name}.{_number(last) + 1}.claim"
                _link(temporary, self._held)
        except (FileExistsError, FileNotFoundError):  # somebody was faster, or is through with everything
            self._held = None
        finally:
            temporary.unlink(missing_ok=True)
        return self._held is not None

    def touch(self) -> None:
        """Show that the work goes on; more often than every `STALE_SECONDS`."""
        if self._held is not None:
            with suppress(FileNotFoundError):
                os.utime(self._held)

    def release(self) -> None:
        """Let others have it, if this process holds it. Older claims, of processes that are gone, are swept away."""
        if self._held is not None:
            for path in self.files():
                if _number(path) <= _number(self._held):
                    path.unlink(missing_ok=True)
            self._held = None

    def holder(self) -> str:
        """Who has it, as `owner()` says; "nobody" if it is free."""
        last = self._last()
        with suppress(FileNotFoundError):
            return "nobody" if last is None else last.read_text()
        return "nobody"

    def files(self) -> list[Path]:
        """The files of all claims of this name, older ones first."""
        return sorted(self._folder.glob(f"{self._name}.*.claim"), key=_number)

    def _last(self) -> Path | None:
        return next(reversed(self.files()), None)


def _number(path: Path | None) -> int:
    text = "" if path is None else path.name.split(".")[-2]
    return int(text) if text.isdecimal() else -1


def _is_stale(path: Path, now: float) -> bool:
    """Whether the owner is gone or silent. now: by the clock of the file system that holds `path`."""
    return is_gone(path.read_text()) or now - path.stat().st_mtime > STALE_SECONDS


def _link(temporary: Path, path: Path) -> None:
    """Give the finished file a further name. FileExistsError if that is taken."""
    try:
        os.link(temporary, path)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:  # a filesystem without hard links: others may see it empty for a moment, which reads as held
        with open(path, "x") as file:
            file.write(temporary.read_text())


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
