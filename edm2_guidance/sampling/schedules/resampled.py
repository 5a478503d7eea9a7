"""Listed noise levels for another number of steps."""

from collections.abc import Sequence


def resampled(levels: Sequence[float], num_steps: int) -> list[float]:
    """As many levels, falling, with the same first and last one: ln sigma goes straight from each level to the next.

    levels: falling. For one step the first is taken.
    """
    last, made = len(levels) - 1, []
    for index in range(num_steps):
        place = index * last / (num_steps - 1) if num_steps > 1 else 0.0
        before = min(int(place), last)
        share = place - before
        level = levels[before]
        made.append(level if share == 0 else level * (levels[before + 1] / level) ** share)
    return made
