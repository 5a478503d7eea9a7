"""Noise levels by a list, by quantiles of a Beta distribution, and of the VP process, as they are known elsewhere."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.timesteps import noise_levels

GOLDEN = np.load(Path(__file__).parents[2] / "data" / "schedules.npz")
#: By the name in the golden file.
SPECS = {
    "ays-sd15": "ays",
    "ays-sdxl": "ays:sdxl",
    "ays-svd": "ays:svd",
    "beta-rho": "beta",
    "beta-sigma": "beta:sigma",
    "vp-continuous": "vp",
}


@pytest.mark.parametrize("count", [8, 12])
@pytest.mark.parametrize("name", SPECS)
def test_golden_levels(name, count):
    made = [*Schedule.parse(SPECS[name]).levels(count), 0.0]
    assert made == pytest.approx(GOLDEN[f"schedule/{name}/{count}"].tolist(), rel=1e-9)


@pytest.mark.parametrize("count", [8, 12])
def test_beta_over_time_takes_the_timesteps_that_are_known(count):
    """Those of the golden levels, which are of another process: evenly spaced roots of beta, 0.00085 to 0.012."""
    kept = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    theirs = np.sqrt(1 / kept - 1)
    expected = [int(np.abs(theirs - level).argmin()) for level in GOLDEN[f"schedule/beta-time-scaled-linear/{count}"]]
    for text, betas in (("beta:time", "linear"), ("beta:time-cosine", "cosine")):
        table = noise_levels(betas)
        assert [table.index(level) for level in Schedule.parse(text).levels(count)] == expected[:-1]


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (2.0, 5.0), (30.0, 0.5)])
def test_the_quantiles_are_those_of_the_distribution(a, b):
    made = Schedule.parse(f"beta:sigma:a={a}:b={b}:sigma_min=1:sigma_max=2").levels(9)
    expected = 1 + stats.beta.ppf(1 - np.arange(9) / 8, a, b)
    np.testing.assert_allclose(made, expected, rtol=1e-10)


def test_a_list_has_its_own_number_of_steps_and_takes_others():
    assert Recipe("net", schedule="ays").num_steps == 10
    assert Schedule.parse("ays").levels(10)[3] == 2.697
    assert Recipe("net", schedule="ays", num_steps=4).evaluations() == {"main": 7}
    assert Recipe("net", schedule="vp").num_steps == 32
    middle = Schedule.parse("ays").levels(19)[1::2]
    pairs = zip(Schedule.parse("ays").levels(10), Schedule.parse("ays").levels(10)[1:], strict=False)
    assert middle == pytest.approx([math.sqrt(a * b) for a, b in pairs])


@pytest.mark.parametrize("kind", ["ays", "beta", "beta:time", "vp"])
def test_one_step_is_from_the_highest_level(kind):
    schedule = Schedule.parse(kind)
    assert schedule.levels(1) == schedule.levels(7)[:1]


@pytest.mark.parametrize(
    ("text", "count", "says"),
    [
        ("beta:time", 150, "150 steps of beta:time are no falling noise levels: take fewer steps"),
        ("beta:sigma_min=2:sigma_max=1", 8, "sigma_min 2, sigma_max 1: need min < max"),
        ("ays:sd3", 8, "sd3"),
        ("vp:end=0", 8, "above 0"),
    ],
)
def test_impossible_levels(text, count, says):
    with pytest.raises(ValueError, match=says):
        Schedule.parse(text).levels(count)
