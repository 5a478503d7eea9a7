"""What looks at a run's snapshots while it trains, such as previews and scores: sampling and metrics make them, so the
command hands them to the loop.

They work on the network files, as a user would. Whatever becomes of them, the run goes on, with the same numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from dnnlib.terminal import counted
from torch_utils import distributed
from training.config import TrainingConfig
from training.run_log import RunLog

_OF_A_STEP = 3  # evaluations that training on an image is counted as: forward, and twice that backward


@dataclass(frozen=True)
class Snapshot:
    """The network files of one moment, one per EMA length.

    number: counted from 1. last: whether the run ends with it. fresh: written just now, not found by a later start.
    """

    paths: tuple[Path, ...]
    images_seen: int
    number: int
    last: bool
    fresh: bool

    def is_due(self, every: int) -> bool:
        """Whether it is one of every so many, or the last."""
        return self.last or self.number % every == 0


class ToldToStop(Exception):
    """The run is to end: its checkpoint matters more than what looks at it."""


class Watcher(Protocol):
    """Looks at every so many snapshots, on the first worker.

    name: of what it makes. text: the same with what it is made of. evaluations: of the network, of one snapshot.
    """

    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def every(self) -> int: ...
    @property
    def evaluations(self) -> int: ...

    def look(self, snapshot: Snapshot, log: RunLog, beat: Callable[[], None]) -> None:
        """Look at a snapshot that is due, and tell the log. Makes only what is not there of one that is not fresh.

        beat: to be called after every batch; raises ToldToStop. It may raise anything, which is told as a warning.
        """


def cost_text(watcher: Watcher, config: TrainingConfig) -> str:
    """What a watcher does in a whole run, beside the run's own steps."""
    snapshots = -(-config.duration // config.snapshot)
    looks = -(-snapshots // watcher.every)
    share = looks * watcher.evaluations / (_OF_A_STEP * config.duration)
    return (
        f"{watcher.text} at {counted(looks, 'snapshot', ',')}: {watcher.evaluations:,} evaluations of the network each "
        f"on worker 0, in all {share:.2%} of what training computes"
    )


def look(
    watchers: Sequence[Watcher], snapshot: Snapshot, log: RunLog, told: Callable[[], bool], device: torch.device
) -> bool:
    """Show the first worker's watchers a snapshot, while the others wait; whether some worker was told to stop.

    Called by all workers. torch's global random state stays as it was.
    """

    def work(beat: Callable[[], bool]) -> None:
        def checked() -> None:
            if beat():
                raise ToldToStop

        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for watcher in watchers:
                if snapshot.is_due(watcher.every):
                    _look(watcher, snapshot, log, checked)

    return distributed.while_others_wait(work, told, device)


def _look(watcher: Watcher, snapshot: Snapshot, log: RunLog, beat: Callable[[], None]) -> None:
    where = f"of the snapshot at {snapshot.images_seen / 1000:.1f} kimg"
    try:
        beat()
        watcher.look(snapshot, log, beat)
    except ToldToStop:
        log.line(f"{watcher.name} {where}: left out, as the run is told to stop; the next start makes them")
    except Exception as error:  # whatever it is, hours of training are worth more
        reason = " ".join(str(error).split()) or type(error).__name__
        log.line(f"warning: no {watcher.name} {where}, the run goes on: {reason}")
