"""Realism against the definition in loops, and what must not change it."""

import math

import numpy as np
import pytest
import torch

from edm2_guidance.metrics.measures import neighbours
from edm2_guidance.metrics.measures.base import Measure
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.running import RunningMoments
from tests.metrics.test_neighbours import SETS


def kept(rows: np.ndarray) -> Moments:
    running = RunningMoments(rows.shape[1], keep=True)
    running.append(torch.from_numpy(rows))
    return running.moments()


def scores(images: np.ndarray, reference: np.ndarray, text: str = "realism") -> np.ndarray:
    return Measure.parse(text).influence(kept(images), kept(reference))


def slow(images: np.ndarray, reference: np.ndarray, k: int = 3) -> list[float]:
    """The definition, pair by pair: squared distances in float64, summed by numpy."""

    def squared(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.square(x.astype(np.float64) - y.astype(np.float64)).sum())

    radii = []
    for i, point in enumerate(reference):
        radii.append(sorted(squared(point, other) for j, other in enumerate(reference) if j != i)[k - 1])
    median = float(np.median(radii))
    balls = [(r, radius) for r, radius in zip(reference, radii, strict=True) if radius <= median]
    return [max(math.sqrt(radius / (squared(y, r) + 1e-5)) for r, radius in balls) for y in images]


@pytest.mark.parametrize("name", SETS)
def test_the_definition_pair_by_pair(name: str) -> None:
    """Also of ties, duplicates, balls of radius 0, outliers, and features of any size."""
    images, reference = (rows[:60] for rows in SETS[name])
    np.testing.assert_allclose(scores(images, reference), slow(images, reference), rtol=1e-12)


def test_k_is_a_field() -> None:
    images, reference = (rows[:40] for rows in SETS["gaussian"])
    np.testing.assert_allclose(scores(images, reference, "realism:k=5"), slow(images, reference, 5), rtol=1e-12)


@pytest.mark.parametrize(("pairs", "threads"), [(1, 1), (777, 2)])
@pytest.mark.parametrize("name", ["gaussian", "duplicates", "tight clusters"])
def test_neither_blocks_nor_threads_nor_order_change_a_bit(
    name: str, pairs: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, reference = SETS[name]
    whole, before = scores(images, reference), torch.get_num_threads()
    shuffled = np.random.default_rng(0).permutation(len(images))
    monkeypatch.setattr(neighbours.least_ratio, "__defaults__", (pairs,))
    try:
        torch.set_num_threads(threads)
        np.testing.assert_array_equal(scores(images[shuffled], reference[::-1].copy()), whole[shuffled])
    finally:
        torch.set_num_threads(before)


def test_the_value_is_the_mean_of_the_scores() -> None:
    images, reference = SETS["gaussian"]
    found = Measure.parse("realism").against(kept(reference), "x")(kept(images))
    assert found == {"realism": pytest.approx(np.mean(scores(images, reference)), rel=1e-12)}


def test_one_is_the_surface_of_a_ball_that_is_kept() -> None:
    """Points on a line, 1 apart and then 10 apart: balls of the wide half are above the median."""
    reference = np.array([[x] for x in [0, 1, 2, 3, 100, 110, 120, 130]], dtype=np.float64)
    near, surface, far = scores(np.array([[0.5], [-2.0], [105.0]]), reference, "realism:k=1")
    assert near == pytest.approx(2, rel=1e-4)
    assert surface == pytest.approx(1 / 2, rel=1e-4)
    assert far == pytest.approx(1 / 102, rel=1e-4), "the nearest ball is left out"


def test_copies_have_a_score() -> None:
    """By the authors' 1e-5; where the ball is a point, by others alone, and with none there is nothing: 0."""
    rows = SETS["gaussian"][0]
    assert np.isfinite(scores(rows, rows)).all()
    smallest = np.sqrt(neighbours.own_nearest(kept(rows), 3).squared[:, 2].min().item())
    assert scores(rows, rows).max() >= smallest / math.sqrt(1e-5)
    assert scores(SETS["constant"][0], SETS["constant"][1]).tolist() == [0] * 50
