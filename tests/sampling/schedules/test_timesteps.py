"""The schedule timesteps: lists and tables of the published code, what they cost, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.timesteps import kept_timesteps, noise_levels

GOLDEN = np.load(Path(__file__).parents[2] / "data" / "adm.npz")
LISTS = [name.removeprefix("spacing/") for name in GOLDEN.files if name.startswith("spacing/")]
NET = NetworkRef("net")


def schedule(steps="250", betas="linear"):
    return Schedule.parse(f"timesteps:steps={steps}:betas={betas}")


@pytest.mark.parametrize("name", LISTS)
def test_published_lists(name):
    kept = GOLDEN[f"spacing/{name}"].tolist()
    assert kept_timesteps(name.replace(",", "+")) == kept
    made = schedule(name.replace(",", "+"))
    assert made.levels(len(kept)) == [noise_levels("linear")[k] for k in kept[::-1]]
    assert Recipe(NET, schedule=made).num_steps == len(kept)


@pytest.mark.parametrize("betas", ["linear", "cosine"])
@pytest.mark.parametrize("steps", ["10", "ddim10"])
def test_levels_are_of_the_published_tables(steps, betas):
    levels = np.array(schedule(steps, betas).levels(10))
    expected = GOLDEN[f"sched/{betas}/{steps}/alphas_cumprod"][::-1]
    np.testing.assert_allclose(1 / (1 + levels**2), expected, rtol=1e-8)  # which are products of rounded factors
    assert (np.diff(levels) < 0).all()


def test_every_timestep():
    assert kept_timesteps("1000") == kept_timesteps("ddim1000") == list(range(1000))
    assert kept_timesteps("1") == kept_timesteps("ddim1") == [0]


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ("ddim300", "steps=ddim300: no whole stride takes 300 of 1000"),
        ("1001", "a section of 1000 timesteps holds no 1001"),
        ("100+501", "a section of 500 timesteps holds no 501"),
        ("0", "give a number, several joined by"),
        ("025", "give a number"),
        ("ddim", "give a number"),
        ("10+", "give a number"),
        ("-5", "give a number"),
        ("٢٥", "give a number"),
    ],
)
def test_bad_lists(steps, says):
    with pytest.raises(ValueError, match=says):
        schedule(steps)


def test_another_number_of_steps_contradicts_it():
    assert Recipe(NET).num_steps == 32
    with pytest.raises(ValueError, match="32 steps, and the schedule timesteps:steps=ddim25 has 25: leave out --steps"):
        Recipe(NET, num_steps=32, schedule=schedule("ddim25"))
    assert str(schedule("250")) == "timesteps"
    assert str(schedule("ddim25", "cosine")) == "timesteps:steps=ddim25:cosine"
    assert Schedule.parse("timesteps:steps=ddim25:cosine") == schedule("ddim25", "cosine")
