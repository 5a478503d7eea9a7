"""Which run a folder belongs to: its options and data, written down at the first start and compared at every other.

A run is told by the options that shape its networks and by the content of its data set. Other options may change from
start to start, as may software and number of workers; what did change is said.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dnnlib.atomic import atomic_path
from edm2_guidance.images.zips import json_bytes, read_object

RECORD_NAME = "training_options.json"
FORMAT = 1
#: What no other trainer's record of this name has as its first entry.
_KIND = "edm2-guidance training run"
_CODE = ("config", "dataset", "encoders", "finite", "loss", "networks_edm2", "phema", "training_loop")


@dataclass(frozen=True)
class Run:
    """identity: what may not change: options and data by name. free: what may. Plain JSON data, both."""

    identity: Mapping[str, Any]
    free: Mapping[str, Any]

    @property
    def name(self) -> str:
        """16 hex digits that tell the run from others."""
        return hashlib.sha256(json_bytes({**self.identity})).hexdigest()[:16]


def code_hash() -> str:
    """16 hex digits over the text of the modules that shape a run's numbers."""
    folder = Path(__file__).parent
    total = hashlib.sha256()
    for name in _CODE:
        total.update((folder / f"{name}.py").read_bytes())
    return total.hexdigest()[:16]


def check_same_run(outdir: Path, run: Run, identity: Mapping[str, Any]) -> None:
    """Raise ValueError, naming all that differs, if a run of another `identity` is in the folder.

    What an older version did not write down is not compared.
    """
    differing = [
        f"{_option(name)}={identity[name]}, not {run.identity[name]}"
        for name in sorted(run.identity.keys() & identity.keys())
        if run.identity[name] != identity[name]
    ]
    if differing:
        raise ValueError(
            f"{outdir} holds a run with {'; '.join(differing)}: give the same options and data to go on with it, or "
            "another --outdir"
        )


def read_record(outdir: Path, run: Run) -> list[str] | None:
    """What a start of the same run in the folder had otherwise than this one, one line each; None without a record.

    Raises ValueError if the record is that of another run, naming what differs, of another program, or damaged.
    """
    path = outdir / RECORD_NAME
    if not os.path.lexists(path):
        return None
    try:
        record = read_object(path)
    except ValueError as error:
        raise ValueError(f"{error}. Move it elsewhere: then the same command goes on from the checkpoints") from error
    identity, free = record.get("identity"), record.get("free")
    if record.get("kind") != _KIND or not isinstance(identity, dict) or not isinstance(free, dict):
        raise ValueError(f"{path} was written by another trainer, such as EDM2's own: give another --outdir")
    if record.get("format") != FORMAT:
        raise ValueError(f"{path} was written by a newer version of this program: use that, or another --outdir")
    check_same_run(outdir, run, identity)
    names = [name for name in run.free if name in free and free[name] != run.free[name]]
    return [f"{_option(name)} is {run.free[name]}, was {free[name]}" for name in names]


def write_record(outdir: Path, run: Run, about: Mapping[str, Any]) -> None:
    """Write down that the folder belongs to `run`, and what this start of it has.

    `starts` has an entry for the first start, and for each that differs from the one before in more than when it was.
    """
    path = outdir / RECORD_NAME
    starts = read_object(path).get("starts", []) if path.exists() else []
    start = json.loads(json.dumps({**about, "free": {**run.free}}))  # as it is read again
    if not starts or _what(starts[-1]) != _what(start):
        starts = [*starts, {"time": datetime.now(UTC).isoformat(timespec="seconds"), **start}]
    content = {
        "kind": _KIND, "format": FORMAT, "run": run.name, "identity": {**run.identity}, "free": {**run.free},
        "starts": starts,
    }  # fmt: skip
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _what(start: Mapping[str, Any]) -> dict[str, Any]:
    """A start without when it was."""
    return {name: value for name, value in start.items() if name not in ("time", "images_seen")}


def files_of_runs(outdir: Path) -> list[Path]:
    """Networks and training states in a folder, by the names that this and other trainers give them, sorted."""
    patterns = ("network-snapshot-*", "training-state-*")
    return sorted(path for pattern in patterns for path in outdir.glob(pattern)) if outdir.is_dir() else []


def check_unclaimed(outdir: Path) -> None:
    """Raise ValueError if a folder without a record and a checkpoint of this program holds files of some run."""
    found = files_of_runs(outdir)
    if found:
        raise ValueError(
            f"{outdir} holds files of a run that left no record here, such as {found[0].name} ({len(found)} in all): "
            "they may be of another run or program. Give another --outdir, or move them elsewhere"
        )


def _option(name: str) -> str:
    """Options have no spaces in their names, what was found out has."""
    return name if " " in name else f"--{name}"
