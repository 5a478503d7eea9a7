"""Clipped density and coverage, and AuthPct: slow loops over the formulas, published values, and extremes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from edm2_guidance.metrics.measures.base import Measure
from edm2_guidance.metrics.measures.clipped_coverage import expected_fill
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.running import RunningMoments

DATA = Path(__file__).resolve().parents[1] / "data"


def kept(rows: np.ndarray) -> Moments:
    running = RunningMoments(rows.shape[1], keep=True)
    running.append(torch.from_numpy(rows))
    return running.moments()


def value(text: str, images: np.ndarray, reference: np.ndarray) -> float:
    measure = Measure.parse(text)
    return measure.against(kept(reference), text)(kept(images))[measure.kind]


def sets(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((70, 6)), 0.8 * rng.standard_normal((60, 6)) + 0.1


def neighbourhood(reference: np.ndarray, k: int) -> tuple[list[list[int]], list[float]]:
    """Of each point its k nearest others, and the distance of the last."""
    places = []
    for i, point in enumerate(reference):
        others = sorted((math.dist(point, other), j) for j, other in enumerate(reference) if j != i)
        places.append([j for _, j in others[:k]])
    return places, [math.dist(reference[i], reference[near[-1]]) for i, near in enumerate(places)]


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_clipped_density_pair_by_pair(k: int, seed: int) -> None:
    images, reference = sets(seed)
    places, radii = neighbourhood(reference, k)
    clipped = [min(radius, float(np.median(radii))) for radius in radii]
    a = np.mean(
        [min(sum(math.dist(r, y) <= c for r, c in zip(reference, clipped, strict=True)) / k, 1) for y in images]
    )
    held = [0] * len(reference)
    for i, near in enumerate(places):
        for j in near:
            held[j] += math.dist(reference[i], reference[j]) <= clipped[i]
    b = np.mean([min(count / k, 1) for count in held])
    assert value(f"clipped-density:k={k}", images, reference) == pytest.approx(min(a / b, 1), rel=1e-12)


@pytest.mark.parametrize("k", [2, 5])
def test_clipped_coverage_pair_by_pair(k: int) -> None:
    images, reference = sets(2)
    _, radii = neighbourhood(reference, k)
    filled = [
        min(sum(math.dist(r, y) < radius for y in images), k) / k for r, radius in zip(reference, radii, strict=True)
    ]
    table = expected_fill(len(images), len(reference), k)
    first = next(m for m, each in enumerate(table) if each >= np.mean(filled))
    assert value(f"clipped_coverage:k={k}", images, reference) == first / 71


def test_the_published_table() -> None:
    table = expected_fill(1000, 1000, 5)
    assert len(table) == 1001
    assert [round(table[m], 6) for m in (0, 4, 5, 100, 500, 1000)] == [0, 0, 0.005, 0.099982, 0.470341, 0.754522]
    assert (np.diff(table) >= 0).all()


@pytest.mark.parametrize(("m", "reference", "k"), [(7, 9, 2), (30, 12, 5), (5, 6, 5)])
def test_the_table_by_whole_numbers(m: int, reference: int, k: int) -> None:
    """The beta-binomial by binomials: ways to place k - 1 + j and the rest around the k-th of the reference."""
    ways = [math.comb(k - 1 + j, j) * math.comb(reference - k - 1 + m - j, m - j) for j in range(m + 1)]
    expected = sum(min(j, k) * way for j, way in enumerate(ways)) / (k * sum(ways))
    assert expected_fill(m, reference, k)[m] == pytest.approx(expected, rel=1e-12)


def test_a_share_of_good_images_is_read_back() -> None:
    """300 of 500 images as the reference, the others far away: about 0.6, by the definition of the scale."""
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        images = rng.standard_normal((500, 4))
        images[300:] += 1000
        found.append(value("clipped-coverage", images, rng.standard_normal((400, 4))))
    assert np.mean(found) == pytest.approx(0.6, abs=0.03)


def test_bounds_and_extremes() -> None:
    _, reference = sets(3)
    assert value("clipped-density", reference, reference) == 1
    assert value("clipped-coverage", np.repeat(reference, 9, axis=0), reference) == 1
    assert (
        value("clipped-density", reference + 99, reference) == value("clipped-coverage", reference + 99, reference) == 0
    )
    same = np.ones((9, 3))
    assert value("clipped-density", same, same) == 1
    assert value("clipped-coverage", same, same) == 0


@pytest.mark.parametrize("name", ["metrics_ties", "metrics_gauss"])
def test_authpct_is_dgm_evals(name: str) -> None:
    """Its distances are float32, by which no image of these sets changes sides."""
    with np.load(DATA / f"{name}.npz") as file:
        images, reference, expected = file["a"], file["b"], json.loads(str(file["expected"]))
    found = value("authpct", images, reference)
    assert found == pytest.approx(expected["dgm-eval@git-74c79f7"]["authpct (train=b)"], rel=1e-6)
    assert value("authpct", reference, reference) == 0
    assert value("authpct", images + np.float32(1000), reference) == 100
