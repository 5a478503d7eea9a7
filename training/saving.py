"""Files of a run, written while it trains on: what goes into them is copied first, as the next steps change it."""

import copy
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from torch_utils.finite import tensors_in

Kind = TypeVar("Kind")


def copied(state: Kind) -> Kind:
    """Nested dictionaries and lists as they are now, their tensors on the CPU."""
    memo: dict[int, Any] = {id(tensor): tensor.detach().to("cpu", copy=True) for _, tensor in tensors_in(state)}
    return copy.deepcopy(state, memo)


class Background:
    """Does one piece of work at a time in a thread of its own: writes files while the run goes on.

    As a context: what was begun is finished before the block is left. What it raises, `wait` raises.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        """say: is given what the work says, by `check` and `wait`, in the thread that calls these."""
        self._say = say
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write-files")
        self._work: Future[None] | None = None
        self._said: deque[str] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception as second:
            if error is None:
                raise
            with suppress(OSError):  # a full disk takes no warning, either
                self._say(f"warning: nor were all files written: {second}")
        finally:
            self._pool.shutdown()

    @property
    def failed(self) -> bool:
        """Whether what was begun has ended with an error."""
        return self._work is not None and self._work.done() and self._work.exception() is not None

    def begin(self, work: Callable[[Callable[[str], None]], None]) -> None:
        """Begin with `work`, given what to tell in lines, when what was begun before is done: one copy at a time."""
        self.wait()
        self._work = self._pool.submit(work, self._said.append)

    def check(self) -> None:
        """Tell what the work has told so far."""
        while self._said:
            self._say(self._said.popleft())

    def settle(self) -> None:
        """Return when what was begun has ended, in whatever way."""
        if self._work is not None:
            wait([self._work])
        self.check()

    def wait(self) -> None:
        """The same; raises what it raised, once."""
        self.settle()
        work, self._work = self._work, None
        if work is not None:
            work.result()
