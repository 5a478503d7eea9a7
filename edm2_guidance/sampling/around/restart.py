"""Noise added again and again within some ranges of noise levels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from edm2_guidance.recipe.around import Leg, Program
from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.recipe.spec import number_text, option

_FORM = "N/K/LO/HI"
_MOST = 10**4  # steps of all segments: of recipes out of files, too


@dataclass(frozen=True)
class _Segment:
    """`repeats` times from `high` down to about `low`, over `points` levels with both ends."""

    points: int
    repeats: int
    low: float
    high: float


@dataclass(frozen=True)
class Restart(Program):
    """Whenever the main way arrives at a segment's LO, noise up to HI is added and taken away over N levels, K times.

    A segment is N/K/LO/HI, the paper's [N, K, t_min, t_max]; N levels are N - 1 steps. LO is the nearest level of the
    main way; HI is as it is. Levels inside a segment are of the recipe's schedule between its ends. The noise that is
    added has the standard deviation S_noise sqrt(HI^2 - LO^2), of the image's own stream. Variants are the paper's, of
    EDM's networks: imagenet64 for 36 steps (203 evaluations of Heun), cifar10 for 18. The authors' programs also churn
    by 5 % inside segments, unless told otherwise; here the sampler's own churn is all, over the steps of all legs.
    """

    kind: ClassVar[str] = "restart"
    source: ClassVar[str] = "arXiv 2306.14878"
    formula: ClassVar[str] = "at LO, K times: x += S_noise sqrt(HI^2 - LO^2) n, then N - 1 steps from HI to LO"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cifar10": {},
        "imagenet64": {
            "segments": ("4/1/19.35/40.79", "4/1/1.09/1.92", "4/5/0.59/1.09", "4/5/0.3/0.59", "6/6/0.06/0.3")
        },
    }

    segments: tuple[str, ...] = option(("3/2/0.14/0.3",), "Segments, joined by +", unit=_FORM)
    S_noise: float = option(1.003, "Scale of the noise that is added", above=0)

    def check(self) -> None:
        found = [_segment(text) for text in self.segments]
        if sum(each.repeats * each.points for each in found) > _MOST:
            raise ValueError(f"{self.kind}: the segments have more than {_MOST:,} levels: take fewer")

    @property
    def acts(self) -> bool:
        return bool(self.segments)

    def legs(self, schedule: Schedule, num_steps: int) -> list[Leg]:
        levels = [*schedule.levels(num_steps), 0.0]
        found = self._by_level(levels)
        legs, way, renoise = [], [levels[0]], 0.0
        for index, level in enumerate(levels[1:], start=1):
            way.append(level)
            if index not in found:
                continue
            segment = found[index]
            inner = schedule.between(segment.high, level).levels(segment.points)
            for _ in range(segment.repeats):
                legs.append(Leg(tuple(way), renoise))
                way = [segment.high, *inner[1:-1], level]
                renoise = self.S_noise * math.sqrt(segment.high**2 - level**2)
        return [*legs, Leg(tuple(way), renoise)]

    def _by_level(self, levels: list[float]) -> dict[int, _Segment]:
        """The segments by the level, of all with 0, at which they end."""
        found: dict[int, _Segment] = {}
        for text in self.segments:
            segment = _segment(text)
            index = min(range(len(levels)), key=lambda place: abs(levels[place] - segment.low))
            level, said = levels[index], f"{self.kind}: the segment {text} ends at the nearest level, "
            if index in (0, len(levels) - 1):
                where = "at which all begins" if index == 0 else "where no noise is left"
                raise ValueError(f"{said}{number_text(level)}, {where}: give a LO between the schedule's ends")
            if level >= segment.high:
                raise ValueError(f"{said}{level:.4g}, which is not below its HI: take more steps, or a larger HI")
            if index in found:
                raise ValueError(f"{said}{level:.4g}, as another one does: take more steps, or leave one out")
            found[index] = segment
        return found


def _segment(text: str) -> _Segment:
    """ValueError for what is no segment."""
    parts = text.split("/")
    try:
        points, repeats = (int(part) for part in parts[:2])
        low, high = (float(part) for part in parts[2:])
    except ValueError:
        raise ValueError(f"segment {text}: write {_FORM}, such as 4/1/1.09/1.92") from None
    if points < 2 or repeats < 1 or not 0 < low < high < math.inf:
        raise ValueError(f"segment {text}: {_FORM} with N of 2 at least, K of 1, and 0 < LO < HI")
    return _Segment(points, repeats, low, high)
