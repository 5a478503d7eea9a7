"""Functions as parts of a recipe: named by what they do, with fields of their own, and no file runs one."""

import functools
import json
import math
import zipfile

import numpy as np
import pytest
import torch

import edm2_guidance as eg
from edm2_guidance.cli.report import describe
from edm2_guidance.recipe import own
from edm2_guidance.recipe.parts import Rule, Weight
from edm2_guidance.recipe.search import recipe_at
from edm2_guidance.recipe.stored import read_recipe

SCALE = 1.0


class Gauss:
    """The least that counts as a model: of normal data around a mean, or one per class."""

    shape = (3, 8, 8)
    num_classes = 10

    def __init__(self, mean, of_class=0.0):
        self.mean, self.of_class = mean, of_class

    def predict(self, x, sigma, y):
        mean = self.mean if y is None else self.mean + self.of_class * y.argmax(1).view(-1, 1, 1, 1)
        return (0.1 * x + sigma**2 * mean) / (0.1 + sigma**2)


MAIN, WEAK, FAR = Gauss(0.1, 0.02), Gauss(-0.2), Gauss(0.3)


def linear(main, references, weights):
    pushes = (main - reference for reference in references)
    return main + sum((weight - 1) * push for weight, push in zip(weights, pushes, strict=True))


def scaled(main, references, weights, *, factor=1.0, times=1):
    return SCALE * factor**times * linear(main, references, weights)


def rising(step, w, power=1.0):
    return 1 + (w - 1) * (2 * step.progress) ** power


def late(progress, level, sigma):
    assert sigma == level
    return 1.5 if progress > 0.5 else 1


def by_image(push, labels, progress):
    return 1 + push.flatten(1).norm(dim=1) * torch.tensor(labels) / 100


def recipe_of(rule="linear", weight=2, **fields):
    guides = [eg.Guide(WEAK, weight), eg.Guide(FAR, 1.5)]
    return eg.Recipe(MAIN, guides, 3, rule=rule, **fields)


def guided(weight, **fields):
    return eg.Recipe(MAIN, eg.Guide(WEAK, weight, **fields), 4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: eg.Recipe("a", rule=max), "no text to hash: write a function with def"),
        (lambda: eg.Recipe("a", sampler=linear), "a function can be a rule, a weight, no sampler"),
        (lambda: eg.Guide("a", rising), r"rising needs w: give functools.partial\(rising, w=2\)"),
        (lambda: Rule.parse("linear").with_fields({"factor": 1}), "linear has no 'factor'"),
        (lambda: eg.Recipe("a", rule=scaled).rule.with_fields({"fctr": 1}), "no parameter 'fctr' .*factor, times"),
        (lambda: eg.Recipe("a", rule=functools.partial(scaled, times=1.5)), "times=1.5: not an integer"),
        (lambda: eg.Guide("a", late).weight.with_fields({"w": 2}), "late has no parameter w to be 2"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_partial_of_numbers_is_the_function_with_fields():
    plain, twice = (eg.Recipe("a", rule=rule).rule for rule in (scaled, functools.partial(scaled, factor=2)))
    assert plain == eg.Recipe("a", rule=functools.partial(scaled, times=1)).rule
    assert (plain.sha256, twice.settings) == (twice.sha256, ("factor=2",))
    assert plain.with_fields({"factor": "2", "times": 1.0}) == twice == Rule.parse(str(twice))
    assert plain.sha256 != eg.Recipe("a", rule=functools.partial(scaled, weights=[1])).rule.sha256
    both = functools.partial(functools.partial(scaled, factor=3), times=2)
    assert eg.Recipe("a", rule=both).rule.settings == ("factor=3", "times=2")
    (guide,) = guided(functools.partial(rising, w=np.float32(2.5), power=2)).guides
    assert (guide.weight.w, guide.weight.settings) == (2.5, ("power=2",))
    assert Weight.parse(str(guide.weight)) == guide.weight


def test_a_function_does_what_the_kind_does():
    ours, theirs = (eg.generate(recipe_of(rule), 4).images for rule in (linear, "linear"))
    assert (ours.int() - theirs.int()).abs().max() <= 1  # references are recovered from pushes, up to rounding
    assert not torch.equal(ours, eg.generate(recipe_of(lambda main: main), 4).images)
    twice = eg.generate(recipe_of(functools.partial(scaled, factor=0.5, times=2)), 4).images
    assert torch.equal(twice, eg.generate(recipe_of(lambda **all: 0.25 * linear(*list(all.values())[:3])), 4).images)


def test_a_weight_does_what_the_kind_does():
    ours, theirs = (eg.generate(guided(weight), 4) for weight in (functools.partial(rising, w=2), "linear:w=2"))
    assert torch.equal(ours.images, theirs.images)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda main: main[:, :1], r"<lambda> made \[1, 1, 8, 8\] of \[1, 3, 8, 8\]"),
        (lambda main: 1, "<lambda> made int"),
        (lambda main: main.numpy(), "<lambda> made ndarray"),
        (lambda main: main + 0j, "<lambda> made torch.complex64: return D, in floating point"),
        (lambda main: {}["a"], r"<lambda>: the rule failed: KeyError: 'a' \(test_own.py, line \d+\)"),
        (lambda main: exit(3), "<lambda>: the rule failed: SystemExit: 3"),
        (lambda main, x: main.add(x.mul_(0)), r"changes x in place.*x.clone\(\)"),
        (lambda main, guide: main, "there is no guide for it; its parameters may be main, references, weights"),
    ],
)
def test_what_a_rule_does_wrong_is_said(rule, words):
    with pytest.raises(ValueError, match=words):
        eg.generate(recipe_of(rule), 1)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (lambda step: None, "<lambda> made a NoneType: return a number"),
        (lambda step: math.nan, "<lambda> made nan: return a finite number"),
        (lambda push: push[:, :, :2], r"<lambda> made \[1, 3, 2, 8\]: a number, or one per image"),
        (lambda x: x.numpy(), "<lambda> made a ndarray: return a number"),
        (lambda step: {}["a"], r"<lambda>: the weight failed: KeyError: 'a' \(test_own.py, line \d+\)"),
        (lambda push: 1 / 0, "<lambda>: the weight failed: ZeroDivisionError"),
        (lambda x, push, other: 1, "there is no other for it; its parameters may be step, level, sigma, progress"),
    ],
)
def test_what_a_weight_does_wrong_is_said(weight, words):
    with pytest.raises(ValueError, match=words):
        eg.generate(guided(weight), 1)


