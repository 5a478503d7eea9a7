"""The log-density network against golden numbers, and what its layers promise."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from edm2_guidance.toy import network
from edm2_guidance.toy.network import MPLinear, ToyModel

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "toy.npz")


@pytest.fixture
def golden_net():
    net = ToyModel().eval()
    net.load_state_dict({key[6:]: torch.from_numpy(GOLDEN[key]) for key in GOLDEN if key.startswith("param:")})
    return net


def test_density_and_score_are_the_golden_ones(golden_net):
    points = torch.from_numpy(GOLDEN["points"])
    for ours, theirs in (
        (golden_net(points, 0.3), GOLDEN["model_logp"]),
        (golden_net.score(points, 0.3), GOLDEN["model_score"]),
    ):
        error = np.linalg.norm(ours.detach().numpy() - theirs)
        assert error <= 1e-5 * np.linalg.norm(theirs)


def test_a_level_per_point_is_each_point_at_its_level(golden_net):
    points, sigma = torch.from_numpy(GOLDEN["points"][:4]), torch.tensor([0.01, 0.1, 1.0, 5.0])
    together = golden_net.denoise(points, sigma)
    for i in range(4):
        assert torch.allclose(together[i], golden_net.denoise(points[i : i + 1], sigma[i])[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("leading", [(), (1,), (3, 4), (2, 1, 3)])
def test_points_may_have_any_leading_dimensions(golden_net, leading):
    points = torch.from_numpy(np.resize(GOLDEN["points"], (*leading, 2)))
    levels = torch.linspace(0.1, 0.4, max(points[..., 0].numel(), 1)).reshape(leading)
    for sigma in (0.3, levels):
        one_by_one = zip(points.reshape(-1, 2), levels.reshape(-1), strict=True)
        single = [golden_net(x[None], s if torch.is_tensor(sigma) else sigma) for x, s in one_by_one]
        expected = torch.cat(single).reshape(leading)
        assert torch.allclose(golden_net.logp(points, sigma), expected, rtol=1e-4, atol=1e-5)
        assert torch.allclose(golden_net.pdf(points, sigma), (expected - expected.max()).exp(), rtol=1e-3, atol=1e-5)
        assert golden_net.score(points, sigma).shape == points.shape
        assert golden_net.denoise(points, sigma).shape == points.shape


def test_what_edm2s_own_toy_example_calls(golden_net):
    """Names and arguments of its script, on a grid of points."""
    grid = torch.from_numpy(GOLDEN["points"][:12]).reshape(3, 4, 2)
    logp = golden_net.logp(grid, sigma=0.3).detach()
    assert torch.equal(logp, golden_net(grid, 0.3))
    assert golden_net.pdf(grid, sigma=0.3).max() == 1
    score = golden_net.score(grid, sigma=0.3, graph=True)
    assert torch.allclose(score.reshape(-1, 2), golden_net.score(grid.reshape(-1, 2), 0.3))
    assert score.requires_grad
    assert not golden_net.score(grid, sigma=0.3).requires_grad


def test_an_untrained_network_is_the_gaussian_of_the_data():
    """Gain 0: the score of N(0, sigma^2 + sigma_data^2), so the denoiser shrinks towards 0."""
    points, sigma = torch.randn(10, 2), 0.7
    expected = points * 0.5**2 / (0.5**2 + sigma**2)
    assert torch.allclose(ToyModel().denoise(points, sigma), expected, atol=1e-6)


def test_lengths_of_weight_rows_do_not_matter():
    layer, x = MPLinear(8, 5).eval(), torch.randn(3, 8)
    before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([1.0, 2, 5, 30, 100])[:, None])
    assert torch.allclose(layer(x), before, rtol=1e-3, atol=1e-4)


def test_training_brings_weight_rows_back_to_one_length():
    layer = MPLinear(8, 5)
    layer(torch.randn(3, 8))
    assert torch.allclose(layer.weight.detach().norm(dim=1), torch.full((5,), 8**0.5), rtol=1e-3)
    layer.weight.data *= 3
    kept = layer.weight.detach().clone()
    layer.eval()(torch.randn(3, 8))
    assert torch.equal(layer.weight, kept)


def test_the_embedded_text_imports_only_what_every_reader_has():
    tree = ast.parse(Path(network.__file__).read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules <= {"__future__", "math", "torch", "torch.nn", "torch_utils"}
