"""A small network that gives the log-density of 2D points at any noise level: arXiv 2406.02507, App. C.

Its gradient is the score, which makes it a denoiser as well and, unlike most denoisers, one whose density can be seen.

Class, attribute and parameter names are those of the published files. The text of this module is embedded in every
file that the project writes, to be executed by readers that know nothing of the project: it imports torch and
`torch_utils.persistence` only.
"""

from __future__ import annotations  # readers of the embedded text may run Python 3.9

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from torch_utils import persistence


def unit_rows(weight: Tensor) -> Tensor:
    """Rows of [M, N] at unit length, but for the 1e-4 that keeps rows of zeros from dividing by zero."""
    length = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    return weight / (length + 1e-4 * math.sqrt(weight.shape[1]))


@persistence.persistent_class
class MPSiLU(nn.Module):
    """SiLU divided by the root-mean-square of its output on unit normal input (arXiv 2312.02696, Eq. 81)."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return functional.silu(x) / 0.596


@persistence.persistent_class
class MPLinear(nn.Module):
    """Linear layer without bias that keeps the magnitude of its input (arXiv 2312.02696, Eqs. 47 and 66).

    Every row of `weight` [out_dim, in_dim] is used at unit length, so its own length has no effect on the output. In
    training mode the stored rows are brought back to one length on every call, so that the optimiser cannot let them
    grow, which would slow the learning down.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_dim] -> [..., out_dim]."""
        width = self.weight.shape[1]
        if self.training:
            with torch.no_grad():
                self.weight.copy_(unit_rows(self.weight) * math.sqrt(width))
        return x @ unit_rows(self.weight).T


@persistence.persistent_class
class ToyModel(nn.Module):
    """Log-density network: an MLP whose squared features add up to what is known better than a plain Gaussian.

    Args:
        in_dim: Dimensions of a point.
        num_layers: Hidden layers after the input layer.
        hidden_dim: Their width.
        sigma_data: Standard deviation of the data on every axis.
    """

    def __init__(self, in_dim: int = 2, num_layers: int = 4, hidden_dim: int = 64, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.sigma_data = sigma_data
        self.layers = nn.Sequential(MPLinear(in_dim + 2, hidden_dim))
        for _ in range(num_layers):
            self.layers.append(MPSiLU())
            self.layers.append(MPLinear(hidden_dim, hidden_dim))
        self.gain = nn.Parameter(torch.zeros([]))

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """ln p(x; sigma) but for a constant that depends on sigma alone.

        x [..., in_dim], sigma number or [...] -> [...]:
        mean(features^2) * gain / sigma - |x*|^2 / 2 with x* = x / sqrt(sigma^2 + sigma_data^2); the features are
        those of (x*, ln(sigma) / 4, 1).
        """
        level = _levels(x, sigma)
        x = x / (level**2 + self.sigma_data**2).sqrt()
        features = self.layers(torch.cat([x, level.log() / 4, torch.ones_like(level)], dim=-1))
        return (features**2).mean(-1) * self.gain / level[..., 0] - (x**2).sum(-1) / 2

    def logp(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """`forward` under the name that EDM2's own toy example calls."""
        return self(x, sigma)

    def pdf(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Density, divided by the largest at these points: x [..., in_dim], sigma number or [...] -> [...]."""
        logp = self.logp(x, sigma)
        return (logp - logp.max()).exp()

    def score(self, x: Tensor, sigma: Tensor | float, graph: bool = False) -> Tensor:
        """Gradient of `forward` with respect to x, [..., in_dim]; with `graph` it can be trained on."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self(x, sigma).sum(), [x], create_graph=graph)
        return gradient

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """D(x; sigma) = x + sigma^2 score (EDM, arXiv 2206.00364, Eq. 3), [..., in_dim]."""
        return x + _levels(x, sigma) ** 2 * self.score(x, sigma)


def _levels(x: Tensor, sigma: Tensor | float) -> Tensor:
    """The noise level of every point: x [..., in_dim], sigma number or [...] -> [..., 1]."""
    return torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[:-1]).unsqueeze(-1)
