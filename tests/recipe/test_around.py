"""Around, as a part of recipes: texts, hashes, files, options, searches."""

import json

import pytest

from edm2_guidance.cli.report import describe
from edm2_guidance.explorer.settings import Settings
from edm2_guidance.recipe.around import Around
from edm2_guidance.recipe.describe import describe_recipe
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import SigmaInterval
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.search import field_of, recipe_at
from edm2_guidance.recipe.stored import hash_of_format_1, read_recipe

BOTH = "cads:s=0.1,erk:w_stiff=2"


def test_one_or_several_in_one_order():
    made = Recipe("net", around=BOTH)
    assert [str(each) for each in made.around] == ["erk:w_stiff=2", "cads:s=0.1"]
    assert made == Recipe("net", around=["erk:w_stiff=2", Around.parse("cads:s=0.1")])
    assert Recipe("net", around=Around.parse("higs")) == Recipe("net", around="higs")
    assert Recipe("net", around="") == Recipe("net", around=()) == Recipe("net")
    with pytest.raises(ValueError, match="--around names erk twice"):
        Recipe("net", around="erk,erk:w_stiff=2")
    with pytest.raises(ValueError, match=r"no around 'erc' \(did you mean erk\?\)"):
        Recipe("net", around="erc")


def test_what_does_nothing_is_no_part_of_the_hash():
    plain = Recipe("net")
    nowhere = Around.parse("restart").with_fields({"segments": ()})
    for off in ("erk:w_stiff=0", "higs:w_H=0", "cads:tau1=1", nowhere, "erk:w_stiff=0,higs:w_H=0"):
        made = Recipe("net", around=off)
        assert made.hash == plain.hash
        assert made.evaluations() == plain.evaluations()
    assert "around" not in plain.to_json()
    assert "around" not in plain.canonical()
    hashes = {Recipe("net", around=each).hash for each in ("", "erk", "erk:w_stiff=2", "higs", "cads", BOTH, "restart")}
    assert len(hashes) == 7
    assert hash_of_format_1(plain) is not None
    assert hash_of_format_1(Recipe("net", around="erk")) is None


@pytest.mark.parametrize("interval", [None, SigmaInterval(0.2, 3.0), SigmaInterval(0.2, float("inf"))])
@pytest.mark.parametrize("around", [BOTH, "restart:cifar10", "restart:segments=3/1/0.5/2,higs"])
def test_files(around, interval):
    made, _ = Recipe("net", Guide("u", 2.0, interval), 18, noise_device="cpu", around=around).resolved()
    read = read_recipe(json.loads(json.dumps(made.to_json())))
    assert read.hash == made.hash
    assert read.around == made.around
    assert read.guides[0].interval == made.guides[0].interval


def test_in_words():
    made = Recipe("net", around=BOTH)
    assert made.unusual_text() == "erk:w_stiff=2, cads:s=0.1"
    assert "around erk:w_stiff=2, around cads:s=0.1" in describe(made)
    assert describe_recipe(made.to_json()) == "net, erk:w_stiff=2, cads:s=0.1"


def test_searches_vary_its_fields():
    made = Recipe("net", around=BOTH)
    assert field_of(made, "w_stiff") == 2
    moved = recipe_at(made, {"w_stiff": 0.5, "s": 0.2})
    assert [str(each) for each in moved.around] == ["erk:w_stiff=0.5", "cads:s=0.2"]
    with pytest.raises(ValueError, match="no part of this recipe has it"):
        recipe_at(Recipe("net"), {"w_stiff": 0.5})


def test_the_explorer_leaves_it_as_it_is():
    start, _ = Recipe("net", Guide("u", 2.0), 12, around="restart").resolved()
    assert Settings.of(start, 4).recipe(start) == start
    counted, _ = Recipe("net", Guide("u", 2.0, SigmaInterval(0.2, 3)), 12, around="restart").resolved()
    with pytest.raises(ValueError, match="the explorer's intervals count steps, which legs do not"):
        Settings.of(counted, 4)
