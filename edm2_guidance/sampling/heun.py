"""Heun's second-order sampler with optional churn: Algorithm 2 of EDM (arXiv 2206.00364)."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from edm2_guidance.sampling.guidance import DenoiserAt


@dataclass(frozen=True)
class Churn:
    """Fresh noise before a step: S_churn in total over all steps, where S_min <= sigma <= S_max, scaled by S_noise."""

    S_churn: float
    S_min: float = 0.0
    S_max: float = math.inf
    S_noise: float = 1.0

    def raised(self, sigma: float, num_steps: int) -> float:
        """The noise level that a step starting at sigma is raised to."""
        if self.S_churn == 0 or not self.S_min <= sigma <= self.S_max:
            return sigma
        return sigma * (1 + min(self.S_churn / num_steps, math.sqrt(2) - 1))


@dataclass(frozen=True)
class Step:
    """After step `index`: the state x [N,C,H,W] at noise level `sigma`, and D at the step's start."""

    index: int
    sigma: float
    x: Tensor
    denoised: Tensor


def heun(
    at: DenoiserAt,
    noise: Tensor,
    sigmas: Tensor,
    churn: Churn | None = None,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
) -> Iterator[Step]:
    """Follow the probability-flow ODE from noise to data, yielding every step; the last one's x is the sample.

    noise [N,C,H,W]: unit normal, in the precision that the state is kept in. sigmas [steps + 1]: falling, last 0.
    One step costs two evaluations, the last one (to 0) one: 2 * steps - 1 in all. `randn_like` draws churn noise.
    """
    levels = sigmas.tolist()
    num_steps = len(levels) - 1
    x = noise * levels[0]
    for index, (sigma, sigma_next) in enumerate(itertools.pairwise(levels)):
        denoise = at(index)
        sigma_hat = sigma if churn is None else churn.raised(sigma, num_steps)
        if churn is not None and sigma_hat > sigma:
            x = x + math.sqrt(sigma_hat**2 - sigma**2) * churn.S_noise * randn_like(x)
        denoised = denoise(x, x.new_tensor(sigma_hat))
        slope = (x - denoised) / sigma_hat
        x_next = x + (sigma_next - sigma_hat) * slope
        if sigma_next > 0:
            slope_next = (x_next - denoise(x_next, x.new_tensor(sigma_next))) / sigma_next
            x_next = x + (sigma_next - sigma_hat) * (slope + slope_next) / 2
        x = x_next
        yield Step(index, sigma_next, x, denoised)
