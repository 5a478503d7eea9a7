"""Distributions with exactly known densities at every noise level: Gaussian mixtures, and the fractal made of them.

Adding noise of level sigma to a mixture adds sigma^2 I to every covariance, so density, score and denoiser have closed
forms: the ground truth that the toy networks are trained on and measured against.

The fractal is that of "Guiding a Diffusion Model with a Bad Version of Itself" (arXiv 2406.02507), App. C: two classes,
each a tree whose trunk splits six times.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Generator, Tensor

SIGMA_DATA = 0.5  # standard deviation of the two classes together, on either axis
CLASSES = {"A": (0,), "B": (1,), "AB": (0, 1)}

# The fractal's shape; lengths are in units that `AXIS_SCALE` brings to SIGMA_DATA.
TREE_SEED = 2
ORIGIN = (0.0030, 0.0325)
AXIS_SCALE = (1.3136, 1.3844)
TRUNK_ANGLES = (math.pi / 4, math.pi * 5 / 4)
MAX_DEPTH = 6
COMPONENTS_PER_BRANCH = 8

_CHUNK = 1 << 16  # point-component pairs that are evaluated at once


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture in D dimensions.

    weights [K]: positive, summing to 1. means [K, D]. covariances [K, D, D]. branches int64 [K]: to which part of the
    distribution a component belongs, counted from 0; `num_branches` of them.

    Points x are [N, D]; sigma is a number, or [N] for a level per point. Everything is computed in the precision of
    x, densities in logarithms, so far from the data nothing underflows.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    branches: Tensor

    def to(self, device: torch.device | str) -> "Mixture":
        """The same mixture, evaluated on another device."""
        parts = (self.weights, self.means, self.covariances, self.branches)
        return Mixture(*(part.to(device) for part in parts))

    @property
    def num_branches(self) -> int:
        """Number of parts that `branches` tells apart."""
        return int(self.branches.max()) + 1

    def sample(self, num: int, generator: Generator, sigma: float | Tensor = 0.0) -> Tensor:
        """Points of the noisy distribution, float32 [num, D]; three draws from a CPU generator: which, where, noise."""
        which = torch.multinomial(self.weights, num, replacement=True, generator=generator)
        factors = torch.linalg.cholesky(self.covariances)
        inside = torch.randn(num, self.means.shape[1], generator=generator)
        noise = torch.randn(num, self.means.shape[1], generator=generator)
        points = self.means[which] + (factors[which] @ inside.to(factors.dtype)[:, :, None])[:, :, 0]
        return points.float() + noise * torch.as_tensor(sigma, dtype=torch.float32).reshape(-1, 1)

    def log_density(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """ln p(x; sigma), [N]."""
        return torch.cat([self._terms(*chunk)[0].logsumexp(1) for chunk in self._chunks(x, sigma)])

    def score(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Gradient of ln p(x; sigma) with respect to x, [N, D]."""
        axes = self._decomposition[1].to(x.dtype)
        scores = []
        for chunk in self._chunks(x, sigma):
            log_terms, pulls = self._terms(*chunk)
            shares = log_terms.softmax(1)
            towards = [(shares * pull) @ axis for pull, axis in zip(pulls, axes, strict=True)]
            scores.append(-torch.stack(towards).sum(0))
        return torch.cat(scores)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The ideal denoiser D(x; sigma) = x + sigma^2 score, [N, D] (EDM, arXiv 2206.00364, Eq. 3)."""
        return x + torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1) ** 2 * self.score(x, sigma)

    def nearest_branch(self, x: Tensor) -> Tensor:
        """The branch whose component explains a point best, int64 [N]."""
        return torch.cat([self.branches[self._terms(*chunk)[0].argmax(1)] for chunk in self._chunks(x, 0.0)])

    def branch_shares(self) -> Tensor:
        """Probability mass of every branch, [num_branches]."""
        return torch.zeros(self.num_branches, dtype=self.weights.dtype).index_add(0, self.branches, self.weights)

    def contour_level(self, inside: float, num: int = 1 << 15) -> float:
        """The log-density above which a share `inside` of the mass lies, estimated by `num` samples of seed 0."""
        log_densities = self.log_density(self.sample(num, Generator().manual_seed(0)))
        return float(log_densities.quantile(1 - inside))

    def parts(self) -> Iterator["Mixture"]:
        """The branches one by one, as mixtures whose weights sum to the branch's share."""
        for branch in range(self.num_branches):
            own = self.branches == branch
            yield Mixture(self.weights[own], self.means[own], self.covariances[own], self.branches[own])

    def near(self, x: Tensor, deviations: float = 8.0) -> Tensor:
        """Which points lie in the box around all components that so many standard deviations span, bool [N]."""
        reach = deviations * self.covariances.diagonal(dim1=1, dim2=2).amax(0).sqrt()
        return ((x >= self.means.amin(0) - reach) & (x <= self.means.amax(0) + reach)).all(1)

    def _chunks(self, x: Tensor, sigma: float | Tensor) -> list[tuple[Tensor, Tensor]]:
        """Points with their noise levels [n, 1], in pieces that stay in a processor's cache."""
        size = max(1, _CHUNK // len(self.weights))
        levels = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1).expand(len(x), 1)
        return list(zip(x.split(size), levels.split(size), strict=True))

    @cached_property
    def _decomposition(self) -> tuple[Tensor, Tensor]:
        """Principal variances [D, K] and axes [D, K, D] of the components."""
        variances, axes = torch.linalg.eigh(self.covariances)
        return variances.T.contiguous(), axes.permute(2, 0, 1).contiguous()

    def _terms(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Per point and component: ln of weight times density [n, K], and the pull along each axis, D times [n, K].

        A pull is the offset from the mean along a principal axis over the variance there: noise leaves the axes as
        they are, so one decomposition serves all levels.
        """
        log_terms = (self.weights.log() - x.shape[1] / 2 * math.log(2 * math.pi)).to(x.dtype)
        pulls = []
        for variances, axes in zip(*self._decomposition, strict=True):
            offset = x @ axes.T.to(x.dtype) - (self.means * axes).sum(1).to(x.dtype)
            spread = variances.to(x.dtype) + sigma**2
            pulls.append(offset / spread)
            log_terms = log_terms - (spread.log() + offset * pulls[-1]) / 2
        return log_terms, pulls


def fractal(classes: str = "A") -> Mixture:
    """The 2D fractal of App. C: class A, B, or AB for both together; 1016 components a class, 127 branches.

    Components are in the order in which the branches are drawn: depth first, A before B. float64.

    Raises ValueError for other classes.
    """
    if classes not in CLASSES:
        raise ValueError(f"classes {classes!r}: choose one of {', '.join(CLASSES)}")
    random = np.random.RandomState(TREE_SEED)
    trees = [_tree(random, np.array(ORIGIN) * AXIS_SCALE, angle, 0) for angle in TRUNK_ANGLES]
    branches = [branch for index in CLASSES[classes] for branch in trees[index]]
    lengths = torch.tensor([branch.length * 0.5**branch.depth for branch in branches], dtype=torch.float64)
    weights = lengths.repeat_interleave(COMPONENTS_PER_BRANCH)
    return Mixture(
        weights / weights.sum(),
        torch.from_numpy(np.concatenate([branch.centres() for branch in branches])),
        torch.from_numpy(np.repeat([branch.covariance() for branch in branches], COMPONENTS_PER_BRANCH, axis=0)),
        torch.arange(len(branches)).repeat_interleave(COMPONENTS_PER_BRANCH),
    )


@dataclass(frozen=True)
class _Branch:
    """start [2]: where it leaves its parent. angle: radians, before the axes are scaled. length: likewise."""

    start: np.ndarray
    angle: float
    length: float
    depth: int

    @property
    def direction(self) -> np.ndarray:
        return np.array([math.cos(self.angle), math.sin(self.angle)])

    @property
    def extent(self) -> np.ndarray:
        return self.direction * AXIS_SCALE * self.length

    def centres(self) -> np.ndarray:
        """Where its components are, [COMPONENTS_PER_BRANCH, 2]."""
        return self.start + np.linspace(0.07, 0.93, COMPONENTS_PER_BRANCH)[:, None] * self.extent

    def covariance(self) -> np.ndarray:
        """Of each of its components, [2, 2]: elongated along the branch, thinner across."""
        thickness = 0.2 * 0.8**self.depth / self.length
        cos, sin = self.direction
        rotation = np.array([[cos, -sin], [sin, cos]])
        size = np.diag(0.06 * self.length * np.array(AXIS_SCALE))
        return size @ rotation @ np.diag([1, thickness**2]) @ rotation.T @ size


def _tree(random: np.random.RandomState, start: np.ndarray, angle: float, depth: int) -> list[_Branch]:
    """A branch and all that grows from its end, depth first.

    The random numbers are drawn in a fixed order: the branch's length, then for either child its turn and its whole
    subtree. The deepest branches draw turns too, which nothing uses.
    """
    branch = _Branch(start, angle, 0.292 * 0.8**depth * (1 + 0.2 * random.randn()), depth)
    grown = [branch]
    for side in (1, -1):
        turn = side * 0.7**depth * (1 + 0.2 * random.randn())
        if depth < MAX_DEPTH:
            grown += _tree(random, start + branch.extent, angle + turn, depth + 1)
    return grown
