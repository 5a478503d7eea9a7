"""Programs of legs: golden ends, independent loops, costs, what starts anew, and what they refuse."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import SigmaInterval
from edm2_guidance.recipe.parts import Sampler, Weight, planned
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.engine import trajectory
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.guidance.guided import guided
from edm2_guidance.sampling.opening import open_recipe
from tests import mixture
from tests.functions import levels, network
from tests.mixture import golden

GOLDEN = np.load(Path(__file__).parents[2] / "data" / "restart.npz")
RESTART = "restart:segments=4/1/1.09/1.92+3/2/0.06/0.3"
NOISE = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
DRAWN = torch.randn(9, 2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def main(x, sigma):
    return x / (1 + sigma**2) + 0.1 * torch.tanh(x)


def other(x, sigma):
    return 0.9 * x / (1 + sigma**2) - 0.2 * torch.cos(x)


def recipe_of(around, weight="constant:w=2", interval=None, steps=9, **more):
    return Recipe("net", Guide("other", Weight.parse(weight), interval), steps, around=around, **more)


def run(recipe, noise=NOISE, drawn=DRAWN):
    """All steps; what is drawn is DRAWN, one after the other."""
    resolved, _ = recipe.resolved()
    at = guided(network(main), [(resolved.guides[0], network(other))], recipe.rule, around=recipe.around)
    count = itertools.count()
    return list(trajectory(recipe.sampler, recipe.steps(), at, noise, lambda x: drawn[next(count)]))


@pytest.mark.parametrize("key", GOLDEN.files)
def test_golden_ends_of_restart(key):
    recipe = Recipe("net", num_steps=int(key.split("/")[2]), around=RESTART)
    drawn, at = itertools.count(), guided(network(mixture.denoise))
    noise = golden("noise")
    *_, last = trajectory(recipe.sampler, recipe.steps(), at, golden("x_start") / 80, lambda x: noise[next(drawn)])
    torch.testing.assert_close(last.x, torch.from_numpy(GOLDEN[key]), rtol=1e-9, atol=1e-9)


def test_published_costs():
    assert Recipe("net", num_steps=36, around="restart:imagenet64").evaluations() == {"main": 203}
    assert Recipe("net", num_steps=18, around="restart:cifar10").evaluations() == {"main": 35 + 2 * 4}
    assert Recipe("net", num_steps=32, around="cfgig").evaluations() == {"main": 23 + 2 * 19}
    assert recipe_of("cfgig", steps=32).evaluations() == {"main": 61, "guide 1": 38}
    odd = Recipe("net", num_steps=32, around="cfgig:rounds=3", sampler="euler")
    assert [step.index for step in odd.steps() if step.renoise] == [14, 20, 26]
    assert odd.evaluations() == {"main": 32}


def heun(x, starts, denoise):
    for sigma, after in zip(starts, [*starts[1:], 0.0], strict=True):
        slope = (x - denoise(x, sigma)) / sigma
        end = x + (after - sigma) * slope
        if after > 0:
            end = x + (after - sigma) * (slope + (end - denoise(end, after)) / after) / 2
        x = end
    return x


def test_cfgig_is_the_loop():
    def guided_at(x, sigma):
        return other(x, sigma) + 2 * (main(x, sigma) - other(x, sigma))

    x = heun(80 * NOISE, levels(5), main)
    for round_ in range(2):
        x = heun(x + 0.7 * DRAWN[round_], levels(2, sigma_max=0.7), guided_at)
    made = run(recipe_of("cfgig:init=4:sigma=0.7"))[-1].x
    torch.testing.assert_close(made, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", ["heun", "dpmpp-2m", "dpmpp-3m", "unipc", "sa:tau=0", "deis", "ipndm"])
@pytest.mark.parametrize("extra", ["", ",higs"])
def test_a_leg_starts_anew(sampler, extra):
    """What samplers, rules and what is around have kept is forgotten: the last leg is a recipe of its own."""
    whole = run(recipe_of(f"cfgig:init=3:rounds=1{extra}", sampler=sampler, rule="apg"))
    last = next(step for step in whole if step.info.renoise)
    alone = recipe_of(extra.strip(","), sampler=sampler, rule="apg", steps=6, schedule="edm:sigma_max=1")
    before = whole[last.info.index - 1].x
    expected = run(alone, before + DRAWN[0])
    torch.testing.assert_close(whole[-1].x, expected[-1].x, rtol=1e-9, atol=1e-9)


def test_a_reference_that_looks_back_starts_anew():
    guide = Guide(None, 1.3, reference="previous-step")

    def made(noise, **more):
        recipe, drawn = Recipe("net", guide, **more), itertools.count()
        at = guided(network(main), [(guide, None)])
        return list(trajectory(recipe.sampler, recipe.steps(), at, noise, lambda x: DRAWN[next(drawn)]))

    whole = made(NOISE, num_steps=9, around="cfgig:init=3:rounds=1")
    alone = made(whole[2].x + DRAWN[0], num_steps=6, schedule="edm:sigma_max=1")
    torch.testing.assert_close(whole[-1].x, alone[-1].x, rtol=1e-9, atol=1e-9)


def test_erk_looks_back_within_a_leg_alone():
    around = "cfgig:init=3:rounds=1,erk:w_con=0.01:w_stiff=3"
    whole = run(recipe_of(around))
    before = whole[2].x
    alone = recipe_of("erk:w_con=0.01:w_stiff=3", steps=6, schedule="edm:sigma_max=1")
    torch.testing.assert_close(whole[-1].x, run(alone, before + DRAWN[0])[-1].x, rtol=1e-9, atol=1e-9)
    assert float((whole[-1].x - run(recipe_of("cfgig:init=3:rounds=1"))[-1].x).abs().max()) > 1e-3


@pytest.mark.parametrize("around", ["cfgig:init=4", RESTART])
@pytest.mark.parametrize("sampler", ["heun", "euler", "dpm2", "sa", "ddpm:clip=false", "heun:S_churn=3"])
def test_costs(around, sampler):
    counts = {"main": 0, "guide 1": 0}

    def counted(name, denoise):
        def call(x, sigma):
            counts[name] += 1
            return denoise(x, sigma)

        return network(call)

    recipe, _ = recipe_of(around, interval=SigmaInterval(0.1, 3.0), sampler=sampler).resolved()
    at = guided(counted("main", main), [(recipe.guides[0], counted("guide 1", other))])
    steps = list(trajectory(recipe.sampler, recipe.steps(), at, NOISE, torch.zeros_like))
    assert counts == recipe.evaluations()
    assert 0 < counts["guide 1"] < counts["main"]
    assert bool(torch.isfinite(steps[-1].x).all())


def test_legs_are_of_the_recipes_schedule():
    recipe = Recipe("net", num_steps=8, around=RESTART, schedule="logsnr")
    begins = [step.index for step in recipe.steps() if step.renoise]
    leg = [step.level for step in recipe.steps()[begins[0] : begins[0] + 4]]
    ratios = [b / a for a, b in itertools.pairwise(leg)]
    assert ratios == pytest.approx([ratios[0]] * 3)


def test_steps_of_legs():
    recipe = Recipe("net", num_steps=8, around=RESTART, sampler="dpmpp-2m")
    steps = recipe.steps()
    plain = {step.level: step.progress for step in planned(Sampler.parse("heun"), recipe.levels())}
    assert [step.index for step in steps] == list(range(15))
    assert {step.num_steps for step in steps} == {15}
    assert [step.left for step in steps] == list(range(15, 0, -1))
    assert [step.level for step in steps] == list(steps[0].levels)
    for step in steps:
        if step.level in plain:
            assert step.progress == pytest.approx(plain[step.level])
    by_level = sorted(steps, key=lambda step: -step.level)
    assert [step.progress for step in by_level] == sorted(step.progress for step in by_level)
    assert [step.left for step in Recipe("net", num_steps=6, around="cfgig:init=2").steps()] == [2, 1, 2, 1, 2, 1]


def test_no_batch_changes_an_image(tiny_networks):
    """The noise that is added is of the image's own stream."""
    for around in ("cfgig:init=2", "restart"):
        recipe = Recipe(str(tiny_networks["cond"]), (), 6, around=around)
        generation = open_recipe(recipe, "cpu")
        counted = dict.fromkeys(generation.evaluations_per_image(), 0)
        whole, _ = sample(generation, [0, 1, 2], counted)
        assert counted == {"main": 3 * generation.evaluations_per_image()["main"]}
        parts = torch.cat([sample(generation, seeds)[0] for seeds in ([0], [1, 2])])
        torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-3)
        plain, _ = sample(open_recipe(Recipe(str(tiny_networks["cond"]), (), 6), "cpu"), [0, 1, 2])
        assert float((whole - plain).abs().max()) > 1e-2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"around": "restart,cfgig"}, "restart and cfgig each say which noise levels follow each other: take one"),
        ({"weight": "feedback"}, "cfgig goes several ways .* the weight feedback is of a single one"),
        ({"weight": "cfgpp:w=0.5", "sampler": "euler"}, "the weight cfgpp is of a single one"),
        ({"weight": "tv:w=2"}, "the weight tv is of a single one"),
        ({"weight": "dg:w=2"}, "the weight dg is of a single one"),
        ({"interval": (2, 5)}, r"whose steps no interval counts: give noise levels, --guidance-sigma=LO,HI"),
        (
            {"schedule": "timesteps:steps=9"},
            "the schedule timesteps has levels of its own, and none between .* take another, such",
        ),
        ({"steps": 5}, "of 5 steps 4 are without guides, and 2 rounds need one each"),
        ({"around": "cfgig:init=4:sigma=0.001"}, "sigma=0.001 is not above the schedule's lowest level, 0.002"),
        ({"around": "restart:segments=4/1/1.09"}, r"segment 4/1/1.09: write N/K/LO/HI, such as 4/1/1.09/1.92"),
        ({"around": "restart:segments=1/1/1/2"}, "N of 2 at least, K of 1, and 0 < LO < HI"),
        ({"around": "restart:segments=4/9999/1/2"}, "the segments have more than 10,000 levels: take fewer"),
        ({"around": "restart:segments=4/1/0.0001/2"}, "ends at the nearest level, 0, where no noise is left"),
        ({"around": "restart:segments=4/1/70/90"}, "ends at the nearest level, 80, at which all begins"),
        ({"around": "restart:segments=3/1/0.14/0.15"}, "ends at the nearest level, 0.1698, which is not below its HI"),
        ({"around": "restart:segments=3/1/0.14/0.5+3/1/0.17/0.6"}, "nearest level, 0.1698, as another one does"),
    ],
)
def test_what_makes_no_sense(more, said):
    with pytest.raises(ValueError, match=said):
        recipe_of(**{"around": "cfgig:init=4", **more})


def test_intervals_of_noise_levels_stay():
    """As steps they would not be one run."""
    recipe, notes = recipe_of(RESTART, interval=SigmaInterval(0.1, 1.5)).resolved()
    (guide,) = recipe.guides
    assert (guide.interval, guide.never, notes) == (SigmaInterval(0.1, 1.5), False, [])
    on = [guide.on(step) for step in recipe.steps()]
    assert on == [0.1 < step.level <= 1.5 for step in recipe.steps()]
    assert sum(a != b for a, b in itertools.pairwise(on)) > 2
    nowhere, notes = recipe_of("cfgig:init=4", interval=SigmaInterval(2, 70)).resolved()
    assert (nowhere.guides[0].never, notes) == (
        True,
        ["guidance at sigma in (2, 70] holds no sampling step: this guide is off"],
    )
    assert not nowhere.effective().guides
    assert recipe_of(RESTART, interval=SigmaInterval(0, 80)).hash == recipe_of(RESTART).hash
