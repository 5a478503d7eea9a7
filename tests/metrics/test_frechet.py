"""Frechet distances against golden values, scipy's matrix square root and cases with exact answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from edm2_guidance.metrics.measures import gaussians
from edm2_guidance.metrics.measures.gaussians import distance_and_influence, factorize, frechet_distance
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.running import RunningMoments

DATA = Path(__file__).resolve().parents[1] / "data"


def moments_of(features: np.ndarray | torch.Tensor) -> Moments:
    x = torch.as_tensor(features)
    running = RunningMoments(x.shape[1])
    running.append(x)
    return running.moments()


def gaussian(mean: list[float], cov: np.ndarray) -> Moments:
    return Moments(np.array(mean, np.float64), np.asarray(cov, np.float64))


def random_features(count: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, dim)) @ rng.standard_normal((dim, dim)) + rng.standard_normal(dim)


def by_matrix_root(a: Moments, b: Moments) -> float:
    """The textbook formula with scipy's matrix square root: an independent reference."""
    mean_a, mean_b, cov_a, cov_b = a.mean, b.mean, a.cov, b.cov
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * np.real(root)))


def by_gram(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """The exact value for few images, from the centred features themselves: no covariance is formed.

    cov = C^T C with C = centred / sqrt(n - 1), so tr((S_a S_b)^(1/2)) is the nuclear norm of C_a C_b^T.
    """
    centred = [(x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (features_a, features_b)]
    overlap = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    traces = sum((c**2).sum() for c in centred)
    return float(((features_a.mean(axis=0) - features_b.mean(axis=0)) ** 2).sum() + traces - 2 * overlap)


@pytest.mark.parametrize(("case", "tolerance"), [(0, 1e-6), (1, 1e-6), (2, 1e-5)])
def test_golden(case: int, tolerance: float) -> None:
    with np.load(DATA / "frechet.npz") as golden:
        value = frechet_distance(moments_of(golden[f"{case}_a"]), moments_of(golden[f"{case}_b"]))
        assert value == pytest.approx(float(golden[f"{case}_value"]), rel=tolerance)
        assert value == pytest.approx(float(golden[f"{case}_value_symmetric"]), rel=tolerance)
        assert value == pytest.approx(by_gram(golden[f"{case}_a"], golden[f"{case}_b"]), rel=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 17, 64])
def test_equals_matrix_square_root(dim: int) -> None:
    a, b = moments_of(random_features(300, dim, 0)), moments_of(random_features(200, dim, 1))
    assert frechet_distance(a, b) == pytest.approx(by_matrix_root(a, b), rel=1e-9)


def test_one_dimension_is_difference_of_means_and_deviations() -> None:
    a, b = gaussian([1.5], np.array([[4.0]])), gaussian([-1.0], np.array([[0.25]]))
    assert frechet_distance(a, b) == pytest.approx(2.5**2 + (2 - 0.5) ** 2, rel=1e-14)


def test_diagonal_covariances() -> None:
    a = gaussian([0, 0, 0], np.diag([1.0, 4.0, 9.0]))
    b = gaussian([1, 0, -2], np.diag([4.0, 4.0, 0.0]))
    assert frechet_distance(a, b) == pytest.approx(5 + (1 - 2) ** 2 + 0 + 3**2, rel=1e-13)


def test_commuting_covariances() -> None:
    """With common eigenvectors the distance is the sum of squared differences of the deviations."""
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0]
    deviations = np.random.default_rng(1).uniform(0.1, 3, (2, 12))
    a, b = (gaussian([0.0] * 12, rotation @ np.diag(d**2) @ rotation.T) for d in deviations)
    assert frechet_distance(a, b) == pytest.approx(((deviations[0] - deviations[1]) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize(("count_a", "count_b"), [(20, 25), (20, 500), (2, 30), (64, 65)])
def test_fewer_images_than_features_is_exact(count_a: int, count_b: int) -> None:
    a, b = random_features(count_a, 64, 2), random_features(count_b, 64, 3)
    assert frechet_distance(moments_of(a), moments_of(b)) == pytest.approx(by_gram(a, b), rel=1e-11)


def test_dead_features_change_nothing() -> None:
    a, b = random_features(100, 8, 4), random_features(90, 8, 5)
    padded = [np.concatenate([x, np.full((len(x), 5), 0.75)], axis=1) for x in (a, b)]
    value = frechet_distance(*(moments_of(x) for x in padded))
    assert value == pytest.approx(frechet_distance(moments_of(a), moments_of(b)), rel=1e-12)


@pytest.mark.parametrize(("count", "dim"), [(500, 32), (20, 64)])
def test_distance_to_itself_is_zero(count: int, dim: int) -> None:
    a = moments_of(random_features(count, dim, 6))
    assert 0 <= frechet_distance(a, a) < 1e-10


def test_symmetric() -> None:
    a, b = moments_of(random_features(200, 24, 7)), moments_of(random_features(30, 24, 8))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-13)


def test_ill_conditioned_covariances_keep_their_digits() -> None:
    """Eigenvalues over ten decades with common eigenvectors, where the answer is known."""
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((40, 40)))[0]
    deviations = np.logspace(0, -5, 40)
    a, b = (gaussian([0.0] * 40, rotation @ np.diag((s * deviations) ** 2) @ rotation.T) for s in (1, 2))
    assert frechet_distance(a, b) == pytest.approx((deviations**2).sum(), rel=1e-9)


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the eigenvalues were good enough, for each time they were computed."""
    taken: list[bool] = []
    original = gaussians._sum_of_roots

    def spy(*arguments: Any) -> float | None:
        found = original(*arguments)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(gaussians, "_sum_of_roots", spy)
    return taken


@pytest.mark.parametrize(("steepness", "quick"), [(0, True), (1, True), (3, False)])
def test_the_short_way_is_taken_where_it_is_exact(routes: list[bool], steepness: float, quick: bool) -> None:
    """Against the nuclear norm of the factors that the covariances are made of; spectra are power laws."""
    rng = np.random.default_rng(12)
    scales = np.arange(1, 201) ** -(steepness / 2)
    mixing = np.linalg.qr(rng.standard_normal((200, 200)))[0] * scales
    factors = [mixing @ rng.standard_normal((200, 900)) / 30 for _ in range(2)]
    a, b = (gaussian([0.0] * 200, factor @ factor.T) for factor in factors)
    traces = sum((factor**2).sum() for factor in factors)
    overlap = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    assert frechet_distance(a, b) == pytest.approx(traces - 2 * overlap, abs=3e-13 * traces)
    assert routes == [quick]


def test_eigenvalues_that_lost_digits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the solver moved every eigenvalue by 1e-9 of the largest: the singular values are computed."""
    a, b = moments_of(random_features(300, 24, 13)), moments_of(random_features(300, 24, 14))
    right, solve = by_matrix_root(a, b), np.linalg.eigvalsh
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda matrix: solve(matrix) + 1e-9 * np.abs(matrix).max())
    assert frechet_distance(a, b) == pytest.approx(right, rel=1e-10)


