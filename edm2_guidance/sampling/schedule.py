"""Noise schedules: falling tensors of noise levels that end in 0."""

import torch
from torch import Tensor

from edm2_guidance.recipe.recipe import SamplerSpec


def edm_sigmas(num_steps: int = 32, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """The EDM schedule, arXiv 2206.00364, Eq. 5: float64 [num_steps + 1], from sigma_max to sigma_min, then 0.

    Raises ValueError for bounds that are not 0 < sigma_min <= sigma_max, no steps, or rho that is not positive.
    """
    levels = SamplerSpec(num_steps, sigma_min, sigma_max, rho).levels()
    return torch.tensor([*levels, 0.0], dtype=torch.float64)
