"""Functions as parts of a recipe: what they do is what is hashed, what has no hash is refused, and no file runs one."""

import functools
import json
import zipfile

import numpy as np
import pytest
import torch

import edm2_guidance as eg
from edm2_guidance.recipe import own
from edm2_guidance.recipe.parts import Rule
from edm2_guidance.recipe.stored import read_recipe

SCALE = 1.0


def linear(main, references, weights):
    pushes = (main - reference for reference in references)
    return main + sum((weight - 1) * push for weight, push in zip(weights, pushes, strict=True))


def scaled(main, references, weights):
    return SCALE * linear(main, references, weights)


def closing_over(value):
    def rule(main):
        return main if value is None else main * 1

    return rule


def test_a_hash_is_of_the_text_and_of_all_that_is_taken_from_elsewhere(monkeypatch):
    hashes = {
        own.given(each)[1]
        for each in (linear, scaled, functools.partial(scaled), functools.partial(linear, weights=[1]))
    }
    hashes |= {own.given(closing_over(value))[1] for value in (1, 2, "a", None, [1, 2], {"a": (1.5,)}, linear)}
    hashes |= {own.given(closing_over(make(2)))[1] for make in (torch.zeros, torch.ones, np.zeros)}
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    hashes.add(own.given(scaled)[1])
    assert len(hashes) == 4 + 7 + 3 + 1
    monkeypatch.undo()
    assert own.given(scaled)[1] == own.given(scaled)[1]
    assert own.given(closing_over(torch.ones(2)))[1] == own.given(closing_over(torch.ones(2)))[1] in hashes


def test_a_function_that_calls_itself_or_others_has_a_hash():
    def down(n):
        return n if n == 0 else up(n - 1)

    def up(n):
        return down(n)

    assert len({own.given(down)[1], own.given(up)[1]}) == 2


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (closing_over(object()), "rule takes value, a object, from outside"),
        (closing_over({1: 2}), "a dict, from outside"),
        (max, "no text to hash: write a function with def"),
        (eval("lambda main: main"), "<lambda>: its text is nowhere"),
    ],
)
def test_what_has_no_hash_is_refused(function, words):
    with pytest.raises(ValueError, match=words):
        eg.Recipe("a", rule=function)


def test_other_parts_take_no_functions():
    with pytest.raises(ValueError, match="a function can be a rule, no weight"):
        eg.Guide("a", lambda step: 1)


def recipe_of(rule, **fields):
    return eg.Recipe(
        "mnist16-cond", [eg.Guide("mnist16-weak", 2), eg.Guide("mnist16-uncond", 1.5)], 3, rule=rule, **fields
    )


def test_a_function_does_what_the_kind_does():
    ours, theirs = (eg.generate(recipe_of(rule), 4).images for rule in (linear, "linear"))
    assert (ours.int() - theirs.int()).abs().max() <= 1  # references are recovered from pushes, up to rounding
    assert not torch.equal(ours, eg.generate(recipe_of(lambda main: main), 4).images)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda main: main[:, :1], r"<lambda> made \[1, 1, 16, 16\] of \[1, 3, 16, 16\]"),
        (lambda main: 1, "<lambda> made int"),
        (lambda main, guide: main, "there is no guide for it; its parameters may be main, references, weights"),
    ],
)
def test_what_a_rule_does_wrong_is_said(rule, words):
    with pytest.raises(ValueError, match=words):
        eg.generate(recipe_of(rule), 1)


def test_a_recipe_out_of_a_file_runs_nothing(tmp_path, monkeypatch):
    path = eg.generate_zip(recipe_of(linear), 2, tmp_path / "a.zip")
    with zipfile.ZipFile(path) as file:
        stored = json.loads(file.read("recipe.json"))
    name, sha256 = own.given(linear)
    assert stored["recipe"]["rule"] == f"own-rule:name={name}:sha256={sha256}"
    again = read_recipe(stored["recipe"])
    assert again.hash == stored["recipe_hash"]
    assert again.rule == Rule.parse(str(again.rule))
    monkeypatch.setattr(own, "_GIVEN", {})
    with pytest.raises(ValueError, match=r"linear is a function of your own.* give the same one again"):
        eg.open_recipe(again)
    assert eg.generate_zip(recipe_of(linear), 2, path) == path
    with pytest.raises(ValueError, match=r"a\.zip"):
        eg.generate_zip(recipe_of(scaled), 2, path)
