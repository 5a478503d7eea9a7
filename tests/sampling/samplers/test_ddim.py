"""DDIM on the exact mixture: between Euler and ancestral sampling, and what its noise replaces."""

import math

import pytest
import torch

from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.parts import Sampler, Schedule, StepInfo
from edm2_guidance.recipe.recipe import Recipe
from tests.sampling.samplers.test_ddpm import noises, run

LEVELS = Schedule.parse("logsnr").levels(10)


def test_without_noise_it_is_euler():
    """And of its order."""
    draws = noises(11, 6)
    start = draws[:1] * math.hypot(1, LEVELS[0]) / LEVELS[0]
    torch.testing.assert_close(run("ddim:clip=false", LEVELS, draws)[1:], run("euler", LEVELS, start)[1:])


def test_with_all_noise_it_is_ancestral_with_the_posteriors_variance():
    draws = noises(11, 6)
    ours, theirs = run("ddim:clip=false:eta=1", LEVELS, draws), run("ddpm:clip=false", LEVELS, draws)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_noise_that_is_added_is_what_is_taken_away(eta):
    """arXiv 2010.02502, Eq. 16, at one step: for x0 = 0, x' has variance sigma_next^2 whatever eta."""
    x = noises(2, 200_000)[0] * 3
    step = Sampler.parse(f"ddim:eta={eta}")
    made = step.step(x, StepInfo(0, 2, 3.0, 3.0, 1.2), lambda x, sigma: 0 * x, torch.randn_like, ())
    assert float(made.x.std()) == pytest.approx(1.2, rel=0.01)


def test_evaluations_and_range():
    recipe = Recipe(NetworkRef("net"), schedule=Schedule.parse("timesteps:steps=ddim25"), sampler=Sampler.parse("ddim"))
    assert recipe.evaluations() == {"main": 25}
    assert recipe.sampler.clips
    with pytest.raises(ValueError, match=r"eta=1\.5: must be at least 0 and at most 1"):
        Sampler.parse("ddim:eta=1.5")
