"""Recipes out of files: format 1 is read for ever, as the same recipe, under the hash that it has now."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.parts import Sampler, Schedule, constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.stored import hash_of_format_1, read_recipe, upgraded

MAIN, UNCOND, WEAK = (
    NetworkRef(f"{name}.pkl", letter * 64) for name, letter in (("main", "a"), ("u", "b"), ("w", "c"))
)
NET = {"source": "u", "sha256": None}
SAMPLER = {
    "num_steps": 32, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0, "S_churn": 0.0, "S_min": 0.0, "S_max": "inf",
    "S_noise": 1.0, "dtype": "float32",
}  # fmt: skip
ENCODER = {"class": "StandardRGBEncoder"}
#: As the version with format 1 wrote them, with the hash that it computed, and as what they are read.
OLD = [
    (
        {
            "net": {"source": "main", "sha256": "a" * 64}, "guides": [], "sampler": SAMPLER, "labels": "random",
            "seed_rule": "edm2", "noise_device": "cpu", "encoder": ENCODER,
        },
        "521f0706598ed343b34268ed8b9ff8210a30722f21839cbdb241146b036542dc",
        Recipe(MAIN, encoder=ENCODER),
    ),
    (
        {
            "net": {"source": "main", "sha256": "a" * 64},
            "guides": [
                {"net": {"source": "u", "sha256": "b" * 64}, "weight": 1.5, "steps": [4, 7]},
                {"net": {"source": "w", "sha256": "c" * 64}, "weight": 2.0, "steps": []},
            ],
            "sampler": {**SAMPLER, "num_steps": 16, "rho": 5.0, "S_churn": 40.0, "S_max": 50.0, "dtype": "float64"},
            "labels": 3, "seed_rule": "figure", "noise_device": "cuda", "encoder": {},
        },
        "b95aa789dd077ec4f8d477f7edbb699e648a12d5c56ef67a0753e25252a34bcb",
        Recipe(
            MAIN,
            (Guide(UNCOND, constant(1.5), StepInterval(4, 7)), Guide(WEAK, constant(2), never=True)),
            16,
            Sampler.parse("heun:S_churn=40:S_max=50"),
            Schedule.parse("edm:rho=5"),
            dtype="float64", labels=3, seed_rule="figure", noise_device="cuda",
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("data", "old_hash", "recipe"), OLD)
def test_format_1_is_read(data, old_hash, recipe):
    read = read_recipe(data)
    assert read.hash == recipe.hash
    assert read.to_json() == recipe.to_json()
    assert hash_of_format_1(recipe) == hash_of_format_1(read) == old_hash
    now = upgraded({"format": 1, "recipe": data, "recipe_hash": old_hash, "seeds": "0-9"})
    assert now == {"format": 2, "recipe": recipe.to_json(), "recipe_hash": recipe.hash, "seeds": "0-9"}
    assert upgraded(now) == now


@pytest.mark.parametrize("recipe", [recipe for *_, recipe in OLD])
def test_format_2_is_read_as_it_was_written(recipe):
    data = json.loads(json.dumps(recipe.to_json(), allow_nan=False))
    assert read_recipe(data).to_json() == data
    assert read_recipe(data).hash == recipe.hash


def test_hashes_are_for_ever():
    """SHA-256 of the canonical text, which is in tests/recipe/canonical.txt as somebody would write it by hand."""
    lines = Path(__file__).with_name("canonical.txt").read_text().splitlines()
    assert [recipe.hash for *_, recipe in OLD] == [hashlib.sha256(line.encode()).hexdigest() for line in lines]


def test_what_changes_no_image_changes_no_hash():
    _, _, recipe = OLD[1]
    assert replace(recipe, guides=recipe.guides[:1]).hash == recipe.hash, "a guide that is off"
    everywhere = replace(recipe, guides=(Guide(UNCOND, constant(1.5), StepInterval(0, 15)),))
    assert everywhere.hash == replace(recipe, guides=(Guide(UNCOND, constant(1.5)),)).hash


@pytest.mark.parametrize(
    "change",
    [
        {"format": 3}, {"format": "x"}, {"net": None}, {"net": {}}, {"guides": {}}, {"guides": [3]}, {"num_steps": "x"},
        {"num_steps": 10**9}, {"num_steps": 0}, {"num_steps": 2.0}, {"labels": [1]}, {"labels": "x"},
        {"sampler": "hein"}, {"sampler": ["heun"]}, {"rule": 3}, {"schedule": "edm:rho=-1"}, {"encoder": 3},
        {"guides": [{"net": None, "reference": "network", "weight": "constant:w=2", "steps": None}]},
        {"guides": [{"net": NET, "reference": "network", "weight": 2, "steps": None}]},
        {"guides": [{"net": NET, "reference": "network", "weight": "constant", "steps": {}}]},
        {"guides": [{"net": NET, "reference": "network", "weight": "constant", "steps": [1]}]},
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_refused_and_kept_as_it_is(change):
    data = {**OLD[0][2].to_json(), **change}
    with pytest.raises(ValueError, match=r"."):
        read_recipe(data)
    old = {**OLD[0][0], "sampler": {**SAMPLER, "num_steps": 10**9}}
    for foreign in (old, {"of": "another program"}, None, 3):
        content = {"recipe": foreign, "recipe_hash": "x"}
        assert upgraded(content) == content
