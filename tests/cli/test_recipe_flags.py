"""The options that a recipe is pasted as give that recipe."""

import shlex

import pytest

from dnnlib.places import EMBEDDED
from edm2_guidance.cli.recipe_args import recipe_from
from edm2_guidance.cli.recipe_flags import recipe_flags
from edm2_guidance.cli.recipe_options import Method, NetworkOptions, SamplingOptions
from edm2_guidance.commands import calculate_metrics, generate_images
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.recipe.files import ImageSet, NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from edm2_guidance.recipe.parts import Sampler, Schedule, constant
from edm2_guidance.recipe.recipe import Recipe

MAIN, UNCOND, WEAK = (NetworkRef(f"mnist16-{name}") for name in ("cond", "uncond", "weak"))

RECIPES = [
    Recipe(MAIN, noise_device="device"),
    Recipe(MAIN, (Guide(UNCOND, constant(1.5), StepInterval(4, 7)),), 16, noise_device="cpu"),
    Recipe(
        MAIN, (Guide(UNCOND, constant(0.1 + 0.2), SigmaInterval(0.28, float("inf"))),), labels=0, noise_device="device"
    ),
    Recipe(
        MAIN,
        (Guide(UNCOND, constant(1.125)), Guide(WEAK, constant(1.375), StepInterval(0, 3))),
        7,
        Sampler.parse("heun:S_churn=4:S_min=0.05:S_max=50:S_noise=1.003"),
        Schedule.parse("edm:sigma_min=0.01:sigma_max=70:rho=5"),
        dtype="float64",
        labels="balanced",
        noise_device="device",
    ),
    Recipe(MAIN, Guide(None, 1.5, reference="attention:blur:layers=8x8+mid"), noise_device="cpu"),
    Recipe(
        MAIN,
        (
            Guide(None, 1.25, SigmaInterval(0.4, 9), reference="previous-step"),
            Guide(WEAK, 1.5),
            Guide(None, 1.2, reference="dropout"),
            Guide(UNCOND, 1.1),
        ),
        16,
        noise_device="cpu",
    ),
    Recipe(MAIN, base=ImageSet("mnist16-test-500"), noise_device="device"),
    Recipe(MAIN, base=all_presets()["mnist16-interval"].recipe(), noise_device="cpu", labels=3),
]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("command", "more"), [(generate_images.main, ["--outdir=out"]), ("gen", ["--ref=mnist16"])])
def test_round_trip(recipe, command, more):
    command = calculate_metrics.main.commands[command] if isinstance(command, str) else command
    with command.make_context("x", [*shlex.split(recipe_flags(recipe)), *more]) as context:
        params = context.params
        method = Method(NetworkOptions.of(params), SamplingOptions.of(params), params["noise_device"])
        assert recipe_from(method).resolved() == recipe.resolved()


def test_defaults_are_left_out_and_files_that_ship_have_short_names():
    recipe = Recipe(NetworkRef(str(EMBEDDED / "mnist16-cond.pkl")), noise_device="device")
    assert recipe_flags(recipe) == "--net=mnist16-cond"
    assert recipe_flags(Recipe(NetworkRef("a b.pkl"), noise_device="device")) == "'--net=a b.pkl'"


def test_a_base_that_no_preset_makes_has_no_options():
    recipe = Recipe(MAIN, base=Recipe(MAIN, num_steps=3), noise_device="cpu")
    with pytest.raises(ValueError, match="no options give these images of mnist16-cond, which are enlarged"):
        recipe_flags(recipe)
