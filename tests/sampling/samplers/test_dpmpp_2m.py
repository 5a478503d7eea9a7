"""DPM-Solver++ (2M) on the exact mixture: the states of independent code, its order and its cost."""

import pytest
import torch

from edm2_guidance.recipe.parts import Sampler
from tests.mixture import golden, order, path


def test_golden_states():
    made = path("dpmpp-2m", golden("sigmas/8").tolist()[:-1])
    torch.testing.assert_close(made, golden("path/dpmpp-2m/8"), rtol=1e-9, atol=1e-9)
    end = path("dpmpp-2m", golden("sigmas/18").tolist()[:-1])[-1]
    torch.testing.assert_close(end, golden("final/dpmpp-2m/18"), rtol=1e-9, atol=1e-9)


def test_second_order():
    assert all(1.9 < seen < 2.15 for seen in order("dpmpp-2m"))


def test_one_evaluation_a_step():
    assert Sampler.parse("dpmpp-2m").evaluations([80.0, 1.0, 0.1]) == [1, 1, 1]


def test_it_takes_no_churn():
    with pytest.raises(ValueError, match="dpmpp-2m has no 'S_churn'; it takes nothing"):
        Sampler.parse("dpmpp-2m:S_churn=40")
