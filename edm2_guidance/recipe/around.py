"""What is done around guidance: to labels, to D, to where a step led, or to the order of steps. No torch when imported.

Beside the other parts (`recipe/parts.py`), and several at a time.
"""

import bisect
import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Call, Sampler, Schedule, Step, StepInfo
from edm2_guidance.recipe.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

# By a purpose and a shape: unit normal [N, *shape] on the CPU, each image's by its seed, the next of this purpose.
Normal = Callable[[str, Sequence[int]], "Tensor"]


@dataclass(frozen=True)
class Around(Spec):
    """What is done around guidance: to the labels that networks are told, to D, or to where a step led.

    memory: what it has kept of these images, under names of its own; empty at the first step, and after a renoise.

    Attributes:
        needs: What networks that are told classes must support (`models.base.Model.supports`). Empty where it is also
            for images without classes.
        of_pixels: Whether it holds D in the range of pixels: latents have none.
    """

    axis: ClassVar[str] = "around"
    needs: ClassVar[frozenset[str]] = frozenset()
    of_pixels: ClassVar[bool] = False

    @property
    def acts(self) -> bool:
        """Whether it changes any image."""
        return True

    def check_use(self, sampler: Sampler, steps: Sequence[StepInfo]) -> None:
        """ValueError if it makes no sense with the sampler, or with these steps of it."""

    def told(self, step: StepInfo, normal: Normal) -> "Callable[[Tensor], Tensor] | None":
        """What networks make of their embedded labels [N or 2 N, E] in this step; None = they stay."""
        return None

    def finish(self, denoised: "Tensor", call: Call, memory: "dict[str, Tensor]") -> "Tensor":
        """The guided D as the sampler gets it [N,C,H,W]."""
        return denoised

    def correct(self, done: Step, memory: "dict[str, Tensor]") -> "Tensor":
        """The x [N,C,H,W] with which a step goes on."""
        return done.x


@dataclass(frozen=True)
class Leg:
    """One falling way of several. levels: that its steps start from, and the one at which the last step ends.

    renoise: the standard deviation of the noise that is added before it. guided: whether guides may be on.
    """

    levels: tuple[float, ...]
    renoise: float = 0.0
    guided: bool = True

    def evaluations(self, sampler: Sampler) -> list[int]:
        """How often each of its steps evaluates D."""
        if self.levels[-1] == 0:
            return sampler.evaluations(self.levels[:-1])
        return sampler.evaluations(self.levels)[:-1]  # as before a step to 0


@dataclass(frozen=True)
class Program(Around):
    """An around that says which levels follow each other."""

    @abstractmethod
    def legs(self, schedule: Schedule, num_steps: int) -> list[Leg]:
        """The legs, in their order; the last one leads to 0. ValueError for a schedule that it cannot have."""


def planned_legs(sampler: Sampler, legs: Sequence[Leg], levels: Sequence[float]) -> list[StepInfo]:
    """The steps of all legs, as the sampler makes them; the last one leads to 0. levels: of a single way."""
    starts = tuple(level for leg in legs for level in leg.levels[:-1])
    pairs = [(leg, *pair) for leg in legs for pair in itertools.pairwise(leg.levels)]
    stops = [index + 1 for index, (_, _, after) in enumerate(pairs) if after == 0]
    steps = []
    for index, (leg, level, after) in enumerate(pairs):
        begins = level == leg.levels[0]
        info = StepInfo(
            index,
            len(starts),
            level,
            level,
            after,
            levels=starts,
            renoise=leg.renoise if begins else 0.0,
            guided=leg.guided,
            stop=stops[bisect.bisect_right(stops, index)],
            share=_share(level, levels),
        )
        steps.append(sampler.plan(info, leg.levels[:-1]))
    return steps


def _share(level: float, levels: Sequence[float]) -> float:
    """Where a level lies among falling ones, in [0, 1]: between two of them by the logarithm."""
    if level >= levels[0]:
        return 0.0 if len(levels) > 1 else 1.0
    if level <= levels[-1]:
        return 1.0
    after = bisect.bisect_left(levels, -level, key=lambda each: -each)
    high, low = levels[after - 1], levels[after]
    return (after - math.log(level / low) / math.log(high / low)) / (len(levels) - 1)
