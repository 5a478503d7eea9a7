"""The weight that stands for renoising with the reference's prediction."""

from dataclasses import dataclass
from typing import ClassVar

from edm2_guidance.recipe.parts import Reference, Sampler, Scheduled, Seen, StepInfo
from edm2_guidance.recipe.spec import option


@dataclass(frozen=True)
class CFGpp(Scheduled):
    """w sigma / (sigma - sigma_next), w between 0 and 1: in first-order steps the noise of the reference is added back.

    D is then D_g + w (D_m - D_g), and x goes on with the noise that D_g sees in it; sigma_next is the level before a
    sampler adds noise at the end of a step. In steps of a higher order that does not hold; with `everywhere` the weight
    is taken there all the same, as in the code of arXiv 2505.21101: inside of a step and at its end, sigma_next is the
    schedule's next lower level. There is one noise to add back, so one reference, a network, and the linear rule.
    """

    kind: ClassVar[str] = "cfgpp"
    source: ClassVar[str] = "arXiv 2406.08070"
    formula: ClassVar[str] = "w_t = w sigma / (sigma - sigma')"
    alone: ClassVar[bool] = True
    one_way: ClassVar[bool] = True

    w: float = option(1.0, "How much of the push stays in what is added back; 0 = D of the reference", low=0, high=1)
    everywhere: bool = option(False, "Also with samplers of a higher order")

    @property
    def moves(self) -> bool:
        return True

    def check_use(self, sampler: Sampler, reference: Reference) -> None:
        if reference.of_classifier:
            raise ValueError(f"the weight {self.kind} adds back the noise of a network, which a classifier has not")
        first_order = sampler.memory == 0 and sampler.evaluations([2.0, 1.0]) == [1, 1]
        if not first_order and not self.everywhere:
            raise ValueError(
                f"the weight {self.kind} is of first-order steps, which those of {sampler.kind} are not: take "
                f"--sampler=euler, or give {self.kind}:everywhere"
            )

    def value(self, step: StepInfo) -> float:
        lands = step.sigma_next if step.lands is None else step.lands
        return self.w * step.sigma / (step.sigma - lands)

    def at(self, step: StepInfo, seen: Seen) -> float:
        if not self.everywhere or seen.sigma >= step.sigma:
            return self.value(step)
        lower = next((level for level in step.levels if level < seen.sigma), 0.0)
        return self.w * seen.sigma / (seen.sigma - lower)
