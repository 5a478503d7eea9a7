"""Work in two threads: the caller makes items, a thread behind it finishes them, at most an item or two later."""

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
Task = Callable[[Iterator[T]], None]

_END = object()  # of the items of a task
_CLOSED = object()  # the block ended


class Follower(Generic[T]):
    """Tasks run in the thread, one after the other; each gets its items as they are made. What it leaves is dropped.

    One item waits at most; whoever has made the next one waits for room. An error of a task is raised where items are
    made, at the next one at the latest, or when the `with` block ends. An error or interrupt of the block reaches the
    task at work too, in place of further items, after those that were made. The block ends when the thread has.

    A signal may raise anywhere in the caller's thread, also where the block is left. Enter twice, `with Follower() as
    follower, follower:`, and the thread ends within the block though a second signal comes as the first one leaves it.
    """

    # The threads share queues alone, which are C: no signal leaves one locked, as it may a threading.Condition.

    def __init__(self) -> None:
        self._things: SimpleQueue[Any] = SimpleQueue()  # tasks, each before its items and `_END`
        self._room: SimpleQueue[None] = SimpleQueue()  # filled for each item that is taken, and when the thread is over
        self._room.put(None)
        self._begun = self._over = False  # the thread
        self._fault: BaseException | None = None  # of the block
        self._error: BaseException | None = None  # of a task
        self._thread = threading.Thread(target=self._work, name="follower", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fault = error
        self._things.put(_CLOSED)
        if self._begun:
            while not self._over:  # a `join` that a signal interrupts takes the thread for ended, in Python 3.11
                self._room.get()
            self._thread.join()
        if error is not None:
            error.__traceback__ = trace  # without the thread's lines
        elif self._error is not None:
            raise self._error

    def run(self, task: Task[T], items: Iterable[T]) -> None:
        """Make the items of a task; returns when the last one is made, and may be waiting."""
        if not self._begun:  # here, not on entering: what a signal interrupts before gets no task, and is closed
            self._thread.start()
            self._begun = True
        self._put(task)
        for item in items:
            if self._error is None:
                self._room.get()
            self._put(item)
        self._put(_END)

    def _put(self, thing: Any) -> None:
        if self._error is not None:
            raise self._error
        self._things.put(thing)

    def _take(self) -> Any:
        """The next thing; `_END` if there will be none. Raises what ended the block."""
        thing = self._things.get()
        if thing is not _CLOSED:
            return thing
        self._things.put(_CLOSED)  # for whoever asks again
        if self._fault is not None:
            raise self._fault
        return _END

    def _items(self) -> Iterator[T]:
        while (item := self._take()) is not _END:
            self._room.put(None)
            yield item

    def _work(self) -> None:
        try:
            while (task := self._take()) is not _END:
                items = self._items()
                task(items)
                for _ in items:
                    pass
        except BaseException as error:
            if error is not self._fault:
                self._error = error
        finally:
            self._over = True
            self._room.put(None)
