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
    """A Gaussian mixture in D dimensions, made of B branches of K components each.

    weights [B]: share of a branch, summing to 1, the same for each of its components. centres, extents [B, D]: its
    components have the means centre + offset * extent. offsets [K]. covariances [B, D, D]: of each component. A plain
    mixture is one with the single offset 0. All float64.

    Points x are [N, D]; sigma is a number, or [N] for a level per point. Everything is computed in the precision of
    x, densities in logarithms, so far from the data nothing underflows.
    """

    weights: Tensor
    centres: Tensor
    extents: Tensor
    covariances: Tensor
    offsets: Tensor

    def to(self, device: torch.device | str) -> "Mixture":
        """The same mixture, evaluated on another device."""
        parts = (self.weights, self.centres, self.extents, self.covariances, self.offsets)
        return Mixture(*(part.to(device) for part in parts))

    @property
    def num_branches(self) -> int:
        """B."""
        return len(self.weights)

    @property
    def means(self) -> Tensor:
        """Means of the components, [B, K, D]."""
        return self.centres[:, None] + self.offsets[:, None] * self.extents[:, None]

    def parts(self) -> Iterator["Mixture"]:
        """The branches one by one, as mixtures whose density is that which the branch adds to the whole."""
        for b in range(self.num_branches):
            own = slice(b, b + 1)
            yield Mixture(self.weights[own], self.centres[own], self.extents[own], self.covariances[own], self.offsets)

    def sample(self, num: int, generator: Generator, sigma: float | Tensor = 0.0) -> Tensor:
        """Points of the noisy distribution, float32 [num, D], from a CPU generator: branch, component, place, noise."""
        branch = torch.multinomial(self.weights, num, replacement=True, generator=generator)
        component = torch.randint(len(self.offsets), (num,), generator=generator)
        inside = torch.randn(num, self.centres.shape[1], generator=generator).double()
        noise = torch.randn(num, self.centres.shape[1], generator=generator)
        factors = torch.linalg.cholesky(self.covariances)
        points = self.means[branch, component] + (factors[branch] @ inside[:, :, None])[:, :, 0]
        result: Tensor = points.float() + noise * torch.as_tensor(sigma, dtype=torch.float32).reshape(-1, 1)
        return result

    def log_density(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """ln p(x; sigma), [N]."""
        return torch.cat([self._terms(*chunk).log_terms.logsumexp((0, 2)) for chunk in self._chunks(x, sigma)])

    def score(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Gradient of ln p(x; sigma) with respect to x, [N, D]."""
        moments = torch.stack([torch.ones_like(self.offsets), self.offsets]).to(x.dtype)
        axes = self._decomposition[1].to(x.dtype)
        scores = []
        for chunk in self._chunks(x, sigma):
            terms = self._terms(*chunk)
            relative = terms.log_terms - terms.log_terms.amax(0).amax(1, keepdim=True)
            shares = relative.clamp_(min=-80).exp_()  # so that none is a denormal number, which processors are slow at
            share, shift = (moments @ shares.flatten(1)).view(2, *shares.shape[1:])
            pull = (share * terms.along - shift * terms.extents) / terms.spread
            scores.append((pull @ axes).sum(0) / -share.sum(1, keepdim=True))
        return torch.cat(scores)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The ideal denoiser D(x; sigma) = x + sigma^2 score, [N, D] (EDM, arXiv 2206.00364, Eq. 3)."""
        return x + torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1) ** 2 * self.score(x, sigma)

    def nearest_branch(self, x: Tensor) -> Tensor:
        """The branch with the component that explains a point best, int64 [N]."""
        return torch.cat([self._terms(*chunk).log_terms.amax(0).argmax(1) for chunk in self._chunks(x, 0.0)])

    def contour_level(self, inside: float, num: int = 1 << 15) -> float:
        """The log-density above which a share `inside` of the mass lies, estimated by `num` samples of seed 0."""
        log_densities = self.log_density(self.sample(num, Generator().manual_seed(0)))
        return float(log_densities.quantile(1 - inside))

    def near(self, x: Tensor, deviations: float = 8.0) -> Tensor:
        """Which points lie in the box around all components that so many standard deviations span, bool [N]."""
        reach = deviations * self.covariances.diagonal(dim1=1, dim2=2).amax(0).sqrt()
        means = self.means.flatten(0, 1)
        return ((x >= means.amin(0) - reach) & (x <= means.amax(0) + reach)).all(1)

    def _chunks(self, x: Tensor, sigma: float | Tensor) -> list[tuple[Tensor, Tensor]]:
        """Points with their noise levels [n, 1], in pieces that stay in a processor's cache."""
        size = max(1, _CHUNK // (self.num_branches * len(self.offsets)))
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1).expand(len(x), 1)
        return list(zip(x.split(size), levels.split(size), strict=True))

    @cached_property
    def _decomposition(self) -> tuple[Tensor, Tensor]:
        """Principal variances [D, 1, B] of the components, and their axes [D, B, D]."""
        variances, axes = torch.linalg.eigh(self.covariances)
        return variances.T[:, None].contiguous(), axes.permute(2, 0, 1).contiguous()

    def _terms(self, x: Tensor, sigma: Tensor) -> "_Terms":
        """What densities and scores at points x [n, D] are made of, for sigma [n, 1].

        Noise leaves the principal axes as they are. Within a branch the exponent is a quadratic function of the
        offset, so that only its three coefficients take more than a multiplication and an addition per component.
        """
        variances, axes = self._decomposition
        centres, extents = ((axes * v).sum(2)[:, None].to(x.dtype) for v in (self.centres, self.extents))
        along = x @ axes.transpose(1, 2).to(x.dtype) - centres
        spread = variances.to(x.dtype) + sigma**2
        scaled = along / spread
        offsets = self.offsets.to(x.dtype)[:, None, None]
        constant = (self.weights / len(offsets)).log() - x.shape[1] / 2 * math.log(2 * math.pi)
        constant = constant.to(x.dtype) - (spread.prod(0).log() + (along * scaled).sum(0)) / 2
        slope, curve = (scaled * extents).sum(0), (extents**2 / spread).sum(0)
        log_terms = torch.addcmul(constant, torch.addcmul(slope, curve, offsets, value=-0.5), offsets)
        return _Terms(log_terms, along, extents, spread)


@dataclass(frozen=True)
class _Terms:
    """Parts of densities at n points."""

    log_terms: Tensor  # [K, n, B]: ln of weight times density
    along: Tensor  # [D, n, B]: offsets from a branch's centre, along the principal axes
    extents: Tensor  # [D, 1, B]: of the branch, along these
    spread: Tensor  # [D, n, B]: variances there


def fractal(classes: str = "A") -> Mixture:
    """The 2D fractal of App. C: class A, B, or AB for both together; 1016 components a class, 127 branches.

    Branches are in the order in which they are drawn: depth first, A before B.

    Raises ValueError for other classes.
    """
    if classes not in CLASSES:
        raise ValueError(f"classes {classes!r}: choose one of {', '.join(CLASSES)}")
    random = np.random.RandomState(TREE_SEED)
    trees = [_tree(random, np.array(ORIGIN) * AXIS_SCALE, angle, 0) for angle in TRUNK_ANGLES]
    branches = [branch for index in CLASSES[classes] for branch in trees[index]]
    weights = torch.tensor([branch.length * 0.5**branch.depth for branch in branches], dtype=torch.float64)
    return Mixture(
        weights / weights.sum(),
        torch.from_numpy(np.stack([branch.start + branch.extent / 2 for branch in branches])),
        torch.from_numpy(np.stack([branch.extent for branch in branches])),
        torch.from_numpy(np.stack([branch.covariance() for branch in branches])),
        torch.linspace(-0.43, 0.43, COMPONENTS_PER_BRANCH, dtype=torch.float64),
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

    def covariance(self) -> np.ndarray:
        """Of each of its components, [2, 2]: elongated along the branch, thinner across."""
        thickness = 0.2 * 0.8**self.depth / self.length
        cos, sin = self.direction
        rotation = np.array([[cos, -sin], [sin, cos]])
        size = np.diag(0.06 * self.length * np.array(AXIS_SCALE))
        result: np.typing.NDArray[np.float64] = size @ rotation @ np.diag([1, thickness**2]) @ rotation.T @ size
        return result


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
