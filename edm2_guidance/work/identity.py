"""Whether work that is there is the same as what is asked for, and in what it differs, in words. Torch-free."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from dnnlib.errors import Refused
from dnnlib.inference import PLAIN, precision_option

_ABSENT = object()


def refuse(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> NoReturn:
    lines = "\n".join(f"  {line}" for line in differences(found, wanted))
    cure = "give another name, or move it away to start over"
    to_choose = ["batch", "shard_size", "diagnostics", "form", "precision"]
    to_choose += ["threads"] if type(found.get("threads")) is int else []
    ours = {key: value for key, value in wanted.items() if key not in to_choose}
    if all(found.get(key) == value for key, value in ours.items()):
        does = "goes on with it" if "shard_size" in found else "gives this one"
        cure = f"{_as_there(found, wanted)} {does}, or {cure}"
    raise Refused(f"{path} belongs to another run: {cure}. There | asked for now:\n{lines}")


def _as_there(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The options by which a run goes on, or a finished result is taken, where it differs in nothing else."""
    sizes = [f"--{key.replace('_', '-')}={_short(found[key])}" for key in ("batch", "shard_size") if key in found]
    options = " ".join(filter(None, [*sizes, inference_options(found, wanted)]))
    if found.get("diagnostics") != wanted.get("diagnostics"):
        options += " --diagnostics" if "diagnostics" in found else " without --diagnostics"
    threads = found.get("threads")
    if type(threads) is int and threads != wanted.get("threads"):
        options = f"OMP_NUM_THREADS={threads} in the environment with {options}"
    return options


def inference_options(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The options by which networks compute in the form and precision of what is there; empty if they do already."""
    options = []
    if found.get("form") != wanted.get("form"):
        options.append(f"--form={found.get('form', PLAIN)}")
    if found.get("precision") != wanted.get("precision"):
        said = found.get("precision")
        options.append("without --precision" if said is None else f"--precision={precision_option(str(said))}")
    return " ".join(options)


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], limit: int = 6) -> list[str]:
    """Readable lines, at most `limit` + 1, on where two records of a run differ.

    With equal recipe hashes the recipes are equal, whatever their files are called; with others, the hash itself
    is told only if nothing else is there to tell, and so is that of a file if it has another name. Where files were
    found is never told.
    """
    if found.get("recipe_hash") == wanted.get("recipe_hash"):
        found, wanted = ({k: v for k, v in record.items() if k != "recipe"} for record in (found, wanted))
    old, new = dict(_flatten("", found)), dict(_flatten("", wanted))
    names = [name for name in {**new, **old} if old.get(name) != new.get(name) and not name.endswith(".found")]
    obvious = {"recipe_hash", *(f"{name.removesuffix('source')}sha256" for name in names if name.endswith("source"))}
    names = [name for name in names if name not in obvious] or names
    pairs = {name: _told(old.get(name, _ABSENT), new.get(name, _ABSENT)) for name in names}
    lines = [f"{name}: {_short(before)} | {_short(now)}" for name, (before, now) in pairs.items()]
    return lines if len(lines) <= limit else [*lines[:limit], f"... and {len(lines) - limit} more"]


def _flatten(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of everything in nested dicts, and in lists of dicts. An empty list has nothing in it."""
    if isinstance(value, Mapping) and not name.endswith("prompts"):  # one thing, whatever stands for it
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, inner in items:
        yield from _flatten(f"{name}.{key}" if name else str(key), inner)


def _told(old: Any, new: Any) -> tuple[Any, Any]:
    """Both values; of functions of the user's own, whose texts are long, what differs: a setting, or the hash."""
    if not all(isinstance(value, str) and value.startswith("own-") for value in (old, new)):
        return old, new
    (kind, *before), (other, *now) = old.split(":"), new.split(":")
    same = {*before} & {*now}
    return (
        ":".join([kind, *(part for part in before if part not in same)]),
        ":".join([other, *(part for part in now if part not in same)]),
    )


def _short(value: Any) -> str:
    """A value in few characters, of which long ones that differ end differently."""
    if value is _ABSENT:
        return "(none)"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({hashlib.sha256(text.encode()).hexdigest()[:8]})"
