"""What every script does first, before it imports what may be missing or take time. Standard library only."""

from __future__ import annotations  # an older Python must come as far as the line that says so

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType

ROOT = Path(__file__).resolve().parents[1]
PYTHON = (3, 11)


def start() -> None:
    """From here on Ctrl-C and a package that is missing end the script in one line; so does, at once, an old Python."""
    if sys.version_info < PYTHON:
        sys.exit(f"Error: Python {'.'.join(map(str, PYTHON))} or later is needed, this is {sys.version.split()[0]}")
    sys.excepthook = _excepthook
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)


def interrupted(number: int, frame: FrameType | None) -> None:
    """Handler of SIGINT while nothing is there to be put in order: before a command begins, and after it."""
    with suppress(OSError):  # stderr may be closed
        os.write(2, b"Error: interrupted\n")
    os._exit(128 + number)


def cure(error: ImportError) -> str:
    """What an import failed for, and what to do about it, in one line."""
    what = " ".join(str(error).split())
    top = (error.name or "").split(".")[0]
    if (ROOT / top).is_dir() or (ROOT / f"{top}.py").is_file():
        return f"{what}: files of this project are missing in {ROOT}; fetch it again"
    if top in sys.stdlib_module_names:
        return f"{what}: this Python ({sys.executable}) was built without it; take another"
    if (ROOT / ".venv" / "bin" / "activate").is_file() and Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        return f"{what}: run `source {_from_here('.venv/bin/activate')}` first, where everything is installed"
    return f"{what}: run `{Path(sys.executable).name} -m pip install -r {_from_here('requirements.txt')}` first"


def _from_here(name: str) -> str:
    """A file of the project as one would type it."""
    return os.path.relpath(ROOT / name) if Path.cwd().resolve().is_relative_to(ROOT) else str(ROOT / name)


def _excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if isinstance(error, ModuleNotFoundError) and os.environ.get("EDM2_TRACEBACK", "") in ("", "0"):
        print(f"Error: {cure(error)}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)
