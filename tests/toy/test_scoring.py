"""Scores against brute force, and of samples whose faults are known."""

import json
import math

import numpy as np
import pytest
import torch

from edm2_guidance.toy import scoring
from edm2_guidance.toy.distribution import fractal
from edm2_guidance.toy.scoring import Score, energy_distance, mean_and_deviation, score_methods, score_points


def slow_energy_distance(x, y):
    def mean_of(a, b, pairs):
        return sum(math.dist(p, q) for p in a.tolist() for q in b.tolist()) / pairs

    n, m = len(x), len(y)
    return 2 * mean_of(x, y, n * m) - mean_of(x, x, n * (n - 1)) - mean_of(y, y, m * (m - 1))


def test_energy_distance_is_that_of_the_definition(monkeypatch):
    monkeypatch.setattr(scoring, "_ROWS", 7)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 2, generator=generator), torch.randn(20, 2, generator=generator) + 0.5
    assert energy_distance(x, y) == pytest.approx(slow_energy_distance(x, y), rel=1e-5)


def test_energy_distance_is_unbiased():
    """Around 0 for two samples of one distribution: the mean of many is within its error."""
    values = []
    for seed in range(60):
        points = torch.randn(40, 1, generator=torch.Generator().manual_seed(seed))
        values.append(energy_distance(points[:20], points[20:]))
    assert abs(np.mean(values)) < 4 * np.std(values) / len(values) ** 0.5


@pytest.fixture(scope="module")
def truth():
    return fractal("A")


@pytest.fixture(scope="module")
def level(truth):
    return truth.contour_level(0.99, 4096)


def sample(truth, seed, num=2048):
    return truth.sample(num, torch.Generator().manual_seed(seed))


def test_the_truth_scores_as_the_truth(truth, level):
    score = score_points(sample(truth, 1), truth, sample(truth, 2), level)
    assert score.outside == pytest.approx(0.01, abs=0.008)
    assert score.far == 0
    assert score.coverage > 0.7  # with few samples some of the smallest branches get too few by chance
    assert abs(score.distance) < 2e-3


def test_outliers_are_counted(truth, level):
    points = sample(truth, 1)
    points[:512] += torch.tensor([5.0, 5.0])
    score = score_points(points, truth, sample(truth, 2), level)
    assert score.outside == pytest.approx(0.25 + 0.75 * 0.01, abs=0.008)
    assert score.far == 0.25
    assert score.log_density < -1000
    assert score.distance > 0.1


def test_missing_branches_are_not_covered(truth, level):
    points = sample(truth, 1)
    trunk_only = points[truth.nearest_branch(points) == 0]
    score = score_points(trunk_only, truth, sample(truth, 2), level)
    assert score.coverage == pytest.approx(1 / 127)
    assert score.outside < 0.02


def test_methods_are_scored_per_seed_beside_the_truth(truth):
    calls = []

    def zeros(num, seed):
        calls.append((num, seed))
        return torch.zeros(num, 2)

    scores = score_methods({"zeros": zeros}, truth, 100, [3, 4])
    assert calls == [(100, 3), (100, 4)]
    assert list(scores) == ["truth", "zeros"]
    assert [len(of_seeds) for of_seeds in scores.values()] == [2, 2]
    assert scores["zeros"][0].coverage <= 1 / 127


def test_mean_deviation_table_and_json():
    scores = {"a": [Score(0.10, 0.0, 0.5, 1.0, 0.001), Score(0.12, 0.02, 0.7, 3.0, 0.003)]}
    mean, deviation = mean_and_deviation(scores["a"], "outside")
    assert (mean, deviation) == pytest.approx((0.11, 0.02 / 2**0.5))
    assert math.isnan(mean_and_deviation(scores["a"][:1], "outside")[1])
    table = scoring.as_table(scores).splitlines()
    assert table[2] == "| a | 11.00 ± 1.41 | 1.00 ± 1.41 | 60.0 ± 14.1 | 2.00 ± 1.41 | 2.00 ± 1.41 |"
    assert "±" not in scoring.as_table({"a": scores["a"][:1]})
    assert scoring.as_table(scores, {"b": "not here"}).splitlines()[3] == "| b | not here | | | | |"
    assert json.loads(json.dumps(scoring.as_json(scores)))["a"][1]["distance"] == 0.003
