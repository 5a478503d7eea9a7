"""Where a file lies that a command line names: in the current folder, else in the project's.

So commands such as those of the README, which name `pretrained/mnist16-refs.npz`, work from any folder. What is kept
of a name (in recipes, ledgers, notes) is what was typed, never where it was found.
"""

import os
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
EMBEDDED = PROJECT / "edm2_guidance" / "pretrained"  # what ships here


def find_file(name: str | os.PathLike[str]) -> Path:
    """The path that a name on this machine stands for, whether anything is there or not. `~` is the home folder.

    A relative name of nothing in the current folder stands for the file of that name in the project's folder, if there
    is one; `mnist16-cond`, and `pretrained/mnist16-cond.pkl`, for what ships here. Folders are not looked for there:
    those of the project hold code.
    """
    path = Path(os.path.expanduser(name))
    if path.is_absolute() or path.exists():
        return path
    shipped = [*EMBEDDED.glob(f"{path}.*")] if re.fullmatch(r"[\w-]+", os.fspath(path)) else []
    found = [EMBEDDED.parent / path, PROJECT / path, *shipped]
    return next((file for file in found if file.is_file()), path)


def python_function(source: str) -> tuple[Path, str] | None:
    """File and function of a network of the user's own, FILE.py:function; None for what does not look like one.

    The file is the one of that path and no other, since its code will run. ValueError if no function is named.
    """
    found = re.fullmatch(r"(.+\.py)(?::(.*))?", source)
    if found is None or "://" in source:
        return None
    if not (found[2] or "").isidentifier():
        raise ValueError(f"{source}: name the function of it that makes the network, such as {found[1]}:make")
    return Path(os.path.expanduser(found[1])), found[2]


def short_name(path: str | os.PathLike[str]) -> str:
    """The name of a file relative to the project's folder or the current one, if `find_file` finds that file by it.

    Else the path as it is. Ledgers with such names do not depend on where the project lies.
    """
    for folder in (EMBEDDED.parent, PROJECT, Path.cwd()):
        name = Path(path).relative_to(folder) if Path(path).is_relative_to(folder) else None
        if name is not None and find_file(name).absolute() == Path(path):
            return name.as_posix()
    return os.fspath(path)
