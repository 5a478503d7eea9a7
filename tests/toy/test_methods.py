"""Sampling by the four methods, with ideal denoisers where the outcome is known."""

from types import SimpleNamespace

import pytest
import torch

from edm2_guidance.recipe.parts import StepInfo
from edm2_guidance.toy import methods
from edm2_guidance.toy.distribution import fractal
from edm2_guidance.toy.methods import Networks, compared, guided, sample, trajectories, truncated
from edm2_guidance.toy.network import ToyModel

STEP = StepInfo(0, 1, 0.3, 0.3, 0.0)


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(0)
    models = [ToyModel(num_layers=1, hidden_dim=8).eval() for _ in range(3)]
    for model in models:
        torch.nn.init.constant_(model.gain, 0.05)
    return Networks(*models)


def test_the_ideal_denoiser_gives_samples_of_the_truth():
    """The whole way of sampling: nearly all of them inside the contour, and on the branches by their weights."""
    truth = fractal("A")
    points = sample(guided(truth.denoise), 512, seed=0)
    assert (truth.log_density(points) < truth.contour_level(0.99, 4096)).float().mean() < 0.04
    on_trunk = (truth.nearest_branch(points) == 0).float().mean()
    assert on_trunk == pytest.approx(float(truth.weights[0]), abs=0.07)


def test_truncation_lengthens_the_score():
    net, x, sigma = ToyModel(), torch.randn(4, 2), torch.tensor(0.3)
    longer = (truncated(net.denoise, 1.4)(x, sigma) - x) / sigma**2
    assert torch.allclose(longer, 1.4 * net.score(x, sigma), rtol=1e-4)


def test_each_method_is_the_formula(nets):
    x, sigma = torch.randn(4, 2), torch.tensor(0.3)
    main, weak, both = (net.denoise(x, sigma) for net in (nets.main, nets.weak, nets.unconditional))
    expected = {
        "unguided": main,
        "CFG": both + 4 * (main - both),
        "truncation": x + 1.4 * (main - x),
        "autoguidance": weak + 3 * (main - weak),
    }
    found = {name: at(STEP)(x, sigma) for name, at in compared(nets).items()}
    assert list(found) == list(expected)
    for name in expected:
        assert torch.allclose(found[name], expected[name], atol=1e-5), name


def test_weight_1_never_evaluates_the_guides(nets):
    broken = SimpleNamespace(denoise=None)
    methods_off = compared(Networks(nets.main, broken, broken), cfg=1, autoguidance=1)
    plain = sample(methods_off["unguided"], 8, 0)
    assert torch.equal(sample(methods_off["CFG"], 8, 0), plain)
    assert torch.equal(sample(methods_off["autoguidance"], 8, 0), plain)


def test_samples_are_a_function_of_the_seed(nets):
    samplers = methods.samplers(nets)
    first, again, other = (samplers["CFG"](8, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_paths_begin_where_they_are_told_and_end_at_the_samples(nets):
    at, start = guided(nets.main.denoise), torch.randn(5, 2)
    paths = trajectories(at, start, 0.03, num_steps=8)
    assert paths.shape == (9, 5, 2)
    assert torch.equal(paths[0], start)
