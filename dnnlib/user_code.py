"""Code of the user's own in FILE.py:function: it runs, and what it does wrong is said in one line."""

import hashlib
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnnlib.regular import read_regular

MAX_BYTES = 1 << 24


def _is_no_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError)


@dataclass(frozen=True)
class UserCode:
    """Where the user's code is from. passes: which errors of it stay what they are."""

    source: str
    path: Path
    passes: Callable[[BaseException], bool] = field(default=_is_no_memory, compare=False)

    @contextmanager
    def runs(self, what: str) -> Iterator[None]:
        """Inside, whatever it raises is a ValueError in one line; memory that runs out stays what it is."""
        try:
            yield
        except (Exception, SystemExit) as error:
            if self.passes(error):
                raise
            raise ValueError(
                f"{self.source}: {what} failed: {type(error).__name__}: {_message(error)}{self._where(error)}"
            ) from error

    def _where(self, error: BaseException) -> str:
        """The line of the file in which it was, " (FILE.py, line N)"; empty if in none."""
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(self.path)]
        if isinstance(error, SyntaxError) and error.filename == str(self.path):
            lines.append(error.lineno)
        return f" ({self.path.name}, line {lines[-1]})" if lines else ""

    def function(self, name: str) -> tuple[Callable[..., Any], bytes]:
        """A function of the file, which is run for it, and the file's text.

        ValueError if there is none, or running the file fails; OSError if it cannot be read.
        """
        text = read_regular(self.path, MAX_BYTES)
        found = getattr(_module(self, text), name, None)
        if not callable(found):
            raise ValueError(f"{self.source}: {self.path.name} has no function {name}")
        return found, text


def _message(error: BaseException) -> str:
    return error.msg if isinstance(error, SyntaxError) else str(error)  # which says file and line its own way


def _module(code: UserCode, text: bytes) -> types.ModuleType:
    """The file as a module, run once however many of its functions are asked for; it imports what lies beside it."""
    digest = hashlib.sha256(f"{code.path}\0".encode() + text).hexdigest()
    module = types.ModuleType(f"{code.path.stem}_{digest[:16]}")
    if module.__name__ in sys.modules:
        return sys.modules[module.__name__]
    module.__file__ = os.fspath(code.path)
    sys.modules[module.__name__] = module  # dataclasses, among others, look for it there
    if str(code.path.parent) not in sys.path:
        sys.path.append(str(code.path.parent))  # at the end: nothing of ours is hidden by it
    try:
        with code.runs("running it"):
            exec(compile(text, str(code.path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module
