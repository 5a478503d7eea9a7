"""Work of many parts: which part is at work, and when all will be done, at the pace of this process. No torch here."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.status_text import duration


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
