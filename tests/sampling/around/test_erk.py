"""ERK's correction: against a loop over images, in both precisions, and what it leaves alone."""

import itertools
import math

import pytest
import torch

from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.engine import trajectory
from tests import mixture
from tests.functions import denoise_at
from tests.mixture import golden

START = golden("x_start")


def run(around, start=START, denoiser=mixture.denoise, steps=8, sampler="heun"):
    """The last x, from a start at the first level."""
    recipe = Recipe("net", num_steps=steps, sampler=sampler, around=around)
    at = denoise_at(denoiser, around=recipe.around)
    *_, last = trajectory(recipe.sampler, recipe.steps(), at, start / 80)
    return last.x


def slope(x, sigma):
    return (x - mixture.denoise(x[None], sigma)[0]) / sigma


def correction(d, x, other_d, other_x, h, w_stiff, w_con):
    """Of one image, as the paper has it."""
    rho = math.dist(d, other_d) / (math.dist(x, other_x) + 1e-8)
    v = (d - other_d) / (math.dist(d, other_d) + 1e-8)
    z = w_stiff * h * rho if rho > w_con else 0.0
    return -h * z**2 * float(v @ d) * v


def heun(x, levels, w_stiff, w_con):
    other = None
    for sigma, after in itertools.pairwise(levels):
        d, h = slope(x, sigma), sigma - after
        euler = x - h * d
        d_euler = slope(euler, after)
        moved = correction(d, x, *other, h, w_stiff, w_con) if other is not None else 0
        x, other = x - h * (d + d_euler) / 2 + moved, (d_euler, euler)
    return mixture.denoise(x[None], levels[-1])[0]


def midpoint(x, levels, w_stiff, w_con):
    for sigma, after in itertools.pairwise(levels):
        d, h = slope(x, sigma), sigma - after
        middle = math.sqrt(sigma * after)
        half = x + (middle - sigma) * d
        d_half = slope(half, middle)
        x = x - h * d_half + correction(d, x, d_half, half, h, w_stiff, w_con)
    return mixture.denoise(x[None], levels[-1])[0]


@pytest.mark.parametrize(("sampler", "loop"), [("heun", heun), ("dpm2", midpoint)])
@pytest.mark.parametrize(("w_stiff", "w_con"), [(1.0, 0.5), (0.5, 0.1)])
def test_it_is_the_loop(sampler, loop, w_stiff, w_con):
    made = run(f"erk:w_stiff={w_stiff}:w_con={w_con}", sampler=sampler)
    levels = Recipe("net", num_steps=8).levels()
    for n in range(len(START)):
        torch.testing.assert_close(made[n], loop(START[n], levels, w_stiff, w_con), rtol=1e-9, atol=1e-9)
    assert float((made - run((), sampler=sampler)).norm(dim=1).max()) > 0.05


def test_what_is_off_is_the_sampler():
    for off in ("erk:w_stiff=0", "erk:w_con=1e9"):
        assert torch.equal(run(off), run(()))
    two = run("erk", steps=2), run((), steps=2)
    assert torch.equal(*two), "the first step has nothing before it, the last none after"


def test_no_batch_changes_an_image():
    whole = run("erk")
    parts = torch.cat([run("erk", START[:3]), run("erk", START[3:])])
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("around", ["erk", "erk:w_stiff=0.5:w_con=0.1"])
def test_float32_is_enough(around):
    """Networks make D in float32; slopes are computed in float64 from that and the state, as it is rounded."""

    def single(x, sigma):
        return mixture.denoise(x.double(), float(sigma)).float()

    effect = (run(around, steps=16) - run((), steps=16)).abs().max()
    off = (run(around, START.float(), single, steps=16) - run(around, steps=16)).abs().max()
    assert float(effect) > 0.1
    assert float(off) < 5e-4


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        ("euler", "erk compares two values of D in a step, and euler asks for one alone: take --sampler=heun"),
        ("unipc", "and unipc asks for one alone"),
        ("heun:S_churn=4", "erk compares slopes at one noise level, which churn moves: leave out S_churn"),
    ],
)
def test_samplers_without_it(sampler, said):
    with pytest.raises(ValueError, match=said):
        Recipe("net", sampler=sampler, around="erk")
