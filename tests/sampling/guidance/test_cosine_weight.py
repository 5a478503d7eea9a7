"""The weight cosine: its values, its mean, and what it costs."""

import math

import pytest

from edm2_guidance.recipe.parts import Sampler, Weight, planned
from edm2_guidance.recipe.recipe import Guide, NetworkRef, Recipe, StepInterval
from tests.functions import levels

WEIGHT = Weight.parse("cosine:w=2.5")
STEPS = planned(Sampler.parse("heun"), levels(9))


def test_values_rise_from_1_and_keep_the_mean():
    values = [WEIGHT.at(step, None) for step in STEPS]
    expected = [1 + 1.5 * (1 - math.cos(math.pi * k / 8)) for k in range(9)]
    assert values == pytest.approx(expected, abs=1e-12)
    assert (values[0], values[4], values[8]) == pytest.approx((1, 2.5, 4))
    assert math.fsum(values) / 9 == pytest.approx(2.5)


def test_the_first_step_is_off_and_costs_nothing():
    assert [WEIGHT.off(step) for step in STEPS] == [True] + [False] * 8
    assert all(Weight.parse("cosine:w=1").off(step) for step in STEPS)
    net = NetworkRef("net")
    assert Recipe(net, (Guide(net, WEIGHT),), 9).evaluations() == {"main": 17, "guide 1": 15}
    inside = Guide(net, WEIGHT, StepInterval(0, 3))
    assert Recipe(net, (inside,), 9).evaluations() == {"main": 17, "guide 1": 6}


def test_a_single_step_is_the_last():
    (step,) = planned(Sampler.parse("heun"), levels(1))
    assert WEIGHT.at(step, None) == pytest.approx(4)
