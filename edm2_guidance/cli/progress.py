"""Progress on stderr: images per second and the time that is left."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from dnnlib.terminal import printable, unguarded
from edm2_guidance.cli.command import bad_input
from edm2_guidance.cli.signals import raise_if_told


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

    The call ends the work if a signal has told the command to, and what it raised was swallowed.

    quiet: show nothing, as all workers of a launch but the first do. beside: gives words to show beside the bar.
    """
    from tqdm import tqdm  # takes longer to import than all the rest of --help

    seconds = 0.1 if sys.stderr.isatty() else 30  # in a log file every update is kept
    with tqdm(
        file=unguarded(sys.stderr),
        total=total,
        initial=initial,
        desc=printable(description),
        unit=unit,
        dynamic_ncols=True,
        smoothing=0.1,
        mininterval=seconds,
        disable=quiet,
    ) as bar:

        def advance(count: int) -> None:
            raise_if_told()
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
