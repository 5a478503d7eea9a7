"""The 1D example does what the interval paper shows with its own."""

import pytest
import torch

from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.toy import one_dim
from edm2_guidance.toy.one_dim import all_mixture, class_mixture, guided_steps, paths


@pytest.fixture(scope="module")
def ends():
    return {name: paths(name, 400, seed=0)[-1][:, 0] for name in one_dim.INTERVALS}


def lower_mode(points):
    return (points < 0.2).float().mean().item()


def test_the_class_is_half_of_everything():
    x = torch.linspace(-2, 2, 9)[:, None]
    others = all_mixture().log_density(x).exp() - class_mixture().log_density(x).exp() / 2
    assert (others > -1e-6).all()
    grid = torch.linspace(-3, 3, 6001)[:, None]
    assert float(all_mixture().log_density(grid).exp().sum() * 0.001) == pytest.approx(1, abs=1e-4)


def test_unguided_samples_are_of_the_class(ends):
    assert lower_mode(ends["unguided"]) == pytest.approx(0.5, abs=0.08)
    assert ends["unguided"][ends["unguided"] > 0.2].std() == pytest.approx(0.1, abs=0.02)


def test_guidance_everywhere_loses_a_mode_and_overshoots_the_other(ends):
    assert lower_mode(ends["everywhere"]) < 0.05
    assert ends["everywhere"].median() > 0.9


def test_without_the_high_noise_levels_both_modes_stay(ends):
    assert lower_mode(ends["(0, 0.6]"]) == pytest.approx(0.5, abs=0.1)


def test_the_low_noise_levels_make_no_difference(ends):
    assert (ends["(0.1, 0.6]"] - ends["(0, 0.6]"]).abs().median() < 0.02


def test_intervals_are_decided_by_the_level_that_a_step_starts_from():
    levels = one_dim.levels()
    assert guided_steps((0.0, float("inf"))) == StepInterval(0, 127)
    steps = guided_steps((0.1, 0.6))
    inside = [level for index, level in enumerate(levels) if index in steps]
    assert inside[-1] > 0.1 * 0.98
    assert inside[0] <= 0.6 * 1.02
    assert levels[steps.first - 1] > 0.6
