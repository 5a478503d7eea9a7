"""--classifier and --classifier-scale: the recipe, its text and hash, grids, searches, whole runs, what is refused."""

import json
import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from edm2_guidance.cli.recipe_flags import recipe_flags
from edm2_guidance.cli.report import describe
from edm2_guidance.cli.search_options import SearchOptions, search_text, start_of
from edm2_guidance.commands import generate_images, generate_zip
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.recipe.describe import describe_recipe
from edm2_guidance.recipe.intervals import SigmaInterval
from edm2_guidance.recipe.search import recipe_at
from edm2_guidance.recipe.stored import read_recipe
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.opening import open_recipe

SOURCE = """
import torch

class Bright:
    '''Class 1 is brighter than class 0, at every noise level.'''
    shape, num_classes, num_parameters = {shape}, {classes}, 7

    def log_probs(self, x, sigma):
        if len(x) > {limit}: raise torch.OutOfMemoryError("CUDA out of memory")
        score = 40 * x.mean((1, 2, 3)) / (1 + sigma ** 2)
        return torch.stack([-score, score, *[0 * score - 9] * (self.num_classes - 2)], 1).log_softmax(1)

make = lambda device: Bright()
"""
MAIN, UNCOND = "--net=mnist16-cond", "--net=mnist16-uncond"


def written(path, shape=(3, 16, 16), classes=10, limit=99):
    path.write_text(SOURCE.format(shape=shape, classes=classes, limit=limit))
    return f"{path}:make"


@pytest.fixture
def classifier(tmp_path):
    return written(tmp_path / "bright.py")


@pytest.fixture
def recipe_of(recipe_command, classifier):
    command, made = recipe_command

    def recipe(*words):
        made.clear()
        done = CliRunner().invoke(command, [MAIN, f"--classifier={classifier}", *words])
        return made[0] if made else done

    return recipe


def run(command, *args, code=0):
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def test_the_scale_is_of_the_published_form_of_the_sampler(recipe_of):
    forms = {"heun": "constant:w=2.5", "ddim:eta=0.5": "constant:w=2.5", "ddpm": "posterior:w=2.5"}
    for sampler, weight in forms.items():
        (guide,) = recipe_of("--classifier-scale=1.5", f"--sampler={sampler}").guides
        assert (str(guide.weight), str(guide.reference)) == (weight, "classifier")
    (guide,) = recipe_of("--classifier-scale=1.5", "--sampler=ddpm", "--weight=constant").guides
    assert str(guide.weight) == "constant:w=2.5"
    recipe = recipe_of("--classifier-scale=0.1", "--sampler=ddpm")
    assert "guided by classifier bright-make, scale 0.1 (posterior), at all steps" in describe(recipe)


def test_beside_a_network_it_is_the_last_guide(recipe_of):
    one = recipe_of("--gnet=mnist16-uncond", "--guidance=1.5", "--classifier-scale=2", "--guidance-sigma=0.1,5")
    assert [str(guide.weight) for guide in one.guides] == ["constant:w=1.5", "constant:w=3"]
    assert [guide.interval for guide in one.guides] == [SigmaInterval(0.1, 5)] * 2
    words = ("--gnet=mnist16-uncond", "--guidance=1.5", "--classifier-scale=2", "--sampler=ddpm")
    two = recipe_of(*words, "--weight=cosine", "--weight=posterior", "--guidance-sigma=None", "--guidance-sigma=1,2")
    assert [str(guide.weight) for guide in two.guides] == ["cosine:w=1.5", "posterior:w=3"]
    assert [guide.interval for guide in two.guides] == [None, SigmaInterval(1, 2)]
    assert [guide.of_classifier for guide in recipe_of("--preset=mnist16-cfg", "--classifier-scale=1").guides] == [
        False,
        True,
    ]


def test_a_preset_has_its_sampler_schedule_and_classifier(recipe_command):
    command, made = recipe_command
    special = [preset for preset in all_presets().values() if preset.sampler != "heun"]
    assert special
    for preset in special:
        made.clear()
        run(command, f"--preset={preset.name}")
        ours, theirs = made[0], preset.recipe()
        assert [str(guide.weight) for guide in ours.guides] == [str(guide.weight) for guide in theirs.guides]
        for name in ("net", "num_steps", "sampler", "schedule", "base"):
            assert getattr(ours, name) == getattr(theirs, name), preset.name
        assert ours.nets == theirs.nets
        made.clear()
        run(command, f"--preset={preset.name}", "--sampler=euler")
        assert made[0].sampler.kind == "euler"


