"""The papers' settings of DiT, SD-XL and DeepFloyd IF: numbers typed from the papers, and what their presets make."""

import math
import shlex

import click
import pytest

from edm2_guidance.cli.recipe_args import recipe_from
from edm2_guidance.commands.generate_images import ImageOptions
from edm2_guidance.commands.generate_images import main as generate
from edm2_guidance.papers.pipelines import all_prompts, settings
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.papers.prompt_figures import prompt_figure_names, prompt_pictures
from edm2_guidance.papers.tables import find
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from edm2_guidance.recipe.timesteps import kept_timesteps, noise_levels

HUB = {
    "dit-img512": "facebook/DiT-XL-2-512", "dit-img256": "facebook/DiT-XL-2-256",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0", "if-256": "DeepFloyd/IF-II-L-v1.0",
    "if-1024": "stabilityai/stable-diffusion-x4-upscaler", "if": "DeepFloyd/IF-I-XL-v1.0",
}  # fmt: skip
M = "hf://DeepFloyd/IF-I-M-v1.0"
# Guides as (network, w, reference), guided steps, evaluations per image.
TYPED = {
    "dit-img512-fid": ([], None, {"main": 250}),
    "dit-img512-guid-fid": ([(None, 1.5, "unconditional")], None, {"main": 500}),
    "dit-img512-guid-dino": ([(None, 2.0, "unconditional")], None, {"main": 500}),
    "dit-img512-interval-fid": ([(None, 2.5, "unconditional")], (124, 198), {"main": 250 + 75}),
    "dit-img512-interval-dino": ([(None, 4.0, "unconditional")], (109, 183), {"main": 250 + 75}),
    "dit-img256": ([], None, {"main": 250}),
    "dit-img256-guid": ([(None, 1.5, "unconditional")], None, {"main": 500}),
    "sdxl-cfg": ([(None, 16, "unconditional")], None, {"main": 63 + 63}),
    "sdxl-interval": ([(None, 16, "unconditional")], (10, 25), {"main": 63 + 32}),
    "if-cfg": ([(None, 3, "unconditional")], None, {"main": 200}),
    "if-autog": ([(M, 3, "network")], None, {"main": 100, "guide 1": 100}),
    "if-blend": ([(None, 2, "unconditional"), (M, 2, "network")], None, {"main": 200, "guide 2": 100}),
    "if-256": (
        [(None, 4, "unconditional")], None, {"main": 100, **{f"base {each}": 100 for each in ("main", "guide 1")}},
    ),
    "if-1024": (
        [(None, 9, "unconditional")], None,
        {"main": 150, "base main": 100, **{f"base base {each}": 100 for each in ("main", "guide 1")}},
    ),
}  # fmt: skip


def recipe_of(command):
    with generate.make_context("generate_images.py", shlex.split(command)) as context:
        return recipe_from(ImageOptions.of(context.params).method)


@pytest.mark.parametrize("name", TYPED)
def test_presets(name):
    guides, steps, evaluations = TYPED[name]
    recipe = all_presets()[name].recipe()
    assert recipe.net.source == f"hf://{next(hub for start, hub in HUB.items() if name.startswith(start))}"
    made = [(guide.net and guide.net.source, guide.weight.w, str(guide.reference)) for guide in recipe.guides]
    assert made == guides
    assert {guide.interval for guide in recipe.guides} <= {steps and StepInterval(*steps)}
    assert recipe.evaluations() == evaluations
    assert recipe_of(f"--preset={name} --outdir=out") == recipe


def test_the_typed_presets_are_all():
    assert list(TYPED) == [setting.name for setting in settings()]


def iddpm(steps):
    """EDM's discretization of cosine betas (arXiv 2206.00364, Table 1): C1 0.001, C2 0.008, M 1000, j0 0."""

    def share(j):
        return math.sin(math.pi / 2 * j / (1000 * 1.008)) ** 2

    u = [0.0] * 1001
    for j in range(1000, 0, -1):
        u[j - 1] = math.sqrt((u[j] ** 2 + 1) / max(share(j - 1) / share(j), 0.001) - 1)
    return [u[math.floor(999 / (steps - 1) * i + 0.5)] for i in range(steps)]


