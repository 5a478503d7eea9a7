"""Recipes: what counts for their hash, how they are written down, and what they refuse."""

import itertools
import json
import math
from dataclasses import replace

import pytest

from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from edm2_guidance.recipe.parts import Sampler, Schedule, constant
from edm2_guidance.recipe.recipe import Recipe

MAIN = NetworkRef("/somewhere/main.pkl", "a" * 64)
GUIDE = NetworkRef("https://host/guide.pkl", "b" * 64)
RECIPE = Recipe(MAIN, (Guide(GUIDE, constant(1.5), StepInterval(17, 22)),))


def test_names_and_places_of_files_do_not_matter_but_their_content_does():
    moved = replace(RECIPE, net=replace(MAIN, source="elsewhere/renamed.pkl"))
    assert moved.hash == RECIPE.hash
    assert replace(RECIPE, net=replace(MAIN, sha256="c" * 64)).hash != RECIPE.hash


def test_neither_hash_nor_text_holds_secrets_of_a_url():
    link = NetworkRef("https://me:secret@host/a.b/main.pkl?X-Amz-Signature=se/cret.x#secret", None)
    assert link.name == "main"
    recipe, plain = (Recipe(ref) for ref in (link, NetworkRef("https://host/a.b/main.pkl")))
    assert "secret" not in json.dumps(recipe.to_json())
    assert recipe.hash == plain.hash
    assert NetworkRef("/a/what?#.pkl").name == "what?#", "a path is no URL"
    for source in ("/a/net.v2.py:make", "C:\\a\\net.v2.py:make"):
        assert NetworkRef(source).name == "net.v2-make"


@pytest.mark.parametrize(
    "other",
    [
        replace(RECIPE, guides=()),
        replace(RECIPE, guides=(Guide(GUIDE, constant(1.6), StepInterval(17, 22)),)),
        replace(RECIPE, guides=(Guide(GUIDE, constant(1.5), StepInterval(17, 21)),)),
        replace(RECIPE, guides=(Guide(GUIDE, constant(1.5)),)),
        replace(RECIPE, dtype="float64"),
        replace(RECIPE, sampler=Sampler.parse("heun:S_churn=1")),
        replace(RECIPE, labels="balanced"),
        replace(RECIPE, labels=0),
        replace(RECIPE, labels=0, seed_rule="figure"),
        replace(RECIPE, noise_device="cuda"),
    ],
)
def test_whatever_changes_the_images_changes_the_hash(other):
    assert other.hash != RECIPE.hash


def test_noise_levels_and_steps_that_mean_the_same_are_the_same_recipe():
    by_level = replace(RECIPE, guides=(Guide(GUIDE, constant(1.5), SigmaInterval(0.19, 1.61)),))
    assert by_level.hash == RECIPE.hash
    resolved, notes = by_level.resolved()
    assert resolved.guides[0].interval == StepInterval(17, 22)
    assert "0.1886" in notes[0]
    assert "1.6086" in notes[1]


def test_whole_numbers_and_floats_are_the_same_recipe():
    whole = replace(RECIPE, guides=(Guide(GUIDE, constant(2)),), schedule=Schedule.parse("edm:sigma_max=80"))
    assert whole.hash == replace(RECIPE, guides=(Guide(GUIDE, constant(2.0)),)).hash


def test_an_interval_without_steps_is_off_and_says_so():
    empty = replace(RECIPE, guides=(Guide(GUIDE, constant(1.5), SigmaInterval(1.2, 1.5)),))
    resolved, notes = empty.resolved()
    assert resolved.guides[0].off
    assert "off" in notes[-1]
    assert resolved.to_json()["guides"][0]["steps"] == []
    assert resolved.effective().guides == ()


def test_json_is_strict_and_holds_no_paths():
    text = json.dumps(RECIPE.to_json(), allow_nan=False)
    assert "somewhere" not in text
    data = json.loads(text)
    assert data["net"] == {"source": "main", "sha256": "a" * 64}
    assert data["guides"][0]["steps"] == [17, 22]
    assert data["guides"][0]["weight"] == "constant:w=1.5"
    assert (data["sampler"], data["schedule"], data["format"]) == ("heun", "edm", 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepInterval(5, 2), "FIRST <= LAST"),
        (lambda: Recipe(MAIN, (Guide(GUIDE, constant(math.nan)),)), "w=nan"),
        (lambda: Recipe(MAIN, (Guide(GUIDE, constant(2), StepInterval(17, 22)),), 16), "16 steps"),
        (lambda: Recipe(MAIN, num_steps=0), "at least 1"),
        (lambda: Recipe(MAIN, schedule=Schedule.parse("edm:rho=1e-3")), "falling"),
        (lambda: Recipe(MAIN, schedule=Schedule.parse("edm:sigma_min=1:sigma_max=1")), "falling"),
        (lambda: Recipe(MAIN, labels="foo"), "labels 'foo'"),
        (lambda: Recipe(MAIN, labels=-1), "labels"),
        (lambda: Schedule.parse("edm:sigma_min=2:sigma_max=1"), "min <= max"),
        (lambda: Schedule.parse("edm:rho=inf"), "rho=inf: must be finite"),
        (lambda: Recipe(MAIN, num_steps=3, schedule="table:sigmas=10"), "3 steps .* no falling noise levels"),
        (lambda: Recipe(MAIN, num_steps=3, schedule="table:sigmas=1e300+1e-300"), r"goes from 1e\+300 to 1e-300"),
        (lambda: Guide(MAIN, 2, "all"), "interval all: two steps"),
        (lambda: Recipe(MAIN, num_steps=3, schedule="logsnr:sigma_min=79.99999999999999"), "no falling"),
        (lambda: Recipe(MAIN, schedule="beta:rho=0.001"), "no falling"),
        (lambda: Recipe(MAIN, schedule="logsnr:sigma_max=1e200"), "from 1e[+]200 to 0.002: noise levels must be"),
        (lambda: Recipe(MAIN, schedule="vp:rise=1e-300:least=0"), "noise levels must be at least 1e-30"),
        (lambda: constant(math.inf), "w=inf: must be finite"),
        (lambda: Sampler.parse("heun:S_min=3:S_max=1"), "S_min <= S_max"),
        (lambda: Recipe(MAIN, seed_rule="figure"), "--class"),
    ],
)
def test_impossible_recipes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_levels_fall_from_sigma_max_to_sigma_min():
    levels = Schedule.parse("edm:sigma_min=0.01:sigma_max=10:rho=3").levels(5)
    assert levels[0] == pytest.approx(10)
    assert levels[-1] == pytest.approx(0.01)
    cubes = [level ** (1 / 3) for level in levels]
    steps = [a - b for a, b in itertools.pairwise(cubes)]
    assert steps == pytest.approx([steps[0]] * 4)
