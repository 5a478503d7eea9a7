"""Moments of features, and the Frechet distance of two sets."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.side_by_side import Options, Result, Way, compare
from edm2_guidance.metrics.measures.gaussians import frechet_distance
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.running import RunningMoments


def run(options: Options) -> Iterator[Result]:
    for dim in (128,) if options.quick else (1024, 2048):
        yield from moments(dim, options)
        yield from distance(dim, options)


def features(dim: int, num: int, seed: int) -> Tensor:
    """Features of full rank whose spread falls off, as those of networks do: float32 [num, dim]."""
    draws = torch.Generator().manual_seed(seed)
    mixed = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(0)))[0]
    rows: Tensor = torch.randn(num, dim, generator=draws) * torch.logspace(0, -2, dim) @ mixed * (1 + 0.1 * seed)
    return rows


def moments(dim: int, options: Options) -> list[Result]:
    """Mean and covariance: over all features at once, or as batches of 64 come."""
    rows = features(dim, 4 * dim, 1).to(options.device)

    def plain() -> tuple[Any, Any]:
        every = np.concatenate([part.cpu().numpy() for part in rows.split(64)]).astype(np.float64)
        return every.mean(axis=0), np.cov(every, rowvar=False)

    def ours() -> Moments:
        running = RunningMoments(dim)
        for part in rows.split(64):
            running.append(part)
        return running.moments()

    def seen(made: Any) -> Any:
        return [made.mean, made.cov] if isinstance(made, Moments) else list(made)

    case = f"moments of {len(rows)} x {dim} features"
    work = 2.0 * len(rows) * dim**2
    ways = [Way("RunningMoments", ours, work, "matmul float64")]
    return compare("moments", case, Way("np.cov of all, in memory", plain), ways, options, seen)


def plain_distance(a: Moments, b: Moments) -> float:
    """|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)), as most code computes it."""
    return float(np.square(a.mean - b.mean).sum() + np.trace(a.cov + b.cov - 2 * _root()(a.cov @ b.cov).real))


def _root() -> Callable[[Any], Any]:
    """SciPy's square root of a matrix; without SciPy, that of its eigenvectors."""
    try:
        from scipy.linalg import sqrtm
    except ImportError:
        return _root_by_eigenvectors
    root: Callable[[Any], Any] = sqrtm
    return root


def _root_by_eigenvectors(matrix: Any) -> Any:
    values, vectors = np.linalg.eig(matrix)
    return vectors * np.sqrt(values.astype(complex)) @ np.linalg.inv(vectors)


def distance(dim: int, options: Options) -> list[Result]:
    """The distance of two sets, neither of which was factored before."""
    sets = []
    for seed in (1, 2):
        rows = features(dim, 2 * dim, seed).double()
        sets.append(Moments(rows.mean(dim=0).numpy(), rows.T.cov().numpy(), len(rows)))
    plain = Way(
        "root by eigenvectors" if _root() is _root_by_eigenvectors else "scipy.linalg.sqrtm",
        partial(plain_distance, *sets),
    )
    ways = [Way("Cholesky factors", partial(frechet_distance, *sets))]
    return compare("frechet", f"{dim} features", plain, ways, options)
