"""Stopping in good order when the system or the user asks for it."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from edm2_guidance.cli.start import interrupted

#: What asks a process to end, beside SIGINT: a terminal that closes (HUP), a system (TERM), and a batch system some
#: time before it kills (USR1, USR2 and XCPU, as `sbatch --signal` and others have it). Windows knows SIGTERM alone.
ENDING = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)  # fmt: skip


class Terminated(BaseException):
    """One of `ENDING` came, its `number`: leave everything in order and end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_first: Callable[[], int | None] | None = None  # tells which signal came to the command that is at work


def raise_if_told() -> None:
    """Raise again what a signal raised, for long work to ask between its pieces.

    Whatever runs when a signal comes may swallow the exception: a destructor, a callback of the garbage collector, a
    library that tries something else instead. Other threads than the main one, where signals raise, finish what they
    are at: the main one ends them.
    """
    number = None if _first is None else _first()
    if number is not None and threading.current_thread() is threading.main_thread():
        raise _exception(number)


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


@contextmanager
def termination() -> Iterator[Callable[[], int | None]]:
    """Inside, the signals in `ENDING` raise Terminated and SIGINT KeyboardInterrupt, so that nothing half-made stays.

    Yields a function that tells which of them came first, None before. A batch system that wants the machine back sends
    one and kills soon after: after the first signal those in `ENDING` do nothing. A signal is left alone where it is
    ignored, as `nohup` has SIGHUP, and shells SIGINT for what runs in the background.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}  # whatever signal.signal gave

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for ending in previous.keys() - {signal.SIGINT}:
            signal.signal(ending, signal.SIG_IGN)
        raise _exception(number)

    def first() -> int | None:
        return received[0] if received else None

    if threading.current_thread() is not threading.main_thread():
        yield first
        return
    numbers = list(ENDING)
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, interrupted):
        numbers.append(signal.SIGINT)
    global _first
    outer, _first = _first, first
    try:
        with _handled(numbers, handle, previous):
            yield first
    finally:
        _first = outer


@contextmanager
def stop_signals() -> Iterator[Callable[[], int | None]]:
    """Inside, `ENDING` and the first SIGINT do nothing but make the function that is yielded return their number.

    It returns None before that. A second SIGINT raises KeyboardInterrupt, for whoever does not want to wait. Signals
    that are ignored stay so, as in `termination`.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    with _handled([*ENDING, signal.SIGINT], handle, {}):
        yield lambda: received[0] if received else None


@contextmanager
def _handled(
    numbers: Iterable[int], handle: Callable[[int, FrameType | None], None], previous: dict[int, Any]
) -> Iterator[None]:
    """Inside, `handle` gets the signals that are not ignored; `previous` is filled with what handled them before."""
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