def counted_and_announced(weight, **fields):
    generation = eg.open_recipe(guided(weight, **fields))
    images = generation.images(range(3), 3)
    list(images)
    assert {name: 3 * count for name, count in generation.evaluations_per_image().items()} == images.evaluations
    return generation.evaluations_per_image()["guide 1"]


def test_a_weight_of_the_step_is_known_before_anything_is_evaluated():
    assert counted_and_announced(late) == 3  # steps 2 and 3, the last without a corrector
    assert counted_and_announced(late, interval=(0, 2)) == 2
    assert counted_and_announced(functools.partial(rising, w=1)) == 0
    assert counted_and_announced(functools.partial(rising, w=2)) == 5  # off at the first step, where it is 1
    assert counted_and_announced(by_image) == 7


def test_a_weight_of_each_image_depends_on_no_other():
    recipe = guided(by_image)
    together, alone = eg.generate(recipe, 3).images, eg.generate(recipe, 3, batch=1).images
    assert (together.int() - alone.int()).abs().max() <= 2  # of another batch, last bits
    assert not torch.equal(together, eg.generate(guided(1), 3).images)


def test_captions_name_it():
    (guide,) = guided(functools.partial(rising, w=2, power=3)).guides
    assert (guide.strength, guide.short) == ("w = 2 (rising power=3)", "Gauss w=2 rising power=3")
    (guide,) = guided(late).guides
    assert (guide.strength, guide.short) == ("w by late", "Gauss w by late")
    assert "rule scaled factor=2" in describe(recipe_of(functools.partial(scaled, factor=2)))


def test_points_of_a_search_set_parameters():
    recipe = recipe_of(scaled, functools.partial(rising, w=2))
    found = recipe_at(recipe, {"factor": 3.0, "times": 2.0, "power": 0.5})
    assert found.rule.settings == ("factor=3", "times=2")
    assert found.guides[0].weight.settings == ("power=0.5",)
    assert recipe_at(recipe, {"weight": 3}).guides[0].weight.w == 3
    assert recipe_at(eg.Recipe("a", rule="rescale"), {"phi": 0.5}).rule.phi == 0.5
    with pytest.raises(ValueError, match="'pwr': no part of this recipe has it"):
        recipe_at(recipe, {"pwr": 1})


def test_what_changes_while_images_are_made_is_refused(monkeypatch):
    opened = eg.open_recipe(recipe_of(scaled))
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    with pytest.raises(ValueError, match="scaled takes something from elsewhere that has changed"):
        eg.generate(opened, 1)
    seen = []

    def counting(main):
        seen.append(main.shape)
        return main

    with pytest.raises(ValueError, match=r"rule .*counting takes something from elsewhere that has changed"):
        eg.generate(recipe_of(counting), 1)
    halving = Gauss(0.1)
    halving.predict = lambda x, sigma, y: x.mul_(0.5)
    with pytest.raises(ValueError, match="changes x in place"):
        eg.generate(eg.Recipe(halving), 1)
    mine = Gauss(0.1)
    opened = eg.open_recipe(eg.Recipe(mine))
    mine.mean = 0.2
    with pytest.raises(ValueError, match="Gauss has changed since the recipe was made"):
        eg.generate(opened, 1)


def test_a_recipe_out_of_a_file_runs_nothing(tmp_path, monkeypatch):
    recipe = recipe_of(linear, late)
    path = eg.generate_zip(recipe, 2, tmp_path / "a.zip")
    with zipfile.ZipFile(path) as file:
        stored = json.loads(file.read("recipe.json"))
    assert stored["recipe"]["rule"] == f"own-rule:name=linear:sha256={recipe.rule.sha256}"
    again = read_recipe(stored["recipe"])
    assert again.hash == stored["recipe_hash"]
    assert again.rule == Rule.parse(str(again.rule))
    monkeypatch.setattr(own, "_GIVEN", {})
    with pytest.raises(ValueError, match=r"linear is a function of your own.* give the same one again"):
        eg.open_recipe(again)
    assert eg.generate_zip(recipe_of(linear, late), 2, path) == path
    with pytest.raises(ValueError, match=r"a\.zip"):
        eg.generate_zip(recipe_of(scaled, late), 2, path)
