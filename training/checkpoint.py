"""Checkpoints of a training run: everything that the next step depends on, as tensors and plain data."""

import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from dnnlib.stand_ins import refuse_stand_in
from dnnlib.util import atomic_path

FORMAT = 1
_NAME = re.compile(r"training-state-(\d{7,})\.pt")


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


def save_checkpoint(outdir: str | os.PathLike[str], state: dict[str, Any], keep: int = 3) -> Path:
    """Write a checkpoint in one step, then delete all but the last `keep`. `state["images_seen"]` names it."""
    path = checkpoint_path(outdir, state["images_seen"])
    with atomic_path(path) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)
    for old in find_checkpoints(outdir)[:-keep]:
        old.unlink()
    return path


def load_checkpoint(path: str | os.PathLike[str], device: torch.device) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Raises ValueError if the file is damaged or was written in another format.
    """
    refuse_stand_in(path)
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        version = state.get("format")
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} is not a readable checkpoint: delete it to resume from the one before") from error
    if version != FORMAT:
        raise ValueError(f"{path} is a checkpoint of format {version}; this version reads format {FORMAT}")
    return state
