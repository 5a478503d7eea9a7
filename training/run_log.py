"""What a training run says: lines on stdout and in `log.txt`, numbers in `stats.jsonl`, both to trackers."""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from dnnlib.atomic import atomic_path
from dnnlib.terminal import is_quiet
from training.run_folder import Run
from training.trackers import Trackers

STATS_NAME = "stats.jsonl"


class RunLog:
    """Log files of a run, on its first worker; a log that is not enabled writes and prints nothing.

    `stats.jsonl` has one JSON object per status report: `images_seen`, `kimg`, `loss` (mean over pixels, images and
    the time since the last report), `lr`, `images_per_s`, `seconds` (of training, all starts together), `eta_s`
    and `time` (UTC). Not finite numbers stand as null. Lines with `network` are scores of snapshots instead: `metric`
    with its number of images, `value`, `interval` (or null), `reference` and `num_steps`.
    """

    def __init__(self, outdir: Path, enabled: bool = True) -> None:
        self._outdir = outdir
        self._enabled = enabled
        self._file: TextIO | None = None
        self._trackers: Trackers | None = None

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
        if self._trackers is not None:
            self._trackers.close()
        if self._file is not None:
            with suppress(OSError):  # every line was flushed; what a full disk did not take is lost
                self._file.close()

    def line(self, text: str, echo: bool = True) -> None:
        """One line of `log.txt`; also on stdout unless told otherwise, or to be quiet."""
        if self._file is None:
            return
        self._file.write(f"{_now()} {text}\n")
        self._file.flush()
        if echo and not is_quiet():
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

    def track(self, names: Sequence[str], run: Run, images_seen: int) -> None:
        """Tell trackers, by their names, from now on; the run goes on after `images_seen` images."""
        if self._enabled:
            self._trackers = Trackers(names, self._outdir, run, images_seen, self.line)

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
        record: dict[str, Any] = {
            "images_seen": images_seen,
            "kimg": images_seen / 1000,
            "loss": loss if math.isfinite(loss) else None,
            "lr": lr,
            "images_per_s": images_per_s,
            "seconds": seconds,
            "eta_s": eta,
            "time": _now(),
        }
        self._append(record, {name: record[name] for name in ("loss", "lr", "images_per_s")})

    def score(self, images_seen: int, network: Path, score: Mapping[str, Any]) -> None:
        """Report a score of a snapshot: a record in `stats.jsonl`, unless an earlier start of the run wrote it.

        score: plain JSON data, `metric` and `value` among it.
        """
        record = {"images_seen": images_seen, "kimg": images_seen / 1000, "network": network.name, **score}
        if all({**line, "time": None} != {**record, "time": None} for line in read_stats(self._outdir)):
            length = network.stem.rpartition("-")[2]
            self._append({**record, "time": _now()}, {f"{score['metric']} of {length}": score["value"]})

    def picture(self, images_seen: int, name: str, path: Path) -> None:
        """Say that a picture was written, and show it to trackers by this name."""
        self.line(f"wrote {path}")
        if self._trackers is not None:
            self._trackers.picture(images_seen, name, path)

    def _append(self, record: Mapping[str, Any], numbers: Mapping[str, float | None]) -> None:
        with open(self._outdir / STATS_NAME, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._trackers is not None:
            known = {name: value for name, value in numbers.items() if value is not None}
            self._trackers.numbers(record["images_seen"], known)

    def _drop_after(self, images_seen: int) -> None:
        path = self._outdir / STATS_NAME
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if 0 < _images_seen(line) <= images_seen]
        if kept != lines:
            with atomic_path(path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def read_stats(outdir: str | Path) -> list[dict[str, Any]]:
    """The records of a run's `stats.jsonl` (see `RunLog`), without lines that a crash cut off; none before the first.

    OSError if the file cannot be read.
    """
    path = Path(outdir, STATS_NAME)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if _images_seen(line) > 0]


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
