"""Euler on the exact mixture: the end points of independent code, its order and its cost."""

import pytest
import torch

from edm2_guidance.recipe.parts import Sampler
from tests.mixture import golden, order, path


@pytest.mark.parametrize(
    ("sampler", "name"),
    [("euler", "euler"), ("euler:S_churn=40:S_min=0.05:S_max=50:S_noise=1.003", "euler-churn")],
)
@pytest.mark.parametrize("num_steps", [12, 18])
def test_golden_ends(sampler, name, num_steps):
    made = path(sampler, golden(f"sigmas/{num_steps}").tolist()[:-1])
    torch.testing.assert_close(made[-1], golden(f"final/{name}/{num_steps}"), rtol=1e-9, atol=1e-9)


def test_first_order():
    assert all(0.9 < seen < 1.1 for seen in order("euler"))


def test_one_evaluation_a_step():
    assert Sampler.parse("euler").evaluations([80.0, 1.0, 0.1]) == [1, 1, 1]
