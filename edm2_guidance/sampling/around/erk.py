"""A correction of steps along which the slope changes fastest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.around import Around
from edm2_guidance.recipe.parts import Sampler, Step, StepInfo
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor

_EPS = 1e-8


@dataclass(frozen=True)
class ERK(Around):
    """Each step ends h (w_stiff h rho)^2 <v, d> v further on where rho > w_con; h = sigma - sigma_next. No evaluations.

    Two slopes are compared, d = (x - D) / sigma at the step's start and the one at another place that D was asked at:
    rho is the length of their difference over that of the places', v its direction, of each image. Of Heun the other
    place is where Euler's step led just before, at the same noise level, so the first step stays as it is; of the
    midpoint method it is the midpoint of the same step. The last step stays as it is, too. Slopes and lengths are
    computed in float64, from x and D as the state has them. Whatever else changes D from one step to the next, such as
    a guide that is switched on, or noise on labels, counts as a change of the slope.
    """

    kind: ClassVar[str] = "erk"
    source: ClassVar[str] = "arXiv 2603.03692"
    formula: ClassVar[str] = (
        "d = (x - D) / sigma, at two places; rho = |d - d_2| / |x - x_2|, v = (d - d_2) / |d - d_2|\n"
        "x' -= h (w_stiff h rho)^2 <v, d> v where rho > w_con; h = sigma - sigma'"
    )

    w_stiff: float = option(1.0, "How much stiffness counts; 0 = off", low=0)
    w_con: float = option(0.5, "Stiffness rho above which a step is corrected", low=0)

    @property
    def acts(self) -> bool:
        return self.w_stiff != 0

    def check_use(self, sampler: Sampler, steps: Sequence[StepInfo]) -> None:
        if not sampler.probes:
            raise ValueError(
                f"{self.kind} compares two values of D in a step, and {sampler.kind} asks for one alone: take "
                "--sampler=heun"
            )
        if any(step.sigma > step.level for step in steps):
            raise ValueError(f"{self.kind} compares slopes at one noise level, which churn moves: leave out S_churn")

    def correct(self, done: Step, memory: "dict[str, Tensor]") -> "Tensor":
        info, probe = done.info, done.probe
        if probe is None:
            return done.x
        other = (probe.x, probe.denoised, probe.sigma)
        if probe.sigma == info.sigma_next:  # it is the start of the next step that it is compared with
            known = (memory["x"], memory["denoised"], info.sigma) if memory else None
            memory["x"], memory["denoised"] = probe.x, probe.denoised
            if known is None:
                return done.x
            other = known
        return (done.x.double() + self._moved(done, *other)).to(done.x.dtype)

    def _moved(self, done: Step, x: "Tensor", denoised: "Tensor", sigma: float) -> "Tensor":
        """What is added to the end of a step, float64, given another place, D there and its noise level."""
        h, start = done.info.sigma - done.info.sigma_next, done.start.double()
        slope = (start - done.denoised.double()) / done.info.sigma
        apart = slope - (x.double() - denoised.double()) / sigma
        stiffness = _length(apart) / (_length(start - x.double()) + _EPS)
        direction = apart / (_length(apart) + _EPS)
        along = (direction * slope).flatten(1).sum(1).view_as(stiffness)
        size = h * (self.w_stiff * h * stiffness) ** 2
        made: Tensor = -size * (stiffness > self.w_con) * along * direction
        return made


def _length(x: "Tensor") -> "Tensor":
    """Of each image, [N,1,1,1]."""
    made: Tensor = x.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
    return made
