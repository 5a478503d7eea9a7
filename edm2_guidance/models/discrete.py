"""Networks of discrete time as denoisers D(x; sigma): what they predict, and the timesteps that they are told.

With a = 1 / (1 + sigma^2), such a network's own image is sqrt(a) x (arXiv 2206.00364, Section 3 and Appendix C.3.4).
They know the noise levels of their timesteps (`recipe.timesteps`): in between, the nearest is what they are told.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from torch_utils.distributed import wide_dtype

#: By what a network predicts: (x, its output, sigma []) -> D, where x and output are [N,C,H,W]. Of v: arXiv 2202.00512.
DENOISED: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda x, made, sigma: x - sigma * made,
    "v_prediction": lambda x, made, sigma: (x / (1 + sigma**2).sqrt() - sigma * made) / (1 + sigma**2).sqrt(),
    "sample": lambda x, made, sigma: made,
}  # fmt: skip


class Clock:
    """Tells the timesteps of noise levels. levels: of timestep 0, 1, ..., rising."""

    def __init__(self, levels: Sequence[float], device: torch.device) -> None:
        self._levels = torch.tensor(levels, dtype=wide_dtype(device), device=device).log()

    def __call__(self, sigma: Tensor, count: int) -> Tensor:
        """The timestep whose level is nearest to sigma [], in logarithms: int64 [count]."""
        return (self._levels - sigma.log()).abs().argmin().expand(count)


def scaled(x: Tensor, sigma: Tensor) -> Tensor:
    """x [N,C,H,W], image plus noise of standard deviation sigma [], to variance near 1: float32."""
    return (x / (1 + sigma.square()).sqrt()).float()
