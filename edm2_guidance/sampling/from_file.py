"""Kinds whose numbers may come from a small text file. No torch here.

The file is read once, when the kind is made. What recipes hold, store and hash are its numbers: they travel with the
recipe, and a file that has changed since is another recipe.
"""

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dnnlib.places import find_file, near
from dnnlib.regular import read_regular
from edm2_guidance.recipe.spec import Spec, digest, option

MAX_BYTES = 1 << 20
_LONG = 60  # characters of a caption


@dataclass(frozen=True)
class FromFile(Spec):
    """Base of these kinds: `file` stands for the fields that `read` makes of it, and is not kept itself.

    ValueError or OSError for a file that is not there or malformed, and for fields that are given beside it.
    """

    file: str = option("", "File that the numbers are read from, once; the recipe keeps the numbers", unit="path")

    def __post_init__(self) -> None:
        if self.file != "":
            path, usual = find_file(os.fspath(self.file)), {each.name: each.default for each in fields(self)}
            if not path.exists():
                raise ValueError(f"{self.kind}: no file at '{self.file}'{near(self.file)}")
            for name, value in self.read(path).items():
                if getattr(self, name) != usual[name]:
                    raise ValueError(f"{self.kind}: the file says {name}, which is given too: leave one of them out")
                object.__setattr__(self, name, value)
            object.__setattr__(self, "file", "")
        super().__post_init__()

    def read(self, path: Path) -> dict[str, Any]:
        """The fields that the file stands for. ValueError for one that is malformed."""
        raise NotImplementedError

    @property
    def caption(self) -> str:
        """Its text; of many numbers, the first digits of their hash."""
        text = str(self)
        return text if len(text) <= _LONG else f"{self.kind} {digest(self)[:8]}"


def read_columns(path: Path, names: Sequence[str]) -> list[tuple[float, ...]]:
    """The columns of a text file: a row per line, its numbers parted by spaces or a comma, `#` before remarks.

    names: of the columns, for messages. ValueError naming the line for what is no such row, and for a file without any.
    """
    try:
        text = read_regular(path, MAX_BYTES).decode("utf-8-sig")  # editors of Windows begin with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: write {' and '.join(names)} on each line") from error
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.partition("#")[0].replace(",", " ").split()
        if not parts:
            continue
        row = [_number(part) for part in parts]
        if len(row) != len(names) or not all(map(math.isfinite, row)):
            raise ValueError(f"{path}, line {number}: '{line.strip()[:40]}' is not {' and '.join(names)}, as numbers")
        rows.append(tuple(row))
    if not rows:
        raise ValueError(f"{path} holds no numbers: write {' and '.join(names)} on each line")
    return list(zip(*rows, strict=True))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def check_falling(kind: str, levels: Sequence[float]) -> None:
    """ValueError unless these are noise levels of a schedule or table: above 0, finite, each below the one before."""
    if not all(0 < level < math.inf for level in levels):
        raise ValueError(f"{kind}: noise levels must be above 0 and finite")
    for before, after in itertools.pairwise(levels):
        if after >= before:
            raise ValueError(f"{kind}: noise levels must fall, and {after:g} comes after {before:g}")
