"""Work ahead in threads without losing order: for decoding and encoding images, where PIL releases the GIL."""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Generic, ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_MAX_THREADS = 8

#: What decoded images may take that nobody has asked for yet. One alone may take more.
MAX_BYTES_AHEAD = 1 << 28


class OrderedPool(Generic[R]):
    """Calls run in a few threads; their results are taken in the order in which the calls were submitted.

    It does not bound the number of results: the owner pops before `len()`, of those not yet taken, grows too large. It
    bounds their bytes, if calls `reserve` them. Leaving the `with` block drops what has not started and waits for what
    has.
    """

    def __init__(self, threads: int | None = None, max_bytes: int = MAX_BYTES_AHEAD) -> None:
        """threads: None takes one per usable core, at most 8. max_bytes: that calls may reserve together."""
        self.threads = min(usable_cores(), _MAX_THREADS) if threads is None else threads
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="images")
        self._futures: deque[Future[R]] = deque()
        self._room = _Room(max_bytes)
        self._submitted = self._popped = 0

    def __len__(self) -> int:
        return len(self._futures)

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> None:
        """Start a call, or queue it if all threads are busy."""
        number, self._submitted = self._submitted, self._submitted + 1
        self._futures.append(self._executor.submit(self._run, number, partial(function, *args, **kwargs)))

    def reserve(self, num_bytes: int) -> None:
        """Called inside a submitted call, once, before it takes memory: waits until there is room for so many bytes.

        They count until the call's result is popped. Calls are served in order, and one that is alone always.
        """
        self._room.take(self._room.caller.number, num_bytes)

    def pop(self) -> R:
        """The oldest result not yet taken; waits for it, and raises what the call raised."""
        try:
            return self._futures.popleft().result()
        finally:
            self._room.give_back(self._popped)
            self._popped += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.open()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._futures.clear()

    def _run(self, number: int, call: Callable[[], R]) -> R:
        self._room.caller.number = number
        try:
            return call()
        finally:
            self._room.pass_by(number)


class _Room:
    """Bytes that numbered callers hold, taken in the order of their numbers, so that the oldest is never blocked."""

    def __init__(self, limit: int) -> None:
        self.caller = threading.local()
        self._limit = limit
        self._held: dict[int, int] = {}  # of every caller who has had its turn and was not popped
        self._turn = 0
        self._early: set[int] = set()  # ended without asking, before their turn
        self._changed = threading.Condition()

    def take(self, number: int, num_bytes: int) -> None:
        """Wait for the caller's turn, and for room beside what others hold; none is needed beside nothing."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn >= number and self._fits(num_bytes))
            self._held[number] = num_bytes
            self._advance(number)

    def pass_by(self, number: int) -> None:
        """The caller has ended: if it did not ask for room, it will not."""
        with self._changed:
            self._advance(number)

    def give_back(self, number: int) -> None:
        with self._changed:
            self._held.pop(number, None)
            self._changed.notify_all()

    def open(self) -> None:
        """Nobody waits any more: the results of who does are wanted by no one."""
        with self._changed:
            self._limit, self._turn = 1 << 62, 1 << 62
            self._changed.notify_all()

    def _fits(self, num_bytes: int) -> bool:
        held = sum(self._held.values())
        return held == 0 or held + num_bytes <= self._limit

    def _advance(self, number: int) -> None:
        """Once those before it have had their turn, the caller has had it too."""
        if number >= self._turn:
            self._early.add(number)
        while self._turn in self._early:
            self._early.discard(self._turn)
            self._turn += 1
        self._changed.notify_all()


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
