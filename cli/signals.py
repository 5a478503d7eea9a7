"""Stopping in good order when the system or the user asks for it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from cli.start import interrupted


class Terminated(BaseException):
    """SIGTERM came: leave everything in order and end."""


@contextmanager
def termination() -> Iterator[Callable[[], int | None]]:
    """Inside, SIGTERM raises Terminated and SIGINT KeyboardInterrupt, so that nothing half-made stays behind.

    Yields a function that tells which of them came first, None before. A batch system that wants the machine back sends
    SIGTERM and kills soon after: after the first signal SIGTERM does nothing. SIGINT is left alone where it is ignored,
    as shells have it for what runs in the background.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def first() -> int | None:
        return received[0] if received else None

    if threading.current_thread() is not threading.main_thread():
        yield first
        return
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, interrupted):
        numbers.append(signal.SIGINT)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield first
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
