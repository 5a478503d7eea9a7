"""Guidance away from the past: D moves on along its difference from a running mean of what it was."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edm2_guidance.recipe.around import Around
from edm2_guidance.recipe.parts import Call, StepInfo
from edm2_guidance.recipe.spec import option
from edm2_guidance.sampling.around.time import time_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_STEEPNESS = 50.0  # of the edge of the filter


@dataclass(frozen=True)
class HiGS(Around):
    """D plus w_H sqrt((t - t_min) / (t_max - t_min)) times the high frequencies of D - g, where t_min < t <= t_max.

    D is the guided one, and g the running mean of it, not of what is made here: alpha D + (1 - alpha) g, from 0; the
    first step stays as it is. Of D - g the share `parallel` along D is kept; frequencies are those of a cosine
    transform. A step's corrector sees the g that its predictor saw, and adds nothing to it: the paper knows one
    evaluation per step. t is sigma / (1 + sigma), the time at which the paper's flows have this noise level; time=steps
    takes the share of the steps that is left. Experimental: for EDM2 the paper gives neither t nor w_H.
    """

    kind: ClassVar[str] = "higs"
    source: ClassVar[str] = "arXiv 2509.22300, Algorithms 1 to 3"
    formula: ClassVar[str] = (
        "g = alpha D + (1 - alpha) g_before\n"
        "D' = D + w_H sqrt((t - t_min) / (t_max - t_min)) high(D - g_before) where t_min < t <= t_max"
    )

    w_H: float = option(1.0, "How far D moves at t_max; 0 = off")
    t_min: float = option(0.4, "D moves above this time", low=0, high=1)
    t_max: float = option(1.0, "D moves up to this time", above=0, high=1)
    alpha: float = option(0.75, "Share of the present D in the running mean", above=0, high=1)
    parallel: float = option(1.0, "Share of what is along D; 1 = all of it", low=0, high=1)
    cutoff: float = option(0.05, "Frequency, of 1 along each side, at which the filter lets half through")
    time: Literal["flow", "steps"] = option("flow", "What t is")

    def check(self) -> None:
        if self.t_min >= self.t_max:
            raise ValueError(f"{self.kind}: t_min={self.t_min:g}, t_max={self.t_max:g}: need t_min < t_max")

    @property
    def acts(self) -> bool:
        return self.w_H != 0

    def finish(self, denoised: "Tensor", call: Call, memory: "dict[str, Tensor]") -> "Tensor":
        if call.first:
            if "mean" in memory:
                memory["before"] = memory["mean"]
            earlier = (1 - self.alpha) * memory["before"] if "before" in memory else 0
            memory["mean"] = self.alpha * denoised + earlier
        amount = self._amount(call.step)
        if "before" not in memory or amount == 0:
            return denoised
        main = denoised.double()
        away = main - memory["before"].double()
        axes = tuple(range(1, main.ndim))
        along = (away * main).sum(axes, keepdim=True) / (main**2).sum(axes, keepdim=True).clamp_min(1e-300)
        high = _high(away - (1 - self.parallel) * along * main, self.cutoff)
        return (main + amount * high).to(denoised.dtype)

    def _amount(self, step: StepInfo) -> float:
        t = time_of(step, self.time)
        if not self.t_min < t <= self.t_max:
            return 0.0
        return self.w_H * math.sqrt((t - self.t_min) / (self.t_max - self.t_min))


def _high(x: "Tensor", cutoff: float) -> "Tensor":
    """The high frequencies of x [N,C,H,W]."""
    import torch

    if x.ndim != 4:
        raise ValueError(f"frequencies are of pictures [N,C,H,W], and these are of shape {list(x.shape)}")
    height, width = x.shape[-2:]
    rows, columns = _transform(height, x), _transform(width, x)
    places = [torch.arange(side, dtype=x.dtype, device=x.device) / side for side in (height, width)]
    radius = torch.hypot(places[0][:, None], places[1][None])
    kept = torch.sigmoid(_STEEPNESS * (radius - cutoff))
    return rows.T @ (kept * (rows @ x @ columns.T)) @ columns


def _transform(side: int, like: "torch.Tensor") -> "Tensor":
    """The orthonormal cosine transform DCT-II [side, side], a row per frequency."""
    import torch

    places = torch.arange(side, dtype=like.dtype, device=like.device)
    made = torch.cos(math.pi / side * places[:, None] * (places + 0.5)) * math.sqrt(2 / side)
    made[0] /= math.sqrt(2)
    return made
