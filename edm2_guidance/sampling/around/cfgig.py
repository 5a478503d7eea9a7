"""First a sample without guidance, then guided ones from it, with less noise."""

from dataclasses import dataclass
from typing import ClassVar

from edm2_guidance.recipe.around import Leg, Program
from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.recipe.spec import option


@dataclass(frozen=True)
class CFGiG(Program):
    """The first `init` steps make a sample without guides, to which noise is added and taken away with them.

    That happens `rounds` times, with noise of level sigma. Each round has as many steps; what does not divide is for
    the first sample. The noise is of the image's own stream, and levels are of the recipe's schedule, from sigma down
    to its lowest one.
    """

    kind: ClassVar[str] = "cfgig"
    source: ClassVar[str] = "arXiv 2505.21101"
    formula: ClassVar[str] = (
        "init steps without guides; then, rounds times: x += sigma n, and guided steps from sigma to 0"
    )

    init: int = option(12, "Steps without guides", low=1)
    rounds: int = option(2, "How often noise is added", low=1)
    sigma: float = option(1.0, "Level of that noise", unit="sigma", above=0)

    def legs(self, schedule: Schedule, num_steps: int) -> list[Leg]:
        each, more = divmod(num_steps - self.init, self.rounds)
        if each < 1:
            raise ValueError(
                f"{self.kind}: of {num_steps} steps {self.init} are without guides, and {self.rounds} rounds need one "
                "each: take more steps, or a smaller init"
            )
        bottom = schedule.levels(num_steps)[-1]
        if bottom >= self.sigma:
            raise ValueError(f"{self.kind}: sigma={self.sigma:g} is not above the schedule's lowest level, {bottom:g}")
        inner = (*schedule.between(self.sigma, bottom).levels(each), 0.0)
        first = Leg((*schedule.levels(self.init + more), 0.0), guided=False)
        return [first, *[Leg(inner, renoise=self.sigma)] * self.rounds]
