"""Stopping in good order when the system or the user asks for it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """SIGTERM came: leave everything in order and end."""


@contextmanager
def termination() -> Iterator[None]:
    """Inside, the first SIGTERM raises Terminated, so that nothing half-made stays behind; later ones do nothing.

    A batch system that wants the machine back sends it, and kills soon after.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def stop_signals() -> Iterator[Callable[[], int | None]]:
    """Inside, SIGTERM and the first SIGINT do nothing but make the function that is yielded return their number.

    It returns None before that. A second SIGINT raises KeyboardInterrupt, for whoever does not want to wait.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
