"""What is searched in which order, and the recipe that a point of a search stands for."""

from dataclasses import replace

import click
import pytest

from edm2_guidance.cli.intervals import EVERYWHERE
from edm2_guidance.cli.lists import FloatList
from edm2_guidance.cli.recipe_args import GuideDefaults
from edm2_guidance.cli.recipe_options import NetworkOptions
from edm2_guidance.cli.search_options import SearchOptions, missing_files, search_text, start_of
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from edm2_guidance.recipe.parts import constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.search import recipe_at, valid

MAIN, UNCOND, WEAK = (NetworkRef(f"nets/{name}-0000163-0.050.pkl") for name in ("main", "uncond", "weak"))
ONE = Recipe(MAIN, (Guide(UNCOND, constant(1.5)),), 16)
TWO = Recipe(MAIN, (Guide(UNCOND, constant(1.5)), Guide(WEAK, constant(1.25))), 16)
NETWORKS = NetworkOptions.defaults()
OPTIONS = SearchOptions(
    over="", weights=[1.0, 1.5, 2.0], emas=[0.05, 0.1], alphas=[0.0, 0.5, 1.0], scales=[0.0, 2.0], values=None, stride=1
)


def stages(over, recipe=ONE):
    return replace(OPTIONS, over=over).stages(recipe)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1,1.5", [1, 1.5]),
        ("1,1.05,...,1.2", [1, 1.05, 1.1, 1.15, 1.2]),
        ("0.25,0.2,...,0.1", [0.25, 0.2, 0.15, 0.1]),
        ("0.010,0.015,...,0.250", [round(0.005 * i, 3) for i in range(2, 51)]),
    ],
)
def test_lists_of_numbers(text, numbers):
    assert FloatList().convert(text, None, None) == numbers


@pytest.mark.parametrize(
    "text", ["1,...,3", "1,2,...", "1,1.3,...,2", "1,1,...,2", "2,3,...,1", "1,1.000001,...,9", "x"]
)
def test_lists_that_are_none(text):
    with pytest.raises(click.BadParameter, match=r"number|steps of"):
        FloatList().convert(text, None, None)


def test_what_is_searched_need_not_be_given():
    assert replace(OPTIONS, over="weight, interval").varied(NETWORKS) == GuideDefaults(1.0, EVERYWHERE)
    assert replace(OPTIONS, over="interval").varied(NETWORKS) == GuideDefaults(None, EVERYWHERE)
    assert replace(OPTIONS, over="ema,alpha").varied(NETWORKS) == GuideDefaults()


def test_order_of_the_stages():
    assert [[axis.name for axis in axes] for axes in stages("interval,weight,ema")] == [
        ["first"],
        ["last"],
        ["weight"],
        ["ema", "guide_ema"],
    ]
    assert [axis.name for axis in stages("ema", Recipe(MAIN))[0]] == ["ema"]


def test_a_search_starts_from_the_recipe_and_an_open_interval():
    assert start_of(ONE, stages("weight,interval,ema")) == {
        "weight": 1.5,
        "first": 0,
        "last": 15,
        "ema": 0.05,
        "guide_ema": 0.05,
    }
    assert start_of(TWO, stages("alpha", TWO)) == {"weight": 1.75, "alpha": pytest.approx(1 / 3)}


def test_one_end_of_an_interval_is_swept_with_the_other_as_it_is():
    inside = Recipe(MAIN, (Guide(UNCOND, constant(1.5), SigmaInterval(0.28, 2.9)),), 32)
    (first,), (last,) = stages("first", inside)[0], stages("last", inside)[0]
    assert (first.values, last.values) == (tuple(range(32)), tuple(range(31, -1, -1)))
    assert start_of(inside, [[first]]) == start_of(inside, [[last]]) == {"first": 15, "last": 21}
    assert start_of(ONE, stages("last")) == {"first": 0, "last": 15}
    assert "w = 1.5; 32 steps" in search_text(inside, [[last]], 1)[0], "the interval is tried, not fixed"


def test_any_field_may_be_searched():
    rescaled = Recipe(MAIN, (Guide(UNCOND, constant(1.5)),), 16, rule="rescale")
    (found,) = replace(OPTIONS, over="phi", values=[0.0, 1.0]).stages(rescaled)
    assert [(axis.name, axis.values) for axis in found] == [("phi", (0.0, 1.0))]
    assert start_of(rescaled, [found]) == {"phi": 0.7}
    with pytest.raises(ValueError, match="'phi': no part of this recipe has it"):
        replace(OPTIONS, over="phi", values=[0.0, 1.0]).stages(ONE)
    with pytest.raises(click.UsageError, match=r"'phi' is not one of weight.* need --values"):
        stages("phi", rescaled)


def test_what_was_not_asked_for_stays():
    inside = Recipe(MAIN, (Guide(UNCOND, constant(1.5), StepInterval(5, 11)),), 16)
    assert recipe_at(inside, {"weight": 2.0}).guides == (Guide(UNCOND, constant(2.0), StepInterval(5, 11)),)


def test_interval_points():
    assert recipe_at(ONE, {"first": 3, "last": 9}).guides[0].interval == StepInterval(3, 9)
    assert recipe_at(ONE, {"first": 0, "last": 15}).guides[0].interval is None
    assert recipe_at(ONE, {"first": 0, "last": 15}).hash == ONE.hash
    assert valid({"first": 3, "last": 3})
    assert not valid({"first": 4, "last": 3})


def test_blend_is_eq_6():
    """w_u = (1 - alpha)(w - 1) + 1 and w_c = alpha (w - 1) + 1."""
    made = recipe_at(TWO, {"weight": 3.0, "alpha": 0.25})
    assert [guide.weight.w for guide in made.guides] == [2.5, 1.5]
    assert [guide.weight.w for guide in recipe_at(TWO, {"weight": 3.0, "alpha": 0.0}).guides] == [3.0, 1.0]


def test_ema_lengths_name_the_files(tmp_path):
    made = recipe_at(ONE, {"ema": 0.1, "guide_ema": 0.025})
    assert made.net.source == "nets/main-0000163-0.100.pkl"
    assert made.guides[0].net.source == "nets/uncond-0000163-0.025.pkl"
    (tmp_path / "main-0000163-0.050.pkl").touch()
    here = Recipe(NetworkRef(f"{tmp_path}/main-0000163-0.050.pkl"), (), 16)
    assert missing_files(here, stages("ema", here)) == [f"{tmp_path}/main-0000163-0.100.pkl"]
    with pytest.raises(ValueError, match="no EMA length in the name"):
        start_of(Recipe(NetworkRef("plain.pkl")), stages("ema", Recipe(MAIN)))


@pytest.mark.parametrize(
    ("over", "recipe", "message"),
    [
        ("speed", ONE, "'speed' is not one of"),
        ("weight", Recipe(MAIN), "has no guide"),
        ("alpha", ONE, "blends two guides: give two"),
    ],
)
def test_refused(over, recipe, message):
    with pytest.raises(click.UsageError, match=message):
        stages(over, recipe)
