"""Progress on stderr: images per second and the time that is left."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dnnlib.terminal import printable, unguarded
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
