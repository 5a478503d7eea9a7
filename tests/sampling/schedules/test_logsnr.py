"""Levels evenly spaced in log sigma."""

import itertools
import math

import pytest

from edm2_guidance.recipe.parts import Schedule
from tests.mixture import golden


@pytest.mark.parametrize("num_steps", [8, 12])
def test_golden_levels(num_steps):
    expected = golden(f"schedule/logsnr/{num_steps}").tolist()
    assert [*Schedule.parse("logsnr").levels(num_steps), 0.0] == pytest.approx(expected, rel=1e-9)


def test_ratios_are_equal():
    levels = Schedule.parse("logsnr:sigma_min=0.01:sigma_max=10").levels(7)
    assert (levels[0], levels[-1]) == pytest.approx((10, 0.01))
    assert [math.log(a / b) for a, b in itertools.pairwise(levels)] == pytest.approx([math.log(1000) / 6] * 6)
    assert Schedule.parse("logsnr").levels(1) == [80.0]


@pytest.mark.parametrize("text", ["logsnr:sigma_min=2:sigma_max=1", "logsnr:sigma_min=0", "logsnr:sigma_max=inf"])
def test_impossible_levels(text):
    with pytest.raises(ValueError, match=r"min < max|above 0|finite"):
        Schedule.parse(text)