@pytest.mark.parametrize("count", [300, 20])
def test_the_distance_beside_its_influences_is_the_same(count: int) -> None:
    """Influences against the distance's slope where one image weighs more; of 20 images, the covariance is singular."""
    x, reference = random_features(count, 24, 16), factorize(moments_of(random_features(200, 24, 17)))
    value, influences = distance_and_influence(moments_of(x), reference)
    assert value == pytest.approx(frechet_distance(moments_of(x), reference), rel=1e-10)

    def weighted(first: float) -> float:
        weights = np.ones(count)
        weights[0] += first
        mean, cov = np.average(x, axis=0, weights=weights), np.cov(x, rowvar=False, aweights=weights, ddof=0)
        return frechet_distance(gaussian(mean.tolist(), cov * count / (count - 1)), reference)

    slope = (weighted(1e-4) - weighted(-1e-4)) / 2e-4 * count
    # Where images weigh unequally, n - 1 stands for nothing: a share 1 / n of what adds up remains.
    assert float(influences[0] - influences.mean()) == pytest.approx(slope, abs=3 / count * float(influences.std()))


def test_badly_scaled_features_keep_their_digits() -> None:
    """Of independent features of very different scale each gives a distance of its own."""
    scales = np.logspace(-6, 6, 13)
    a, b = (gaussian(list(shift * scales), np.diag((factor * scales) ** 2)) for shift, factor in ((0, 1), (1, 3)))
    assert frechet_distance(a, b) == pytest.approx((scales**2).sum() * (1 + 4), rel=1e-13)


def test_sets_that_are_nearly_the_same() -> None:
    """x and (1 + e) x: e^2 (|mean|^2 + tr cov)."""
    x = random_features(400, 16, 15)
    a, b = moments_of(x), moments_of(x * (1 + 1e-4))
    expected = 1e-8 * float(a.mean @ a.mean + a.cov.trace())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)


def test_factored_sides_give_the_same_bits() -> None:
    a, b = moments_of(random_features(100, 16, 9)), moments_of(random_features(100, 16, 10))
    assert frechet_distance(a, factorize(b)) == frechet_distance(a, b)
    assert frechet_distance(factorize(a), factorize(b)) == frechet_distance(a, b)


def test_factor_reproduces_the_covariance_at_its_rank() -> None:
    a = moments_of(random_features(10, 32, 11))
    factored = factorize(a)
    assert factored.factor.shape == (32, 9)
    assert np.abs(factored.factor @ factored.factor.T - a.cov).max() < 1e-12 * np.abs(a.cov).max()


def test_identical_images_have_zero_covariance() -> None:
    a = gaussian([3.0, 4.0], np.zeros((2, 2)))
    b = gaussian([0.0, 0.0], np.diag([1.0, 2.0]))
    assert frechet_distance(a, b) == pytest.approx(25 + 3, rel=1e-14)
    assert frechet_distance(a, a) == 0


def test_damaged_statistics_are_refused() -> None:
    good = gaussian([0, 0], np.eye(2))
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(good, gaussian([0, np.nan], np.eye(2)))
    with pytest.raises(ValueError, match="not symmetric"):
        frechet_distance(gaussian([0, 0], np.array([[1.0, 0.5], [0.0, 1.0]])), good)
    with pytest.raises(ValueError, match="negative eigenvalue"):
        frechet_distance(good, gaussian([0, 0], np.diag([1.0, -0.1])))
    with pytest.raises(ValueError, match="cannot compare 2 features with 3"):
        frechet_distance(good, gaussian([0, 0, 0], np.eye(3)))
