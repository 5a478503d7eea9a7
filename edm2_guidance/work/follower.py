"""Work in two threads: the caller makes items, a thread behind it finishes them, at most an item or two later."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
Task = Callable[[Iterator[T]], None]

_END = object()  # of the items of a task


class Follower(Generic[T]):
    """Tasks run in the thread, one after the other; each gets its items as they are made, and takes all of them.

    One item waits at most; whoever has made the next one waits for room. An error of a task is raised where items are
    made, at the next one at the latest, or when the `with` block ends. An error or interrupt of the block reaches the
    task at work too, in place of further items, after those that were made. The block ends when the thread has.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Any] = deque()  # tasks, each before its items and `_END`
        self._has_room = True  # for an item
        self._closed = False
        self._fault: BaseException | None = None  # of the block
        self._error: BaseException | None = None  # of a task
        self._thread = threading.Thread(target=self._work, name="follower")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed, self._fault = True, error
            self._changed.notify_all()
        try:
            self._thread.join()
        except BaseException:  # an interrupt: what is being finished takes a moment
            self._thread.join()
            raise
        if error is not None:
            error.__traceback__ = trace  # without the thread's lines
        elif self._error is not None:
            raise self._error

    def run(self, task: Task[T], items: Iterable[T]) -> None:
        """Make the items of a task; returns when the last one is made, and may be waiting."""
        self._put(task)
        for item in items:
            self._put(item, is_item=True)
        self._put(_END)

    def _put(self, thing: Any, *, is_item: bool = False) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._has_room or not is_item or self._error is not None)
            if self._error is not None:
                raise self._error
            self._waiting.append(thing)
            self._has_room &= not is_item
            self._changed.notify_all()

    def _take(self, *, is_item: bool = False) -> Any:
        """The next thing; `_END` if there will be none. Raises what ended the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._waiting:
                thing = self._waiting.popleft()
                self._has_room |= is_item and thing is not _END
                self._changed.notify_all()
                return thing
        if self._fault is not None:
            raise self._fault
        return _END

    def _items(self) -> Iterator[T]:
        while (item := self._take(is_item=True)) is not _END:
            yield item

    def _work(self) -> None:
        try:
            while (task := self._take()) is not _END:
                task(self._items())
        except BaseException as error:
            if error is not self._fault:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
