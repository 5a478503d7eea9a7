"""Checkpoints of a training run: all that the next step depends on, as tensors and plain data, with a checksum."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dnnlib.atomic import atomic_path
from dnnlib.stand_ins import refuse_stand_in
from torch_utils.finite import first_not_finite
from torch_utils.safe_pickle import DamagedPickleError, UnsafePickleError
from torch_utils.tensor_file import read_tensors

FORMAT = 2  # 1 had no checksum
_NAME = re.compile(r"training-state-(\d{7,})\.pt")


#: What a run goes on from, by name, and its type.
_PARTS = {
    "identity.batch": int,
    "images_seen": int,
    "seconds": float,
    "net": dict,
    "optimizer.state": dict,
    "optimizer.param_groups": list,
    "ema.sigma_rels": list,
    "ema.averages": list,
}


class UnsoundCheckpointError(ValueError):
    """What nothing can go on from: damaged, no file at all, incomplete, or with values that are not finite."""


def checkpoint_path(outdir: str | os.PathLike[str], images_seen: int) -> Path:
    """Name of the checkpoint after `images_seen` images: thousands of them, as in `training-state-0000128.pt`."""
    return Path(outdir) / f"training-state-{images_seen // 1000:07d}.pt"


def find_checkpoints(outdir: str | os.PathLike[str]) -> list[Path]:
    """Checkpoints in a folder, oldest first; empty if the folder is not there."""
    folder = Path(outdir)
    if not folder.is_dir():
        return []
    matches = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(matches, key=lambda pair: int(pair[0].group(1)))]


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint, tensors on the CPU, without executing anything in it; `sha256` is that of its content.

    Raises UnsoundCheckpointError if it is damaged, no file, or lacks what a run needs, or holds values that are not
    finite; ValueError, saying what it is, if another program or a newer version wrote it; OSError if it cannot be read.
    """
    if os.path.lexists(path) and not os.path.isfile(path):
        raise UnsoundCheckpointError(f"{path} is no file, but a folder, a pipe, or a link to nothing")
    try:
        refuse_stand_in(path)
    except ValueError as error:
        raise UnsoundCheckpointError(str(error)) from error
    state = _read(path)
    known = isinstance(state, dict) and "images_seen" in state and isinstance(state.get("format"), int)
    if not known:
        raise _foreign(path)
    if not 1 <= state["format"] <= FORMAT:
        raise ValueError(
            f"{path} is a checkpoint of format {state['format']}, this version reads up to {FORMAT}: go on with the "
            "version that wrote it, or give another --outdir"
        )
    announced = state.pop("sha256", None)
    found = content_hash(state)
    if state["format"] > 1 and announced != found:
        raise UnsoundCheckpointError(f"{path} is damaged: its content does not have its checksum")
    odd = _first_odd(state)
    if odd is not None:
        raise UnsoundCheckpointError(f"{path} is no whole checkpoint: its {odd} is missing, or cannot be")
    name = first_not_finite(state)
    if name is not None:
        raise UnsoundCheckpointError(f"{path} holds values that are not finite, first in {name}")
    return {**state, "sha256": found}


def _first_odd(state: dict[str, Any]) -> str | None:
    """The first part without which, or with which, no run could go on; None if all are there."""
    for name, kind in _PARTS.items():
        value: Any = state
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if type(value) is not kind:
            return name
    whole_steps = state["images_seen"] >= 0 and state["images_seen"] % max(state["identity"]["batch"], 1) == 0
    return None if whole_steps else "images_seen"


def _read(path: str | os.PathLike[str]) -> Any:
    try:
        return read_tensors(path)
    except DamagedPickleError as error:
        raise UnsoundCheckpointError(str(error)) from error
    except UnsafePickleError as error:
        raise _foreign(path) from error


def _foreign(path: str | os.PathLike[str]) -> ValueError:
    return ValueError(
        f"{path} is no checkpoint of this program, but of EDM2's own train_edm2.py or another tool: go on with that, "
        "or give another --outdir"
    )


def content_hash(state: Any) -> str:
    """SHA-256, 64 hex digits, over names, types, shapes and bytes of all that nested dictionaries and lists hold."""
    total = hashlib.sha256()
    for part in _parts(state):
        total.update(part)
    return total.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype}{list(value.shape)}".encode()
        yield value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy()
    elif isinstance(value, dict):
        yield f"dict{len(value)}".encode()
        for key, item in value.items():
            yield f"{key!r}:".encode()
            yield from _parts(item)
    elif isinstance(value, list | tuple):
        yield f"list{len(value)}".encode()
        for item in value:
            yield from _parts(item)
    else:
        yield f"{value!r};".encode()


class CheckpointFolder:
    """The checkpoints in a run's folder: written, found again, and rotated. What is unsound is never deleted."""

    def __init__(self, outdir: str | os.PathLike[str], keep: int = 3) -> None:
        """keep: how many sound checkpoints stay when a new one is written."""
        self.outdir, self.keep = Path(outdir), keep
        self._sound: dict[Path, bool] = {}

    def newest(self) -> tuple[Path, dict[str, Any], list[str]] | None:
        """The last sound checkpoint: its path, its content, and a line for each unsound one that came after it.

        None if there are no checkpoints. Raises ValueError if all are unsound, and as `load_checkpoint`.
        """
        passed_over = []
        for path in reversed(find_checkpoints(self.outdir)):
            try:
                state = load_checkpoint(path)
            except UnsoundCheckpointError as error:
                self._sound[path] = False
                passed_over.append(f"passed over, and kept: {error}")
                continue
            self._sound[path] = True
            return path, state, passed_over
        if passed_over:
            raise ValueError(
                f"no checkpoint in {self.outdir} can be gone on from ({passed_over[0].partition(': ')[2]}): put one "
                "back from a copy, give another --outdir, or move them elsewhere to start this run anew"
            )
        return None

    def save(self, state: dict[str, Any]) -> Path:
        """Write a checkpoint in one step, then delete sound ones beyond the last `keep`. `images_seen` names it."""
        path = checkpoint_path(self.outdir, state["images_seen"])
        if os.path.lexists(path) and not self._is_sound(path):
            path.rename(_free_name(path))
        content = {"format": FORMAT, **state}
        with atomic_path(path) as temporary:
            _write({**content, "sha256": content_hash(content)}, temporary)
        self._sound[path] = True
        found = find_checkpoints(self.outdir)
        if len(found) > self.keep:
            for old in [each for each in found if self._is_sound(each)][: -self.keep]:
                old.unlink()
        return path

    def last_sound(self) -> Path | None:
        """The last checkpoint that this object wrote or read."""
        sound = [path for path in find_checkpoints(self.outdir) if self._sound.get(path)]
        return sound[-1] if sound else None

    def _is_sound(self, path: Path) -> bool:
        if path not in self._sound:
            try:
                load_checkpoint(path)
                self._sound[path] = True
            except (ValueError, OSError):
                self._sound[path] = False
        return self._sound[path]


def _write(content: dict[str, Any], path: Path) -> None:
    """As torch.save, but with the OSError of a disk that is full: of that torch makes a RuntimeError of its own."""
    try:
        with open(path, "wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _free_name(path: Path) -> Path:
    """A name beside a file that is not to be lost, under which no program looks for checkpoints."""
    number = 1
    while (free := path.with_name(f"{path.name}.unsound{number}")).exists():
        number += 1
    return free