@pytest.mark.parametrize(
    ("row", "printed", "steps", "timesteps", "levels"),
    [
        ("dit-img512-interval-fid", (0.34, 1.02), (124, 198), (502, 205), (3.481, 0.7454)),
        ("dit-img512-interval-dino", (0.45, 1.23), (109, 183), (562, 265), (4.901, 1.0369)),
    ],
)
def test_intervals_of_dit_are_steps_of_another_schedule(row, printed, steps, timesteps, levels):
    """75 steps each; the paper prints their noise levels on a schedule that is not DiT's."""
    (row,) = find(row)
    assert SigmaInterval(*printed).steps(iddpm(250))[0] == row.interval == StepInterval(*steps)
    assert steps[1] - steps[0] + 1 == 75
    kept = kept_timesteps("250")[::-1]
    assert (kept[steps[0]], kept[steps[1]]) == timesteps
    assert [row.levels()[step] for step in steps] == pytest.approx(levels, rel=1e-3)
    assert f"steps {steps[0]}-{steps[1]} of 250" in row.note
    assert f"timesteps {timesteps[0]} to {timesteps[1]}" in row.note
    literally = [level for level in row.levels() if printed[0] < level <= printed[1]]
    assert len(literally) < 60, "read as DiT's own levels it would be another interval"


@pytest.mark.parametrize("row", ["dit-img512-fid", "dit-img512-guid-fid", "fdg-dit-fid", "apg-dit-fid"])
def test_rows_of_dit_are_sampled_as_dit_does(row):
    recipe = find(row)[0].recipe()
    levels = noise_levels("linear")
    assert recipe.levels() == [levels[round(999 / 249 * i)] for i in reversed(range(250))]
    assert (str(recipe.sampler), recipe.labels, recipe.dtype) == ("ddpm:clip=false", "random", "float32")
    assert "DiT's own" in find(row)[0].assumed


def test_rules_of_dit():
    apg = find("apg-dit-fid")[0].recipe()
    assert (apg.rule.radius, apg.rule.momentum, apg.rule.parallel, apg.guides[0].weight.w) == (5, -0.5, 0, 4)
    fdg = find("fdg-dit-fid")[0].recipe()
    assert (1 + fdg.rule.low * (fdg.guides[0].weight.w - 1), fdg.guides[0].weight.w) == (1, 2)  # low, high
    assert find("power-law-dit-fid")[0].recipe().guides[0].weight.w == 1.5


def test_noise_levels_of_sdxl():
    """Those that Appendix A prints, and the levels at which the interval and the sweeps of Figure 8 end."""
    levels = all_presets()["sdxl-interval"].recipe().levels()
    assert [round(levels[i], 2) for i in (0, 1, 2, 31)] == [14.61, 13.41, 12.28, 0.03]
    assert SigmaInterval(0.28, 5.42).steps(levels)[0] == StepInterval(10, 25)
    ends = {6: 8.39, 12: 4.24, 18: 1.75, 26: 0.28, 21: 1.00, 16: 2.42, 13: 3.72}
    assert {step: round(levels[step], 2) for step in ends} == ends


