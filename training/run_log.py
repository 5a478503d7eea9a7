"""What a training run says: lines on stdout and in `log.txt`, numbers in `stats.jsonl`."""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from dnnlib.atomic import atomic_path


class RunLog:
    """Log files of a run, on its first worker; a log that is not enabled writes and prints nothing.

    `stats.jsonl` has one JSON object per status report: `images_seen`, `kimg`, `loss` (mean over pixels, images and
    the time since the last report), `lr`, `images_per_s`, `seconds` (of training, all starts together), `eta_s`
    and `time` (UTC). Not finite numbers stand as null.
    """

    def __init__(self, outdir: Path, enabled: bool = True) -> None:
        self._outdir = outdir
        self._enabled = enabled
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        if self._enabled:
            self._outdir.mkdir(parents=True, exist_ok=True)
            self._file = open(self._outdir / "log.txt", "a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with suppress(OSError):  # the disk may be full, which is then the error
                self.line(f"ended by {type(error).__name__}: {error}", echo=False)
        if self._file is not None:
            with suppress(OSError):  # every line was flushed; what a full disk did not take is lost
                self._file.close()

    def line(self, text: str, echo: bool = True) -> None:
        """One line of `log.txt`; also on stdout unless told otherwise."""
        if self._file is None:
            return
        self._file.write(f"{_now()} {text}\n")
        self._file.flush()
        if echo:
            with suppress(OSError):  # a terminal that was closed, a pipe whose reader left: the run goes on
                print(text, flush=True)

    def start(self, images_seen: int, duration: int, description: str, notes: Sequence[str] = ()) -> None:
        """Say what begins, with notes, and drop statistics from beyond the checkpoint that the run goes on from."""
        for note in notes:
            self.line(note)
        if images_seen > 0:
            description = f"resumed at {images_seen / 1000:.1f} of {duration / 1000:.1f} kimg: {description}"
        self.line(description)
        if self._enabled:
            self._drop_after(images_seen)

    def status(
        self, images_seen: int, duration: int, loss: float, lr: float, images_per_s: float, seconds: float
    ) -> None:
        """Report progress: a line, and a record in `stats.jsonl`."""
        if self._file is None:
            return
        eta = (duration - images_seen) / images_per_s
        self.line(
            f"kimg {images_seen / 1000:.1f}/{duration / 1000:.1f}  loss {loss:.4f}  lr {lr:.3g}  "
            f"{images_per_s:.1f} img/s  time {_duration(seconds)}  left {_duration(eta)}"
        )
        record = {
            "images_seen": images_seen,
            "kimg": images_seen / 1000,
            "loss": loss if math.isfinite(loss) else None,
            "lr": lr,
            "images_per_s": images_per_s,
            "seconds": seconds,
            "eta_s": eta,
            "time": _now(),
        }
        with open(self._outdir / "stats.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def _drop_after(self, images_seen: int) -> None:
        path = self._outdir / "stats.jsonl"
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if 0 < _images_seen(line) <= images_seen]
        if kept != lines:
            with atomic_path(path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _images_seen(line: str) -> int:
    """Images seen of a record; 0 for a line cut off by a crash."""
    try:
        record: Any = json.loads(line)
        return int(record["images_seen"])
    except (ValueError, KeyError, TypeError):
        return 0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
