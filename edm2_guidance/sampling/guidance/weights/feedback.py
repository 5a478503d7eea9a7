"""A weight that each image finds for itself, from where the steps lead."""

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Seen, Step, StepInfo, Weight
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor

_ALPHA, _AT_T0, _HIGHEST = 10.0, 3.0, 3.0  # how much t1 counts; the weight at t0 by the drift alone; of the logarithm


@dataclass(frozen=True)
class Feedback(Weight):
    """e^L / (e^L - 1 + pi) + w - 1; L, of each image, says how likely its way is under main network and reference.

    L is 0 at first, so the weight 1 / pi. After each step it falls by tau / (2 v) (|x' - m|^2 - |x' - m_g|^2), where m
    and m_g are the means that main network and reference gave x', and v their variance; and it moves by delta. It stays
    such that the weight is `most` at most, but for the first one. A step's weight is that of its start, in the
    corrector too. w = 1 adds nothing; the hybrids of the paper add w - 1, at all noise levels or at those between lo
    and hi.

    Unless they are given, tau and delta come from two shares of the steps, counted from the data: by drift alone the
    weight is 3 at t0, and at t1 drift and evidence balance.

    Experimental: where the paper and the authors' code differ, constants are those of the code.
    """

    kind: ClassVar[str] = "feedback"
    source: ClassVar[str] = "arXiv 2506.06085"
    formula: ClassVar[str] = (
        "w_t = e^L / (e^L - 1 + pi) + w - 1; L = 0 at first\n"
        "after each step L += delta - tau / (2 v) (|x' - m|^2 - |x' - m_g|^2)\n"
        "r = (sigma' / sigma)^2; m = r x + (1 - r) D_m, m_g = r x + (1 - r) D_g, v = (sigma^2 - sigma'^2) r"
    )
    remembers: ClassVar[bool] = True
    instead: ClassVar[str] = "lo and hi, between which w - 1 is added"
    one_way: ClassVar[bool] = True

    w: float = option(1.0, "1 more than what is added to the weight; 1 = nothing")
    pi: float = option(0.999, "How far main network and reference may be mixed at first", above=0, high=0.999999)
    t0: float = option(0.556, "Share of the steps at which drift alone makes the weight 3", low=0, high=0.99)
    t1: float = option(0.429, "Share of the steps at which drift and evidence balance", low=0, high=0.99)
    tau: float | None = option(None, "How much evidence counts; None = by t1", low=0)
    delta: float | None = option(None, "What L moves by in a step; None = by t0")
    most: float = option(10.0, "Largest weight", above=1)
    lo: float = option(0.0, "Noise level above which w - 1 is added", low=0)
    hi: float = option(math.inf, "Noise level below which w - 1 is added", above=0)

    @property
    def moves(self) -> bool:
        return True

    def off(self, step: StepInfo) -> bool:
        return False

    def check(self) -> None:
        super().check()
        if self.most - (self.w - 1) <= 1:
            raise ValueError(f"{self.kind}: most={self.most:g} leaves nothing beside w={self.w:g}: raise it")
        if self.lo >= self.hi:
            raise ValueError(f"{self.kind}: lo={self.lo:g} is not below hi={self.hi:g}: to add nothing, w=1")

    def at(self, step: StepInfo, seen: Seen) -> "Tensor":
        likely = seen.memory["likely"] if "likely" in seen.memory else _zeros(seen.x)
        raised = likely.exp()
        weight = raised / (raised - (1 - self.pi))
        if self.lo < step.level < self.hi:
            weight = weight + (self.w - 1)
        return weight.to(seen.x.dtype).view(-1, *[1] * (seen.x.ndim - 1))

    def observe(self, done: Step, seen: Seen) -> None:
        info = done.info
        if info.sigma_next == 0:
            return
        evidence, drift = self.constants(info.levels)
        kept = (info.sigma_next / info.sigma) ** 2
        variance = (info.sigma**2 - info.sigma_next**2) * kept
        start, end, main, push = (each.double().flatten(1) for each in (done.start, done.x, seen.main, seen.push))
        mean = kept * start + (1 - kept) * main
        # |x' - m|^2 - |x' - m_g|^2 without cancellation, where m - m_g = (1 - kept) push.
        farther = -((1 - kept) * push * (2 * (end - mean) + (1 - kept) * push)).sum(1)
        likely = seen.memory["likely"] if "likely" in seen.memory else _zeros(seen.x)
        likely = likely - evidence / (2 * variance) * farther + drift
        most = self.most - (self.w - 1)
        seen.memory["likely"] = likely.clamp(math.log((1 - self.pi) * most / (most - 1)), _HIGHEST)

    def constants(self, levels: tuple[float, ...]) -> tuple[float, float]:
        """tau and delta for these levels, rounded to four digits as the authors do."""
        count = len(levels)
        drift = self.delta
        if drift is None:
            drift = round(math.log(_AT_T0 / (_AT_T0 - 1) * (1 - self.pi)) / ((1 - self.t0) * count), 4)
        if self.tau is not None:
            return self.tau, drift
        after = [(a**2 - b**2) * b**2 / a**2 for a, b in itertools.pairwise(levels)]
        table = [0.0, *reversed(after), 0.0]
        place = math.floor(self.t1 * count)
        share = self.t1 * count - place
        variance = (1 - share) * table[place] + share * table[place + 1]
        return round(abs(2 * variance * drift / _ALPHA), 4), drift


def _zeros(x: "Tensor") -> "Tensor":
    import torch

    return x.new_zeros(len(x), dtype=torch.float64)
