"""Noise levels of a network that was trained in discrete time."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from dnnlib.terminal import counted
from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.recipe.spec import option
from edm2_guidance.recipe.timesteps import kept_timesteps, noise_levels


@dataclass(frozen=True)
class Timesteps(Schedule):
    """The noise levels of the timesteps, of 1000, that a step list keeps; the list knows how many they are."""

    kind: ClassVar[str] = "timesteps"
    source: ClassVar[str] = "arXiv 2102.09672, Section 4; arXiv 2010.02502"
    formula: ClassVar[str] = (
        "sigma_t = sqrt((1 - a_t) / a_t), a_t = product of 1 - beta_s up to t, at the timesteps that are kept"
    )

    steps: str = option("250", "How many; of equal sections, the data's first, 100+50+40+30+30; by a stride, ddim25")
    betas: Literal["linear", "cosine", "scaled-linear"] = option(
        "linear", "Variances that the steps add, as in the network's training"
    )

    def check(self) -> None:
        kept_timesteps(self.steps)

    @property
    def num_steps(self) -> int:
        return len(kept_timesteps(self.steps))

    def levels(self, num_steps: int) -> list[float]:
        if num_steps != self.num_steps:
            steps = counted(num_steps, "step")
            raise ValueError(f"{steps}, and the schedule {self} has {self.num_steps}: leave out --steps, or change it")
        table = noise_levels(self.betas)
        return [table[timestep] for timestep in reversed(kept_timesteps(self.steps))]
