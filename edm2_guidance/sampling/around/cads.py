"""Noise on the labels that networks are told, less and less of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edm2_guidance.recipe.around import Around, Normal
from edm2_guidance.recipe.parts import StepInfo
from edm2_guidance.recipe.spec import option
from edm2_guidance.sampling.around.time import time_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CADS(Around):
    """Embedded labels y become sqrt(gamma) y + s sqrt(1 - gamma) n, brought back to the mean and deviation of y.

    gamma is 1 where t <= tau1, 0 where t >= tau2, linear between. Mean and deviation are over the vector of an image;
    psi is the share of what is brought back. n is drawn anew for each step and image, by its seed: predictor and
    corrector, and all networks whose vectors are as long, see the same. t is the share of the steps that is left;
    time=flow takes sigma / (1 + sigma). Experimental: no settings for EDM2 are published. Its embedded labels are what
    comes out of its label embedding, as DiT's are, before the noise level's is added.
    """

    kind: ClassVar[str] = "cads"
    source: ClassVar[str] = "arXiv 2310.17347"
    formula: ClassVar[str] = (
        "gamma = 1 where t <= tau1, 0 where t >= tau2, linear between\n"
        "y' = sqrt(gamma) y + s sqrt(1 - gamma) n, with mean and deviation of y again"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"label noise"})

    tau1: float = option(0.5, "Time up to which labels stay", low=0, high=1)
    tau2: float = option(0.9, "Time from which they are noise alone", above=0)
    s: float = option(0.15, "Scale of the noise", low=0)
    psi: float = option(1.0, "Share of what has mean and deviation brought back", low=0, high=1)
    time: Literal["steps", "flow"] = option("steps", "What t is")

    def check(self) -> None:
        if self.tau1 >= self.tau2 and self.tau1 < 1:
            raise ValueError(f"{self.kind}: tau1={self.tau1:g}, tau2={self.tau2:g}: need tau1 < tau2")

    @property
    def acts(self) -> bool:
        return self.tau1 < 1

    def kept(self, step: StepInfo) -> float:
        """gamma."""
        t = time_of(step, self.time)
        return min(max((self.tau2 - t) / (self.tau2 - self.tau1), 0.0), 1.0) if t > self.tau1 else 1.0

    def told(self, step: StepInfo, normal: Normal) -> "Callable[[Tensor], Tensor] | None":
        gamma = self.kept(step)
        if gamma == 1:
            return None
        from torch_utils.transfer import to_device

        drawn: dict[int, Tensor] = {}

        def change(embedded: "Tensor") -> "Tensor":
            length = embedded.shape[1]
            if length not in drawn:
                noise = normal(f"{self.kind} {length}", [length])
                drawn[length] = to_device(noise, embedded.device).to(embedded.dtype)
            noise = drawn[length].repeat(len(embedded) // len(drawn[length]), 1)
            noised = math.sqrt(gamma) * embedded + self.s * math.sqrt(1 - gamma) * noise
            return self.psi * _like(noised, embedded) + (1 - self.psi) * noised

        return change


def _like(noised: "Tensor", embedded: "Tensor") -> "Tensor":
    """The same with mean and standard deviation of other vectors, row by row."""
    centred = noised - noised.mean(1, keepdim=True)
    scale = embedded.std(1, keepdim=True) / centred.std(1, keepdim=True).clamp_min(1e-12)
    return centred * scale + embedded.mean(1, keepdim=True)
