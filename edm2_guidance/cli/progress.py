"""Progress on stderr: images per second, which of many parts is at work, and the time that is left. No torch here."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from dnnlib.terminal import bar_options, printable, unlocking
from edm2_guidance.cli.command import bad_input
from edm2_guidance.cli.signals import raise_if_told
from edm2_guidance.cli.status_text import duration


@contextmanager
def progress_bar(
    total: int,
    description: str,
    unit: str = "img",
    initial: int = 0,
    *,
    quiet: bool = False,
    beside: Callable[[], str] | None = None,
) -> Iterator[Callable[[int], None]]:
    """A bar over `total` items, of which `initial` were done before; yields what to call with each number finished.

    The call ends the work if a signal has told the command to, and what it raised was swallowed. With 0 it does nothing
    else, so that one thread may ask while another draws: a signal that raises while tqdm draws leaves it locked.

    quiet: show nothing, as all workers of a launch but the first do, and any under --quiet. beside: gives words to show
    beside the bar.
    """
    from tqdm import tqdm  # takes longer to import than all the rest of --help

    drawn = bar_options(sys.stderr)
    drawn["disable"] |= quiet
    drawn |= {"total": total, "initial": initial, "desc": printable(description), "unit": unit}
    with unlocking(tqdm)(smoothing=0.1, **drawn) as bar:

        def advance(count: int) -> None:
            raise_if_told()
            if count == 0:
                return
            if beside is not None:
                bar.set_postfix_str(beside(), refresh=False)
            bar.update(count)

        yield advance


class WorkBar:
    """The `progress` of work.complete.complete: says what begins, and shows a bar.

    As a context around `complete`: what is refused before the work begins is the user's mistake, as in `bad_input`.
    """

    def __init__(self, tell: Callable[[], None], *, quiet: bool = False) -> None:
        """tell: says what begins. quiet: show nothing."""
        self.began = False
        self._tell = tell
        self._quiet = quiet

    @contextmanager
    def __call__(self, total: int, there: int) -> Iterator[Callable[[int], None]]:
        self.began = True
        if not self._quiet:
            self._tell()
        with progress_bar(total, "images", initial=there, quiet=self._quiet) as advance:
            yield advance

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self.began:
            with bad_input():
                raise error


class Agenda:
    """Where a run is among its parts (rows and blocks, points of a search).

    Parts that turn out to be done already, and what an interrupted run has left of one, count as done, but not for the
    pace. Work is counted in images times a weight, which is the same for all images of a part.
    """

    def __init__(self, total: float, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """total: of all parts; more than that may come. quiet: show no bar."""
        self.total = total
        self._quiet = quiet
        self._clock = clock
        self._done = self._made = self._seconds = 0.0
        self._part = self._of_part = 0.0  # what the part at work has in all, and what of it was done
        self._weight = 1.0
        self._since: float | None = None  # when the bar that is open was opened

    def begin(self, images: int, weight: float = 1.0) -> None:
        """A part begins; the one before is done."""
        self._done += self._part
        self._part, self._of_part, self._weight = images * weight, 0.0, weight

    @contextmanager
    def bar(self, total: int, what: str, there: int) -> Iterator[Callable[[int], None]]:
        """A progress bar over the part at work, of whose images `there` were made before; shows `left` beside it."""
        self._of_part = there * self._weight
        self._since = self._clock()
        try:
            with progress_bar(total, what, initial=there, quiet=self._quiet, beside=self.left) as advance:

                def made(count: int) -> None:
                    if count:  # with 0, another thread may be at it
                        self._of_part += count * self._weight
                        self._made += count * self._weight
                    advance(count)

                yield made
        finally:
            self._seconds, self._since = self._elapsed(), None

    def left(self) -> str:
        """The time that is left for all parts, "about 12 min left in all"; "" until the pace is known."""
        if self._made <= 0:
            return ""
        work = max(0.0, self.total - self._done - self._of_part)
        return f"about {duration(work * self._elapsed() / self._made)} left in all"

    def left_of_all(self) -> str:
        """`left` in brackets, to end a line with."""
        return f" ({self.left()})" if self.left() else ""

    def _elapsed(self) -> float:
        """Seconds in which this process made something."""
        return self._seconds + (0.0 if self._since is None else self._clock() - self._since)
