"""Folders that other users of the machine can write to, such as /tmp: what of one's own may lie there, and how."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

_CURE = "set DNNLIB_CACHE_DIR to a folder that is yours alone"


def check_own(folder: str | os.PathLike[str]) -> None:
    """PermissionError if a folder lies in a place that all users share and another of them could have filled it.

    There, whoever is first may make a folder of any name: what leads to `folder` must belong to this user (or to the
    administrator), and others must not be able to write to it. Places that are not shared are not looked at, nor is
    what does not exist yet.
    """
    for path in _in_shared_place(Path(folder)):
        status, owners = path.stat(), {path.lstat().st_uid, path.stat().st_uid}
        if not owners <= {os.geteuid(), 0}:
            raise PermissionError(f"{path} belongs to another user, who could put anything there: {_CURE}")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"{path} can be written to by other users: chmod go-w {path}, or {_CURE}")
        if not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return  # what is below is closed to others


def make_own(folder: str | os.PathLike[str]) -> None:
    """Make a folder, and those above it; in a place that all users share, for this user alone (mode 0700).

    PermissionError as `check_own`, OSError if it cannot be made.
    """
    folder = Path(folder).absolute()
    for path in reversed([folder, *folder.parents]):
        if not path.exists():
            shared = any(_is_shared(parent) for parent in path.parents)
            path.mkdir(0o700 if shared else 0o777, exist_ok=True)
    check_own(folder)


def _in_shared_place(folder: Path) -> Iterator[Path]:
    """The existing folders on the way to `folder` that lie in a shared one, from the outermost on."""
    shared = False
    for path in reversed([folder.absolute(), *folder.absolute().parents]):
        if not os.path.lexists(path):
            return
        if shared:
            yield path
        shared = shared or _is_shared(path)


def _is_shared(folder: Path) -> bool:
    """Whether all users may make files in a folder, and none may remove those of others."""
    wanted = stat.S_ISVTX | stat.S_IWOTH
    return hasattr(os, "geteuid") and folder.exists() and folder.stat().st_mode & wanted == wanted
