"""--figs of prompts, presets and blends by networks that take text: tiny pipelines stand in for the papers'."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edm2_guidance.commands.generate_images import main
from edm2_guidance.images.grid import compose_grid
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.stored import read_recipe
from edm2_guidance.sampling.opening import open_recipe
from tests.diffusers_pipelines import made_once, tiny_dit, tiny_if, tiny_sdxl

pytest.importorskip("diffusers")
FEW = "--schedule=timesteps:betas=cosine:steps=2"
ALIEN = all_presets()["sdxl-cfg"].prompts[4]


def draw(*args):
    return CliRunner().invoke(main, list(map(str, args)))


@pytest.fixture
def pipeline(tmp_path_factory):
    return lambda make: str(made_once(tmp_path_factory, make))


def recipes_in(path):
    content = json.loads(Image.open(path).info["recipe"])
    return content["seeds"], [read_recipe(recipe) for recipe in content["recipes"]]


def test_pixels_of_a_figure_of_sdxl(pipeline, tmp_path):
    """The sweep of the interval's upper end, at levels 14.61, 2.62 and 0.03: steps 0 and 1, step 1, none is guided."""
    net = pipeline(tiny_sdxl)
    figure = ("--figs=sdxl-fig8", f"--net={net}", "--steps=3", "--seed=3", f"--results-dir={tmp_path}")
    result = draw(*figure, "--worker=0/2")
    assert result.exit_code == 0, result.output
    assert "note: sdxl-fig8: the paper does not say which seed it has" in result.stderr
    assert result.stderr.count("steps 10-25 of 32 are taken as sigma in (0.2809, 5.417]") == 1
    (path,) = tmp_path.iterdir()  # the lower end is in the other picture, which another worker draws
    assert path.name == "sdxl-fig8-upper-prompt4.png"
    schedule, images = "edm:sigma_min=0.03:sigma_max=14.61:rho=3", []
    for steps in ((0, 1), (1, 1), None):
        guides = [] if steps is None else [Guide(None, 16, steps, "unconditional")]
        recipe = Recipe(net, guides, 3, schedule=schedule, prompts=ALIEN, labels=0, noise_device="device")
        (batch,) = open_recipe(recipe, "cpu").images([3], 1)
        images.append(Image.fromarray(batch.images[0].permute(1, 2, 0).numpy()))
    images = [images[number] for number in (0, 1, 1, 1, 2)]
    columns = [f"w = 16 at sigma in (0.2809, {high}]" for high in (14.61, 8.386, 5.417, 4.241, 1.752)]
    about = f"Figure 8 of arXiv 2404.07724 (sdxl-fig8), by {tiny_sdxl.__name__}, a stand-in, 3 steps"
    expected = compose_grid([images], [], columns, f"{about}: {ALIEN} (seed 3)")
    made = Image.open(path)
    assert made.size == expected.size
    assert np.abs(np.asarray(made).astype(int) - np.asarray(expected)).max() <= 1


def test_finished_pictures_of_blends_are_kept(pipeline, tmp_path):
    net = pipeline(tiny_if)
    args = ("--figs=if-fig5", f"--net={net}", f"--gnet={net}", FEW, f"--results-dir={tmp_path}")
    made = draw(*args)
    assert "1 picture made" in made.stdout
    assert "the base stage alone, at 64x64" in made.stderr
    seeds, recipes = recipes_in(tmp_path / "if-fig5-prompt0.png")
    weights = [tuple(guide.weight.w for guide in recipe.guides) for recipe in recipes]
    assert (seeds, weights[5:8]) == ([0], [(2, 1), (1.75, 1.25), (1.5, 1.5)])
    assert [str(each) for each in recipes[0].around] == ["threshold:if"]
    assert "0 pictures made" in draw(*args).stdout
    refused = draw(*args, "--seed=1")
    assert refused.exit_code == 2
    assert "other networks or settings" in refused.stderr


def test_a_grid_of_blends_by_a_preset(pipeline, tmp_path):
    net = pipeline(tiny_if)
    where = ("--preset=if-blend", f"--net={net}", f"--gnet={net}", FEW, "--class=1", "--seeds=0")
    result = draw(*where, f"--grid={tmp_path}/grid.png", "--alphas=0,1", "--weights=2")
    assert result.exit_code == 0, result.output
    _, recipes = recipes_in(tmp_path / "grid.png")
    assert [tuple(guide.weight.w for guide in recipe.guides) for recipe in recipes] == [(2, 1), (1, 2)]
    assert {recipe.prompts[recipe.labels] for recipe in recipes} == {all_presets()["if-cfg"].prompts[1]}
    turned = draw(
        f"--net={net}", f"--gnet={net}", f"--gnet={net}", FEW, "--seeds=0", "--prompt=a", "--sampler=ddpm:clip=false",
        "--reference=network", "--reference=unconditional", f"--grid={tmp_path}/b.png", "--alphas=0,1", "--weights=2",
    )  # fmt: skip
    assert turned.exit_code == 2
    assert "alpha = 0 is guidance by the first guide, CFG in the papers" in turned.stderr


def test_a_preset_of_dit_by_a_stand_in(pipeline, tmp_path):
    args = (f"--net={pipeline(tiny_dit)}", "--schedule=timesteps:steps=10", f"--outdir={tmp_path}/out", "--seeds=0-1")
    result = draw("--preset=dit-img512-interval-fid", *args)
    assert result.exit_code == 0, result.output
    assert "note: dit-img512-interval-fid: the printed interval" in result.stderr
    assert "assumed: the sampler is not known for certain" in result.stderr
    assert "steps 124-198 of 250 are taken as sigma in (0.7279, 3.481]" in result.stderr
    assert "evaluations per image: 13 main" in result.stderr
    assert len([*(tmp_path / "out").glob("*.png")]) == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--figs=sdxl-fig6,fig5"], "pictures of prompts are by other networks: draw them by another command"),
        (["--figs=sdxl-fig6", "--preset=sdxl-cfg"], "these figures have presets of their own: leave out --preset"),
        (["--figs=sdxl-fig6", "--prompt=mine"], "--figs lays down what is drawn: leave out --prompt"),
        (["--figs=sdxl-fig6", "--net=mnist16-cond"], "mnist16-cond takes no prompts"),
        (["--figs=sdxl-fig5"], "there is no figure 'sdxl-fig5'; there are: all, fig5, fig6, "),
    ],
)
def test_figures_that_cannot_be(args, said, tmp_path):
    result = draw(*args, f"--results-dir={tmp_path}/results")
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "results").exists()
