"""Prompts of a recipe: what is one, the hash, the label rule, both stages, and what files keep of many."""

import json
from dataclasses import replace

import pytest

from edm2_guidance.metrics.provenance import describe_generated
from edm2_guidance.recipe import prompts as module
from edm2_guidance.recipe.files import ImageSet, NetworkRef
from edm2_guidance.recipe.prompts import PromptsRef, prompt_text, prompts_text, shortened, with_few_prompts
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.stored import hash_of_format_1, read_recipe

NET = NetworkRef("net", "0" * 64)


def with_prompts(*prompts, **more):
    return Recipe(NET, prompts=prompts, noise_device="cpu", **more)


def read_again(recipe):
    return read_recipe(json.loads(json.dumps(recipe.to_json())))


def test_without_prompts_nothing_is_said():
    recipe = Recipe(NET, noise_device="cpu")
    assert "prompts" not in recipe.to_json()
    assert "prompts" not in recipe.canonical()
    assert recipe.hash == replace(recipe, prompts=[]).hash


def test_they_are_written_read_and_hashed():
    recipe = with_prompts("a cat", "", "żółw\n\t")
    assert read_again(recipe) == recipe.resolved()[0]
    assert read_again(recipe).hash == recipe.hash
    others = [with_prompts("a cat"), with_prompts("a dog"), with_prompts("a dog", "a cat"), Recipe(NET)]
    assert len({each.hash for each in (recipe, *others)}) == 5
    assert Recipe(NET, prompts="a cat").prompts == ("a cat",)
    assert hash_of_format_1(others[0]) is None


def test_each_seed_has_its_prompt_unless_all_have_one():
    assert with_prompts("a").resolved()[0].labels == "balanced"
    assert with_prompts("a", labels="none").resolved()[0].labels == "none"
    assert with_prompts("a", "b", labels=1).resolved()[0].labels == 1
    assert with_prompts("a", base=ImageSet("small.zip")).resolved()[0].labels == "stored"
    assert Recipe(NET).resolved()[0].labels == "random"
    with pytest.raises(ValueError, match="class 2: prompts are the classes, 0 to 1"):
        with_prompts("a", "b", labels=2)


def test_both_stages_have_them():
    base = Recipe(NetworkRef("small", "1" * 64), prompts=["a", "b"])
    for recipe in (with_prompts("a", "b", base=replace(base, prompts=())), with_prompts(base=base)):
        resolved = recipe.resolved()[0]
        assert (resolved.prompts, resolved.base.prompts, resolved.base.labels) == (("a", "b"), ("a", "b"), "balanced")
        assert json.dumps(recipe.to_json()).count("prompts") == 1
        assert read_again(recipe).hash == recipe.hash == with_prompts("a", "b", base=base).hash


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (7, "prompts are a int: give a text, or a list of texts"),
        (["a", None], "prompt 1 is a NoneType, not a text"),
        (["a" * 10_001], "prompt 0 has 10,001 characters: at most 10,000"),
        (["\udcff"], "prompt 0 is no Unicode text"),
        (["a"] * 100_001, "100,001 prompts: a recipe has at most 100,000"),
        ({"count": 3}, "prompts are an object, but no count and sha256"),
        ({"count": 0, "sha256": "0" * 64}, "no count and sha256"),
    ],
)
def test_what_is_no_prompt_is_refused(given, says):
    with pytest.raises(ValueError, match=says):
        Recipe(NET, prompts=given)
    with pytest.raises(ValueError, match=says):
        read_recipe({**Recipe(NET).to_json(), "prompts": given})


def test_all_together_fit_into_the_files(monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 20)
    assert with_prompts("ż" * 3).prompts == ("żżż",)  # \\u017c is six of JSON
    with pytest.raises(ValueError, match="more than 0 MiB of text"):
        with_prompts("ż" * 4)


def test_a_ledger_keeps_the_hash_of_many():
    few, many = with_prompts("a", "b"), with_prompts(*map(str, range(101)))
    for recipe, kept in ((few, ["a", "b"]), (many, None), (with_prompts("a" * 9000, "b" * 9000), None)):
        stored = describe_generated(recipe, [0, 1], (8, 8))["recipe"]
        assert len(json.dumps(stored)) < 2000
        assert kept is None or stored["prompts"] == kept
        known = read_recipe(stored)
        assert known.hash == recipe.hash
        assert read_again(known) == known
        assert isinstance(known.prompts, tuple if kept else PromptsRef)
        assert len(known.prompts) == len(recipe.prompts)
    assert with_few_prompts({"prompts": list(range(101))})["prompts"]["count"] == 101, "of others"


def test_they_are_shown_in_few_words():
    assert shortened(" a\ncat ") == '"a cat"'
    assert shortened("") == '""'
    assert shortened("a red double-decker bus in the rain of London") == '"a red double-decker bus in the rain..."'
    assert shortened("x" * 50) == f'"{"x" * 37}..."'
    assert prompts_text(("a",)) == 'prompt "a"'
    assert prompts_text(("a", "b", "c")) == 'prompt "a" and 2 more, by seed'
    assert prompt_text(("a", "b"), 1) == 'prompt 1, "b"'
    known = PromptsRef(30_000, "ab" * 32)
    assert prompts_text(known) == "30,000 prompts (abababab)"
    assert prompt_text(known, 4) == "prompt 4"
