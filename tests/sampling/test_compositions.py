"""Random compositions of all kinds: each is refused in words, or costs what was said and makes images of its seeds."""

import dataclasses
import math
import random
import types
from pathlib import Path
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest
import torch

from edm2_guidance import pretrained
from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.opening import opener

FOLDER = Path(pretrained.__file__).parent
MAIN, *OTHERS = (FOLDER / name for name in ("mnist16-cond.pkl", "mnist16-uncond.pkl", "mnist16-weak.pkl"))
OTHERS.append(FOLDER / "adm-mnist16.safetensors")
NUMBERS = (-1.0, -0.5, 0.0, 0.001, 0.1, 0.3, 0.5, 0.75, 0.9, 1.0, 1.5, 2.0, 3.0, 7.0, 12.0, 40.0, math.inf)
# Of fields that numbers, flags and words do not fill, and of those that need others: what to choose from.
CHOICES = {
    "layers": [("mid",), ("all",), ("enc.8x8_block0",)],
    "steps": ["1", "3", "ddim2", "2+1"],
    "segments": [("3/2/0.14/0.3",), ("2/1/1/10", "2/2/0.1/0.5"), ()],
    "errors": [(1.0, 3.0, 20.0, 90.0, 100.0)],
    "sigmas": [(80.0, 1.0), (10.0,), (50.0, 5.0, 0.5)],
    "weights": [(1.0, 3.0), (2.0,)],
}
MOST = 80  # evaluations


def own_rule(main, references, weights):
    return main + sum((w - 1) * (main - each) for each, w in zip(references, weights, strict=True))


def own_weight(step, push):
    return 1 + step.progress / (1 + push.flatten(1).norm(dim=1))


def value(choose, hint, field):
    if field.name in CHOICES:
        return choose(CHOICES[field.name])
    if get_origin(hint) in (Union, types.UnionType):
        return choose([None, value(choose, get_args(hint)[0], field)])
    if get_origin(hint) is Literal:
        return choose(get_args(hint))
    numbers = {bool: (False, True), int: (0, 1, 2, 3, 8, 12), float: NUMBERS}
    return choose(numbers.get(hint, (field.default,)))


def spec(choose, axis):
    """Of any kind, some of whose fields are not at their default."""
    kind = choose(catalog.kinds(axis))
    if kind in catalog.OF_FUNCTIONS.values():
        return {"rule": own_rule, "weight": own_weight}[axis]
    found = catalog.find(axis, kind)
    hints, fields = get_type_hints(found), [each for each in dataclasses.fields(found) if "about" in each.metadata]
    always = ("w", "errors", "sigmas", "weights", "init")
    while True:
        chosen = [each for each in fields if each.name in always or choose([True, False, False])]
        try:
            return found(**{each.name: value(choose, hints[each.name], each) for each in chosen})
        except ValueError:  # of fields, which other tests are of
            continue


def guide(choose):
    reference = spec(choose, "reference")
    net = FOLDER / "mnist16-classifier.safetensors" if reference.of_classifier else choose([None, MAIN, *OTHERS])
    intervals = [None, None, StepInterval(0, 0), StepInterval(1, 1), SigmaInterval(0.28, 2.9), SigmaInterval(1, 90)]
    return Guide(net, spec(choose, "weight"), choose(intervals), reference)


def composition(choose):
    specs = {axis: spec(choose, axis) for axis in ("sampler", "schedule", "rule")}
    steps = None if specs["schedule"].num_steps else choose([1, 2, 3])
    guides = [guide(choose) for _ in range(choose([0, 1, 1, 2]))]
    around = [spec(choose, "around") for _ in range(choose([0, 1, 2]))]
    how = {"dtype": choose(["float32", "float64"]), "labels": choose(["random", "random", "balanced", 3, "none"])}
    return Recipe(choose([MAIN, MAIN, *OTHERS]), guides, steps, **specs, **how, around=around)


def made(open_, seed):
    """Whether the composition of this seed makes images."""
    try:
        generation = open_(composition(random.Random(seed).choice))
    except ValueError as error:
        said = str(error)
        assert len(said) > 20, seed
        return False
    known = generation.evaluations_per_image()
    if sum(known.values()) > MOST:
        return False
    counted = dict.fromkeys(known, 0)
    three, _ = sample(generation, [0, 1, 2], counted)
    assert counted == {name: 3 * count for name, count in known.items()}, seed
    if not torch.isfinite(three).all():
        return False  # weights far too large, as `checked` says
    two, _ = sample(generation, [2, 0])
    assert float((two - three[[2, 0]]).abs().max() / (1 + three.abs().max())) < 2e-3, seed
    return True


@pytest.fixture(scope="module")
def open_():
    return opener("cpu")


def test_compositions(open_):
    assert sum(made(open_, seed) for seed in range(80)) >= 12


@pytest.mark.slow
def test_very_many_compositions(open_):
    assert sum(made(open_, seed) for seed in range(80, 6000)) >= 800
