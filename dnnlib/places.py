"""Files by name: what ships with the project has names, everything else is looked for where the user is.

`mnist16-cond` stands for `edm2_guidance/pretrained/mnist16-cond.pkl`, from any folder and in any installation. What is
kept of a name (in recipes, ledgers, notes) is what was typed, never where it was found.
"""

import difflib
import functools
import os
import re
from collections.abc import Iterable
from glob import has_magic
from pathlib import Path

from dnnlib.published import PUBLISHED
from dnnlib.urls import without_secrets

EMBEDDED = Path(__file__).resolve().parents[1] / "edm2_guidance" / "pretrained"  # what ships here
_BEFORE = EMBEDDED.parents[1] / "pretrained"  # where it lay, which scripts of users name by its whole path
_SUFFIXES = (".pkl", ".npz", ".safetensors")


@functools.cache
def embedded() -> dict[str, Path]:
    """The files that ship, by name: the path in `pretrained/` without suffix, such as `mnist16-cond` or `toy/main`."""
    files = sorted(file for file in EMBEDDED.rglob("*") if file.suffix in _SUFFIXES)
    return {file.relative_to(EMBEDDED).with_suffix("").as_posix(): file for file in files}


def find_file(name: str | os.PathLike[str]) -> Path:
    """The path that a name on this machine stands for, whether anything is there or not. `~` is the home folder.

    A relative name of nothing in the current folder may be that of a file that ships, `mnist16-cond` or
    `pretrained/mnist16-cond.pkl`.
    """
    path = Path(os.path.expanduser(name))
    if path.exists():
        return path
    if path.is_relative_to(_BEFORE):
        path = Path("pretrained") / path.relative_to(_BEFORE)
    if path.is_absolute():
        return path
    shipped = embedded().get(path.as_posix(), EMBEDDED.parent / path)
    return shipped if EMBEDDED in shipped.parents and shipped.is_file() else path


def files_like(pattern: str | os.PathLike[str]) -> list[Path]:
    """The files that a pattern such as `shards/train-*.tar` stands for, sorted; none where something has that name.

    Its last part alone may hold `*`, `?` and `[...]`; hidden files are left out.
    """
    path = Path(os.path.expanduser(pattern))
    if path.exists() or not has_magic(path.name) or has_magic(str(path.parent)):
        return []
    return sorted(file for file in path.parent.glob(path.name) if file.is_file() and not file.name.startswith("."))


PIPELINE_INDEX = "model_index.json"  # in a folder, what the library diffusers says of a pipeline there


def is_pipeline(source: str) -> bool:
    """Whether a source counts as a pipeline of diffusers: hf://ORG/REPO, or a folder with a `model_index.json`."""
    try:
        return source.startswith("hf://") or (Path(os.path.expanduser(source)) / PIPELINE_INDEX).is_file()
    except (OSError, ValueError):  # of a text that can be no path
        return False


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
    """The name of a file that ships, the path of another relative to the current folder, if `find_file` finds it so.

    Else the path as it is. Ledgers with such names do not depend on where the project lies.
    """
    names = [name for name, file in embedded().items() if file == Path(path)]
    if Path(path).is_relative_to(Path.cwd()):
        names.append(Path(path).relative_to(Path.cwd()).as_posix())
    return next((name for name in names if find_file(name).absolute() == Path(path)), os.fspath(path))


def recorded_place(source: str | os.PathLike[str]) -> str:
    """Where a file was found, as recipes record it: a URL or a name as it is, a path relative to the current folder.

    Of what does not lie below that folder, the file's name alone; of a URL no password or signature.
    """
    text = os.fspath(source)
    if "://" in text:
        return without_secrets(text)
    own = python_function(text)
    path, function = (find_file(text), "") if own is None else (own[0], f":{own[1]}")
    names = [name for name, file in embedded().items() if file == path]
    if names or (text in PUBLISHED and not path.exists()):
        return (names or [text])[0]
    path = Path(os.path.abspath(path))
    return (path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.name) + function


def near(name: str | os.PathLike[str], known: Iterable[str] | None = None, cutoff: float = 0.6) -> str:
    """The end of a message that nothing has this name: "; near it: mnist16-cond", or nothing if no name is near.

    known: the names that there are; None: those of files. cutoff: how much alike names must be, 1 for the same.
    """
    names = {each.lower(): each for each in (known if known is not None else [*embedded(), *PUBLISHED])}
    found = difflib.get_close_matches(os.fspath(name).lower(), names, cutoff=cutoff)
    return f"; near it: {', '.join(names[each] for each in found)}" if found else ""
