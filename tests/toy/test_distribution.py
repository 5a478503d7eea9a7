"""The fractal against golden numbers, and mixtures against slow and independent ways."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edm2_guidance.toy.distribution import Mixture, fractal

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "toy.npz")


@pytest.fixture
def small():
    """Two branches of three components in the plane."""
    return Mixture(
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        torch.tensor([[0.0, 0.5], [-1.0, 0.2]], dtype=torch.float64),
        torch.tensor([[0.4, 0.1], [0.0, 0.6]], dtype=torch.float64),
        torch.tensor([[[0.02, 0.01], [0.01, 0.03]], [[0.05, 0.0], [0.0, 0.01]]], dtype=torch.float64),
        torch.tensor([-0.4, 0.1, 0.5], dtype=torch.float64),
    )


def slow_density(mixture, x, sigma):
    """Term by term, by matrix inverse and determinant."""
    total = np.zeros(len(x))
    for weight, means, covariance in zip(mixture.weights, mixture.means, mixture.covariances, strict=True):
        full = covariance.numpy() + sigma**2 * np.eye(x.shape[1])
        for mean in means.numpy():
            offset = x.numpy() - mean
            exponent = -0.5 * np.einsum("ni,ij,nj->n", offset, np.linalg.inv(full), offset)
            norm = np.sqrt(np.linalg.det(2 * np.pi * full))
            total += weight.item() / len(means) * np.exp(exponent) / norm
    return total


@pytest.mark.parametrize("classes", ["A", "AB"])
def test_components_are_the_golden_ones(classes):
    mixture = fractal(classes)
    weights = mixture.weights.repeat_interleave(8) / 8
    assert np.allclose(weights, GOLDEN[f"{classes}_phi"], rtol=1e-6, atol=0)
    assert np.allclose(mixture.means.flatten(0, 1), GOLDEN[f"{classes}_mu"], rtol=0, atol=1e-7)
    covariances = mixture.covariances.repeat_interleave(8, 0)
    assert np.allclose(covariances, GOLDEN[f"{classes}_Sigma"], rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("classes", ["A", "AB"])
@pytest.mark.parametrize(("sigma", "tolerance"), [(0, 2e-3), (0.03, 2e-3), (0.3, 1e-5), (2, 1e-5)])
def test_density_and_score_are_the_golden_ones(classes, sigma, tolerance):
    points = torch.from_numpy(GOLDEN["points"]).double()
    density, score = GOLDEN[f"{classes}_pdf_{sigma}"], GOLDEN[f"{classes}_score_{sigma}"]
    sure = density > 1e-30  # below, the golden scores come from densities that underflow
    mixture = fractal(classes)
    assert np.allclose(mixture.log_density(points, sigma).exp()[sure], density[sure], rtol=1e-4)
    error = np.linalg.norm(mixture.score(points, sigma).numpy() - score, axis=1)[sure]
    assert (error <= tolerance * np.linalg.norm(score, axis=1)[sure] + 1e-9).all()


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_density_is_that_of_the_terms_one_by_one(small, sigma):
    x = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.5
    assert np.allclose(small.log_density(x, sigma).exp(), slow_density(small, x, sigma), rtol=1e-10)


def test_score_is_the_gradient_of_the_log_density_at_a_level_per_point(small):
    x = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    sigma = torch.linspace(0.01, 2, 40, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(small.log_density(x, sigma).sum(), [x])
    assert torch.allclose(small.score(x.detach(), sigma), gradient, rtol=1e-9)
    expected = x.detach() + sigma[:, None] ** 2 * gradient
    assert torch.allclose(small.denoise(x.detach(), sigma), expected, rtol=1e-9)


def test_nothing_underflows_far_from_the_data():
    far = torch.tensor([[30.0, -20.0]])
    mixture = fractal("A")
    score = mixture.score(far, 0.0)
    assert torch.isfinite(mixture.log_density(far)).all()
    assert (score * far < 0).all(), "points back towards the data"


def test_points_in_pieces_are_the_same_points(small, monkeypatch):
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    whole = small.log_density(x, 0.1), small.score(x, 0.1), small.nearest_branch(x)
    monkeypatch.setattr("edm2_guidance.toy.distribution._CHUNK", 7)
    for one, other in zip(
        whole, (small.log_density(x, 0.1), small.score(x, 0.1), small.nearest_branch(x)), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)


def test_samples_have_the_moments_of_the_mixture():
    """Both classes together have mean 0 and standard deviation 0.5 on either axis, to the digits of the constants."""
    num, sigma = 40_000, 0.3
    points = fractal("AB").sample(num, torch.Generator().manual_seed(0), sigma).double()
    assert (points.mean(0).abs() < 5 * 0.6 / num**0.5).all()
    assert torch.allclose(points.var(0), torch.full((2,), 0.5**2 + sigma**2, dtype=torch.float64), rtol=0.03)


def test_samples_fall_on_the_branches_by_their_weights(small):
    points = small.sample(20_000, torch.Generator().manual_seed(0))
    shares = torch.bincount(small.nearest_branch(points), minlength=2) / len(points)
    assert torch.allclose(shares.double(), small.weights, atol=0.01)


def test_parts_sum_to_the_whole_and_live_near_themselves(small):
    x = small.sample(500, torch.Generator().manual_seed(0))
    total = torch.full((500,), -torch.inf)
    for part in small.parts():
        near = part.near(x)
        total[near] = torch.logaddexp(total[near], part.log_density(x[near]))
    assert torch.allclose(total, small.log_density(x), atol=1e-4)


def test_a_contour_holds_what_it_should():
    mixture = fractal("A")
    fresh = mixture.log_density(mixture.sample(8192, torch.Generator().manual_seed(5)))
    outside = (fresh < mixture.contour_level(0.99, 8192)).float().mean().item()
    assert outside == pytest.approx(0.01, abs=0.005)


def test_classes_are_checked():
    with pytest.raises(ValueError, match="'C': choose one of A, B, AB"):
        fractal("C")
