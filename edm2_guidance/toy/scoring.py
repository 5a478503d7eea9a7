"""Numbers for what the toy figures show: outliers, coverage, density, and distance to the truth.

All are of clean samples (noise level 0) against a mixture whose density is known.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Generator, Tensor

from edm2_guidance.toy.distribution import Mixture

INSIDE = 0.99  # share of the true mass within the contour
FAR = 0.05  # beyond this distance from every true sample a point is far out; the figures are 2.4 wide
COVERED = 0.5  # a branch counts as covered from this share of the samples that belong there
_ROWS = 64  # of a distance matrix at once

Sampler = Callable[[int, int], Tensor]  # number of points and seed -> points [N, D]


@dataclass(frozen=True)
class Score:
    """Of one set of samples.

    outside: share of them outside the contour that holds 99 % of the true mass; 0.01 for the truth itself. Branches
    are thin, so some of these are out by a hair.
    far: share of them further than FAR from every one of as many fresh samples of the truth.
    coverage: share of the branches that get at least half the samples that they should, counted within the contour.
    log_density: mean of the true ln p, in nats; far outliers weigh heavily.
    distance: energy distance to fresh samples of the truth, 2 E|x - y| - E|x - x'| - E|y - y'|, unbiased: about 0
    for the truth itself, and sometimes below.
    """

    outside: float
    far: float
    coverage: float
    log_density: float
    distance: float


def score_points(points: Tensor, truth: Mixture, fresh: Tensor, level: float) -> Score:
    """Score points [N, D]; `fresh`: samples of the truth [M, D]; `level`: of the contour."""
    log_density = truth.log_density(points)
    within = log_density >= level
    counts = torch.bincount(truth.nearest_branch(points[within]), minlength=truth.num_branches)
    covered = counts >= COVERED * len(points) * truth.weights
    return Score(
        outside=float((~within).double().mean()),
        far=float((_distance_to_nearest(points, fresh) > FAR).double().mean()),
        coverage=float(covered.double().mean()),
        log_density=float(log_density.double().mean()),
        distance=energy_distance(points, fresh),
    )


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Squared energy distance of two samples [N, D] and [M, D] (Székely and Rizzo 2013), the unbiased estimate."""
    n, m = len(x), len(y)
    within = _sum_of_distances(x, x) / (n * (n - 1)) + _sum_of_distances(y, y) / (m * (m - 1))
    return 2 * _sum_of_distances(x, y) / (n * m) - within


def _sum_of_distances(x: Tensor, y: Tensor) -> float:
    return sum(float(torch.cdist(rows, y, compute_mode=_EXACT).sum(dtype=torch.float64)) for rows in x.split(_ROWS))


def _distance_to_nearest(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([torch.cdist(rows, y, compute_mode=_EXACT).amin(1) for rows in x.split(_ROWS)])


_EXACT = "donot_use_mm_for_euclid_dist"  # the other way loses the digits of small distances


def score_methods(
    samplers: Mapping[str, Sampler],
    truth: Mixture,
    num: int,
    seeds: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> dict[str, list[Score]]:
    """Scores of every method, one per seed, `num` points each.

    The truth itself is scored first, under the name "truth". Samples of the truth for the distance are others for
    every seed, and the same for all methods. `progress` is called with 1 after each.
    """
    level = truth.contour_level(INSIDE)
    scores: dict[str, list[Score]] = {}
    for seed in seeds:
        fresh = truth.sample(num, Generator().manual_seed(2**40 + seed))
        everything: dict[str, Sampler] = {"truth": _sampler_of(truth), **samplers}
        for name, sampler in everything.items():
            scores.setdefault(name, []).append(score_points(sampler(num, seed), truth, fresh, level))
            if progress is not None:
                progress(1)
    return scores


def _sampler_of(truth: Mixture) -> Sampler:
    return lambda num, seed: truth.sample(num, Generator().manual_seed(seed))


def mean_and_deviation(scores: Sequence[Score], field: str) -> tuple[float, float]:
    """Mean over seeds, and the sample standard deviation between them (NaN for one seed)."""
    values = [float(getattr(score, field)) for score in scores]
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def as_json(scores: Mapping[str, Sequence[Score]]) -> dict[str, list[dict[str, Any]]]:
    """Plain data: per method a list over seeds."""
    return {name: [asdict(score) for score in of_seeds] for name, of_seeds in scores.items()}


def as_table(scores: Mapping[str, Sequence[Score]], lacking: Mapping[str, str] = MappingProxyType({})) -> str:
    """Markdown: a row per method, mean ± standard deviation over seeds; shares in percent, distance times 1000.

    lacking: methods without scores, and why.
    """
    columns = {
        "outside, %": ("outside", 100, 2),
        "far, %": ("far", 100, 2),
        "branches covered, %": ("coverage", 100, 1),
        "mean ln p": ("log_density", 1, 2),
        "energy distance x 1000": ("distance", 1000, 2),
    }
    lines = ["| method | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name, of_seeds in scores.items():
        cells = []
        for field, scale, digits in columns.values():
            mean, deviation = (scale * value for value in mean_and_deviation(of_seeds, field))
            cells.append(f"{mean:.{digits}f}" + ("" if math.isnan(deviation) else f" ± {deviation:.{digits}f}"))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [f"| {name} | {why} |" + " |" * (len(columns) - 1) for name, why in lacking.items()]
    return "\n".join(lines)
