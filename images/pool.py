"""Work ahead in threads without losing order: for decoding and encoding images, where PIL releases the GIL."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_MAX_THREADS = 8


class OrderedPool(Generic[R]):
    """Calls run in a few threads; their results are taken in the order in which the calls were submitted.

    It does not bound itself: the owner pops before `len()`, the number of results not yet taken, grows too
    large. Leaving the `with` block drops what has not started and waits for what has.
    """

    def __init__(self, threads: int | None = None) -> None:
        """With that many threads; None takes one per usable core, at most 8."""
        self.threads = usable_cores() if threads is None else threads
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="images")
        self._futures: deque[Future[R]] = deque()

    def __len__(self) -> int:
        return len(self._futures)

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> None:
        """Start a call, or queue it if all threads are busy."""
        self._futures.append(self._executor.submit(function, *args, **kwargs))

    def pop(self) -> R:
        """The oldest result not yet taken; waits for it, and raises what the call raised."""
        return self._futures.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._futures.clear()


def usable_cores() -> int:
    """Number of cores that this process may run on, at most 8."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), _MAX_THREADS)
    return min(os.cpu_count() or 1, _MAX_THREADS)
