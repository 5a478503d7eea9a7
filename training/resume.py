"""How a run begins in its folder: anew, or from the last sound checkpoint, the same one on all workers."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dnnlib.errors import Refused
from dnnlib.terminal import counted
from edm2_guidance.images.zips import json_bytes
from torch_utils import distributed
from training.checkpoint import CheckpointFolder, checkpoint_path, load_checkpoint
from training.run_folder import Run, check_same_run, check_unclaimed, files_of_runs, read_record, write_record

_ANEW = -1


@dataclass(frozen=True)
class Start:
    """state: the checkpoint to go on from; None to begin anew. notes: what is to be said of it, one line each."""

    state: dict[str, Any] | None
    notes: list[str]


@contextmanager
def _refused() -> Iterator[None]:
    """Inside, a ValueError is Refused: nothing was done yet."""
    try:
        yield
    except ValueError as error:
        raise Refused(str(error)) from error


def begin(
    outdir: Path, run: Run, checkpoints: CheckpointFolder, device: torch.device, about: Mapping[str, Any]
) -> Start:
    """Decide on the first worker how the run goes on, have all workers agree, and make the folder this run's.

    about: what its record tells of this start, beside the run.

    Called by all workers. Raises Refused on all of them: the folder holds another run (naming what differs) or
    files of another program, no checkpoint in it is sound, or the workers do not see the same run and checkpoint.
    """
    start = distributed.on_first(lambda: _choose(outdir, run, checkpoints), device) or Start(None, [])
    images = _ANEW if start.state is None else start.state["images_seen"]
    chosen = distributed.gather([images], device)[0][0]
    failure: Exception | None = None
    if distributed.rank() > 0 and chosen != _ANEW:
        try:
            start = _load(checkpoint_path(outdir, chosen))
        except (ValueError, OSError) as error:
            failure = error
    distributed.agree(failure, device)
    _check_alike(run, start, device)
    distributed.on_first(lambda: write_record(outdir, run, {"images_seen": max(images, 0), **about}), device)
    return start


@_refused()
def _choose(outdir: Path, run: Run, checkpoints: CheckpointFolder) -> Start:
    changes = read_record(outdir, run)
    found = checkpoints.newest()
    if found is not None:
        path, state, notes = found
        check_same_run(outdir, run, state["identity"])
        return Start(state, [*notes, *(changes or []), f"goes on from {path}"])
    if changes is None:
        check_unclaimed(outdir)
        return Start(None, [])
    networks = files_of_runs(outdir)
    if networks:
        changes.append(
            f"begins anew: an earlier start of this run left {counted(len(networks), 'network')} but no checkpoint; "
            "they stay until this one has come as far and writes them again"
        )
    return Start(None, changes)


@_refused()
def _load(path: Path) -> Start:
    return Start(load_checkpoint(path), [])


@_refused()
def _check_alike(run: Run, start: Start, device: torch.device) -> None:
    """Refused, on all workers, if they would not begin alike."""
    content = "" if start.state is None else start.state["sha256"]
    digest = hashlib.sha256(json_bytes({**run.identity, **run.free, "checkpoint": content})).digest()
    rows = distributed.gather([int.from_bytes(digest[:7])], device)
    other = [rank for rank, row in enumerate(rows) if row != rows[0]]
    if other:
        raise ValueError(
            f"worker {other[0]} has other options, data or another checkpoint than worker 0: give all workers the same "
            "options, with --outdir and --data on disks that all of them see"
        )
