"""Weights that rise and keep their mean: their values, and what they cost."""

import math

import pytest

from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.parts import Sampler, Weight, planned
from edm2_guidance.recipe.recipe import Recipe
from tests.functions import levels

STEPS = planned(Sampler.parse("heun"), levels(9))
#: By kind, the values at nine steps for w = 2.5.
VALUES = {
    "linear": [1 + 3 * k / 8 for k in range(9)],
    "cosine": [1 + 1.5 * (1 - math.cos(math.pi * k / 8)) for k in range(9)],
}


@pytest.fixture(params=VALUES)
def kind(request):
    return request.param


@pytest.fixture
def weight(kind):
    return Weight.parse(f"{kind}:w=2.5")


def test_values_rise_from_1_and_keep_the_mean(kind, weight):
    values = [weight.at(step, None) for step in STEPS]
    assert values == pytest.approx(VALUES[kind], abs=1e-12)
    assert (values[0], values[4], values[8]) == pytest.approx((1, 2.5, 4))
    assert math.fsum(values) / 9 == pytest.approx(2.5)


def test_the_first_step_is_off_and_costs_nothing(kind, weight):
    assert [weight.off(step) for step in STEPS] == [True] + [False] * 8
    assert all(Weight.parse(f"{kind}:w=1").off(step) for step in STEPS)
    net = NetworkRef("net")
    assert Recipe(net, (Guide(net, weight),), 9).evaluations() == {"main": 17, "guide 1": 15}
    inside = Guide(net, weight, StepInterval(0, 3))
    assert Recipe(net, (inside,), 9).evaluations() == {"main": 17, "guide 1": 6}


def test_a_single_step_is_the_last(weight):
    (step,) = planned(Sampler.parse("heun"), levels(1))
    assert weight.at(step, None) == pytest.approx(4)
