"""The weight of the published ancestral sampler with a classifier."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Reference, Sampler, Seen, StepInfo, Weight

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Posterior(Weight):
    """Of a classifier under ddpm: w - 1 moves the mean of a step by its variance times the gradient, as published.

    By the learned variance, where the main network has one. A scale that is good here is none for the other weights,
    which move D itself, as DDIM's published form does.
    """

    kind: ClassVar[str] = "posterior"
    source: ClassVar[str] = "arXiv 2105.05233, Algorithm 1"
    formula: ClassVar[str] = "x' = mean + (w - 1) V grad log p(class | x) + sqrt(V) n, with V the variance of the step"

    def check_use(self, sampler: Sampler, reference: Reference) -> None:
        if not reference.of_classifier:
            raise ValueError(f"the weight {self.kind} is of a classifier: the reference {reference} has no gradient")
        if not sampler.ancestral:
            raise ValueError(
                f"the weight {self.kind} is by the variance of an ancestral step, which the sampler {sampler.kind} has "
                "not: take --sampler=ddpm, or --weight=constant, whose scales are others"
            )

    def off(self, step: StepInfo) -> bool:
        return self.w == 1

    def at(self, step: StepInfo, seen: Seen) -> "float | Tensor":
        """D moves the mean by 1 - (sigma_next / sigma)^2 of itself; the gradient is to x / sqrt(1 + sigma^2)."""
        sigma, after = step.sigma, step.sigma_next
        share = math.sqrt((1 + sigma**2) / (1 + after**2)) / (sigma**2 - after**2)
        return 1 + (self.w - 1) * share * step.variance(seen.mix)