@pytest.mark.parametrize(
    "words",
    [
        ("--classifier-scale=0.1",),
        ("--classifier-scale=1", "--sampler=ddpm", "--schedule=timesteps:steps=ddim25"),
        ("--classifier-scale=1", "--sampler=ddpm", "--weight=constant"),
        ("--gnet=mnist16-uncond", "--guidance=2", "--classifier-scale=1", "--sampler=ddpm", "--guidance-sigma=1,2"),
        ("--reference=other-label", "--guidance=2", "--classifier-scale=-1", "--weight=cosine", "--steps=9"),
    ],
)
def test_a_recipe_comes_back_from_its_flags_and_its_json(recipe_of, words, recipe_command):
    recipe = recipe_of(*words)
    command, made = recipe_command
    made.clear()
    run(command, *recipe_flags(recipe).split())
    assert made[0].guides == recipe.guides
    assert made[0].num_steps == recipe.num_steps
    again = read_recipe(json.loads(json.dumps(recipe.to_json())))
    assert [(g.weight, g.reference) for g in again.guides] == [(g.weight, g.reference) for g in recipe.guides]


def test_a_schedule_of_timesteps_has_its_own_number_of_steps(recipe_of):
    words = ("--classifier-scale=1", "--schedule=timesteps:steps=ddim25")
    assert recipe_of(*words).num_steps == recipe_of(*words, "--steps=25").num_steps == 25
    assert recipe_of(*words, "--preset=mnist16").num_steps == 25
    assert "32 steps, and the schedule timesteps:steps=ddim25 has 25" in recipe_of(*words, "--steps=32").output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), r"a classifier needs a scale; give --classifier-scale=S"),
        (("--classifier-scale=nan",), "give a finite number"),
        (
            ("--classifier-scale=1", "--weight=posterior"),
            "by the variance of an ancestral step, which",
        ),
        (("--classifier-scale=1", "--weight=cosine:w=3"), "a classifier's w is 1 + --classifier-scale; leave w out"),
        (("--classifier-scale=1", "--guidance=2"), "a weight needs a guiding network"),
        (
            ("--classifier-scale=1", "--weight=linear", "--weight=cosine"),
            "the classifier is the only guide",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(recipe_of, words, says):
    done = recipe_of(*words)
    assert done.exit_code == 2
    assert says in done.output


def test_a_scale_or_a_file_alone(recipe_command):
    command, _ = recipe_command
    assert "of which classifier? Give --classifier=" in run(command, MAIN, "--classifier-scale=1", code=2).output
    words = (MAIN, "--classifier=nowhere.py:make", "--classifier-scale=1")
    assert "whose function make is to make the classifier" in run(command, *words, code=2).output
    said = run(command, MAIN, "--classifier=x.pt", "--classifier-scale=1", code=2).output
    assert "no classifier file at 'x.pt'; give a path to a .pt or .safetensors file" in said


def test_searches_over_the_scale(recipe_of):
    options = SearchOptions.of(
        {
            "over": "scale",
            "weights": [1.0],
            "emas": [0.1],
            "alphas": [0.5],
            "scales": [0.0, 2.0],
            "values": None,
            "stride": 1,
        }
    )
    both = recipe_of("--gnet=mnist16-uncond", "--guidance=1.5", "--classifier-scale=3")
    (stage,) = options.stages(both)
    assert [axis.values for axis in stage] == [(0.0, 2.0)]
    assert start_of(both, [stage]) == {"scale": 3.0}
    assert [guide.weight.w for guide in recipe_at(both, {"scale": 2.0}).guides] == [1.5, 3.0]
    assert [guide.weight.w for guide in recipe_at(both, {"weight": 2.0}).guides] == [2.0, 4.0]
    assert recipe_at(both, {"scale": 0.0}).hash == recipe_at(both, {"scale": 0.0}).effective().hash
    assert "guided by mnist16-uncond, w = 1.5, at all steps; guided by classifier" in search_text(both, [stage], 1)[0]


def test_a_grid_of_scales(classifier, tmp_path):
    """The mean of every image rises with the scale of the class that is brighter, and falls with the other's."""
    common = [UNCOND, f"--classifier={classifier}", "--seeds=0-1", "--steps=4", "--scales=0,4"]
    result = run(generate_images.main, *common, "--class=1", f"--grid={tmp_path / 'grid.png'}")
    assert "1 row of 2 cells, 2 seeds; on cpu; network evaluations in all: 42\n" in result.stderr  # scale 0 is off
    refused = run(generate_images.main, *common, "--weights=1,2", f"--grid={tmp_path / 'b.png'}", code=2)
    assert "--scales are columns, as --weights and --alphas are: give one of them" in refused.stderr
    assert (tmp_path / "grid.png").exists()


def test_an_unconditional_network_is_guided_to_drawn_classes(classifier, tmp_path):
    words = [UNCOND, f"--classifier={classifier}", "--sampler=euler", "--steps=4", "--seeds=0-3"]
    means = {}
    for number in (0, 1):
        place = tmp_path / str(number)
        done = run(generate_images.main, *words, "--classifier-scale=3", f"--class={number}", f"--outdir={place}")
        means[number] = np.mean([np.asarray(Image.open(file)) for file in sorted(place.glob("*.png"))])
    assert means[1] > means[0] + 5
    assert "the main network is unconditional: the classes are the classifier's" in done.stderr
    out = tmp_path / "a.zip"
    making = [UNCOND, f"--classifier={classifier}", "--classifier-scale=1", "--sampler=ddpm", "--steps=3", "--num=4"]
    run(generate_zip.main, *making, f"--out={out}")
    with zipfile.ZipFile(out) as archive:
        content, made = (json.loads(archive.read(name)) for name in ("dataset.json", "recipe.json"))
    assert len({label for _, label in content["labels"]}) > 1
    assert "classifier bright-make scale=1 posterior" in describe_recipe(made["recipe"])


@pytest.mark.parametrize("net", [MAIN, UNCOND])
def test_scale_0_is_unguided_bit_by_bit(net, classifier, recipe_command):
    command, made = recipe_command
    words = [net, "--sampler=ddpm", "--steps=3"]
    run(command, *words, f"--classifier={classifier}", "--classifier-scale=0")
    off = open_recipe(made.pop(), "cpu")
    run(command, *words)
    plain = open_recipe(made.pop(), "cpu")
    ours, theirs = sample(off, [3, 4]), sample(plain, [3, 4])
    assert torch.equal(ours[0], theirs[0])
    assert ours[1] == theirs[1]
    assert off.recipe.hash == plain.recipe.hash


def test_another_classifier_is_another_recipe(recipe_of, tmp_path):
    recipe = recipe_of("--classifier-scale=1", "--steps=3")
    first = open_recipe(recipe, "cpu").recipe.hash
    written(tmp_path / "bright.py", limit=98)
    assert open_recipe(recipe, "cpu").recipe.hash != first


def test_batches_and_memory(recipe_of, tmp_path):
    """A batch that the classifier does not hold is halved; the images are those of any batch."""
    recipe = recipe_of("--classifier-scale=2", "--steps=3", "--dtype=float64")
    (whole,) = open_recipe(recipe, "cpu").images(range(4), 4)
    written(tmp_path / "bright.py", limit=2)
    source = open_recipe(recipe, "cpu").images(range(4), 4)
    with pytest.warns(RuntimeWarning, match="memory does not hold 4 images at a time; from now on 2"):
        (parts,) = source
    assert (whole.images.int() - parts.images.int()).abs().max() <= 1
    assert source.evaluations == {"main": 20, "classifier 1": 20}


@pytest.mark.parametrize(
    ("shape", "classes", "says"),
    [
        ((3, 8, 8), 10, "has resolution 8, the main network mnist16-cond 16: take a classifier trained on"),
        ((4, 16, 16), 10, "has channels 4, the main network mnist16-cond 3"),
        ((3, 16, 16), 7, "mnist16-cond has 10 classes, .*: take networks with the same classes"),
    ],
)
def test_classifiers_that_do_not_fit(recipe_of, tmp_path, shape, classes, says):
    recipe = recipe_of("--classifier-scale=1")
    written(tmp_path / "bright.py", shape, classes)
    with pytest.raises(ValueError, match=says):
        open_recipe(recipe, "cpu")


def test_latents_are_not_clipped_to_pixels(tmp_path, recipe_command):
    command, made = recipe_command
    (tmp_path / "latents.py").write_text(
        "class Latents:\n    shape, image_size = (4, 8, 8), 64\n    def predict(self, x, sigma, y): return x\n"
        "    def decode(self, x): return x\nmake = lambda device: Latents()\n"
    )
    net = f"--net={tmp_path / 'latents.py'}:make"
    run(command, net, "--sampler=ddim")
    with pytest.raises(ValueError, match="denoises latents: add clip=false to it, --sampler=ddim:clip=false"):
        open_recipe(made[0], "cpu")
    made.clear()
    run(command, net, "--sampler=ddim:clip=false")
    open_recipe(made[0], "cpu")