def test_timesteps_of_deepfloyd_if_are_those_of_diffusers():
    """990, 980, ..., 0; of cosine betas; its own code takes both ends: 0, 10, 20, ..., 999."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    scheduler.set_timesteps(100)
    shares = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    recipe = all_presets()["if-blend"].recipe()
    assert scheduler.timesteps.tolist() == list(range(990, -1, -10))
    assert recipe.levels() == pytest.approx(((1 - shares) / shares).sqrt().tolist(), rel=1e-3)
    (around,) = recipe.around
    assert (around.kind, around.ratio, around.most) == ("threshold", 0.95, 1.5)
    assert (str(recipe.sampler), len(recipe.prompts)) == ("ddpm:clip=false", 3)


def test_prompts():
    assert {family: len(prompts) for family, prompts in all_prompts().items()} == {"sdxl": 5, "if": 3}
    assert all_prompts()["sdxl"][1] == "An adorable painting of a Dachshund."
    assert all_prompts()["if"][2] == "A fairytale castle floating in the sky, tethered by ancient vines"
    asked = recipe_of("--preset=sdxl-interval --prompt=mine --outdir=out")
    assert (asked.prompts, asked.guides) == (("mine",), all_presets()["sdxl-interval"].recipe().guides)
    with pytest.raises(click.UsageError):
        recipe_of("--preset=sdxl-interval --class=7 --outdir=out")


def cells_of(name):
    pictures = prompt_pictures([name])
    return {picture.file_name: [[(c.weight, c.interval, c.alpha) for c in line] for line in picture.lines]
            for picture in pictures}  # fmt: skip


INSIDE = StepInterval(10, 25)


def test_figures_of_sdxl():
    assert prompt_figure_names() == ["sdxl-fig6", "sdxl-fig7", "sdxl-fig8", "if-fig5", "if-fig6"]
    six, seven, eight = (cells_of(f"sdxl-fig{number}") for number in (6, 7, 8))
    assert list(six) == [f"sdxl-fig6-prompt{number}.png" for number in range(4)]
    assert list(six.values()) == [[[(2, None, None), (16, None, None), (16, INSIDE, None)]]] * 4
    assert list(seven.values()) == [[[(w, INSIDE, None) for w in (2, 4, 8, 12, 16)]]] * 4
    levels = [*all_presets()["sdxl-interval"].recipe().levels(), 0.0]
    ends = {
        name: [
            (round(levels[cell[1].last + 1], 2), math.inf if cell[1].first == 0 else round(levels[cell[1].first], 2))
            for cell in line
        ]
        for name, (line,) in eight.items()
    }
    assert ends == {
        "sdxl-fig8-upper-prompt4.png": [(0.28, high) for high in (math.inf, 8.39, 5.42, 4.24, 1.75)],
        "sdxl-fig8-lower-prompt4.png": [(low, 5.42) for low in (0, 0.28, 1.0, 2.42, 3.72)],
    }
    assert {cell[0] for (line,) in eight.values() for cell in line} == {16}


def test_figures_of_deepfloyd_if():
    five, six = cells_of("if-fig5"), cells_of("if-fig6")
    assert [*five, *six] == ["if-fig5-prompt0.png", "if-fig6-prompt1.png", "if-fig6-prompt2.png"]
    for lines in (*five.values(), *six.values()):
        assert lines == [[(w, None, alpha) for alpha in (0, 0.25, 0.5, 0.75, 1)] for w in (1, 2, 3, 4)]
    (picture,) = prompt_pictures(["if-fig5"])
    assert picture.num_images == 20
    base = all_presets()["if-blend"].recipe()
    recipes = [cell.recipe(base, None) for cell in picture.cells]
    weights = [tuple(guide.weight.w for guide in recipe.guides) for recipe in recipes]
    assert weights[5:10] == [(2, 1), (1.75, 1.25), (1.5, 1.5), (1.25, 1.75), (1, 2)]  # Eq. 6, w = 2
    assert len({recipe.hash for recipe in recipes}) == 1 + 3 * 5, "w = 1 is one image"


def test_a_figure_that_there_is_not():
    with pytest.raises(ValueError, match=r"no figure 'fig5' of prompts; there are: sdxl-fig6"):
        prompt_pictures(["fig5"])


def test_a_network_that_is_named_takes_the_place_of_the_one_that_a_preset_names():
    told = recipe_of("--preset=if-blend --gnet=hf://other/m --outdir=out")
    assert [(guide.net and guide.net.source, guide.weight.w) for guide in told.guides] == [
        (None, 2),
        ("hf://other/m", 2),
    ]
