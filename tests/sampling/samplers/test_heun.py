"""Heun on the exact mixture: every state, and the end points, of independent code."""

import pytest
import torch

from edm2_guidance.recipe.parts import Sampler
from tests.mixture import denoise, golden, order, path

CHURN = "S_churn=40:S_min=0.05:S_max=50:S_noise=1.003"


def test_the_mixture_is_the_golden_one():
    for sigma, x, out in zip(golden("denoise_sigma"), golden("denoise_x"), golden("denoise_out"), strict=True):
        torch.testing.assert_close(denoise(x, sigma), out, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("sampler", "name"), [("heun", "heun"), (f"heun:{CHURN}", "heun-churn")])
def test_golden_states(sampler, name):
    made = path(sampler, golden("sigmas/8").tolist()[:-1])
    torch.testing.assert_close(made, golden(f"path/{name}/8"), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        path(sampler, golden("sigmas/12").tolist()[:-1])[-1], golden(f"final/{name}/12"), rtol=1e-9, atol=1e-9
    )


def test_second_order():
    assert all(1.9 < seen < 2.1 for seen in order("heun"))


def test_evaluations():
    assert Sampler.parse("heun").evaluations([80.0, 1.0, 0.1]) == [2, 2, 1]
