"""Numbers that were measured on this machine, kept in the cache folder: what is lost is measured again."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from dnnlib.atomic import atomic_path
from dnnlib.cache import make_cache_dir_path


def find(kind: str, key: str) -> float | None:
    """The positive number that was kept under this key; None if there is none, or its file is damaged."""
    value = _kept(kind).get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 < value <= sys.float_info.max else None


def keep(kind: str, key: str, value: float) -> None:
    """Keep a number; of two processes that keep one at the same time, one may lose its own. Never fails."""
    with suppress(OSError), atomic_path(_path(kind)) as temporary:
        temporary.write_text(json.dumps({**_kept(kind), key: value}, indent=1), encoding="utf-8")


def _path(kind: str) -> Path:
    return Path(make_cache_dir_path("measured", f"{kind}.json"))


def _kept(kind: str) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(_path(kind).read_bytes())
        return found if isinstance(found, dict) else {}
    return {}
