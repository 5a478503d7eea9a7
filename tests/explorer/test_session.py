"""The explorer without its page: pixels, counts and files of generate_images.py, what is kept, what is stopped."""

import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from edm2_guidance.cli.recipe_options import Kind
from edm2_guidance.commands import generate_images
from edm2_guidance.explorer import chart
from edm2_guidance.explorer.session import Explorer, Stopped, unguided
from edm2_guidance.explorer.settings import Settings
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.parts import Rule, Sampler, Weight
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.opening import opener

STEPS, IMAGES = 6, 4


@pytest.fixture(scope="module")
def open_():
    return opener("cpu")


@pytest.fixture(scope="module")
def explored(tiny_networks, open_):
    """An explorer of networks by name, guided by these others."""

    def made(*guides, **more):
        recipe = Recipe(tiny_networks["cond"], [Guide(tiny_networks[g], 1.75) for g in guides], STEPS, **more)
        return Explorer(replace(recipe, noise_device="device"), range(8), open_)

    return made


def ran(view, folder, monkeypatch):
    """What the view's command line makes, in this folder."""
    monkeypatch.chdir(folder)
    python, script, *words = shlex.split(view.command)
    assert (python, script) == ("python", "generate_images.py")
    done = CliRunner().invoke(generate_images.main, words)
    assert done.exit_code == 0, done.output
    (path,) = folder.glob("explore-*.png")
    return path


@pytest.mark.parametrize(
    ("guides", "changes"),
    [
        ([], {}),
        (["weak"], {"interval": StepInterval(1, 3), "sampler": Sampler.parse("heun:S_churn=8")}),
        (["uncond"], {"weight": Weight.parse("cosine:w=2.25"), "rule": Rule.parse("rescale:phi=0.5")}),
        (["uncond", "weak"], {"alpha": 0.25, "num_steps": 5}),
    ],
    ids=["unguided", "interval", "kinds", "blend"],
)
def test_figure_and_command_line_are_what_is_seen(explored, guides, changes, tmp_path, monkeypatch):
    explorer = explored(*guides)
    view = explorer.look(replace(Settings.of(explorer.start, IMAGES), **changes))
    (tmp_path / "by-command").mkdir()
    figure = explorer.figure(view, tmp_path)
    assert figure.read_bytes() == ran(view, tmp_path / "by-command", monkeypatch).read_bytes()
    assert '"seeds": [0, 1, 2, 3]' in Image.open(figure).text["recipe"]


def test_so_is_that_of_a_classifier(open_, tmp_path, monkeypatch):
    explorer = Explorer(all_presets()["mnist16-classifier"].recipe(), range(5, 7), open_, batch=16)
    view = explorer.look(replace(Settings.of(explorer.start, 2), num_steps=2, scale=1.5))
    assert "--scales=0,1.5" in view.command
    assert "--batch=16" in view.command
    (tmp_path / "by-command").mkdir()
    figure = explorer.figure(view, tmp_path)
    assert figure.read_bytes() == ran(view, tmp_path / "by-command", monkeypatch).read_bytes()


def test_pixels_and_counts_are_those_of_generate_images(explored, tiny_networks, tmp_path):
    explorer = explored("weak")
    view = explorer.look(replace(Settings.of(explorer.start, IMAGES), interval=StepInterval(1, 3)))
    words = [f"--net={tiny_networks['cond']}", f"--gnet={tiny_networks['weak']}", f"--steps={STEPS}", "--device=cpu"]
    words += [f"--seeds=0-{IMAGES - 1}", "--guidance-interval=1,3"]
    done = {}
    for name, w in (("guided", 1.75), ("unguided", 1)):
        outdir = tmp_path / name
        done[name] = CliRunner().invoke(generate_images.main, [*words, f"--guidance={w}", f"--outdir={outdir}"])
        files = [np.asarray(Image.open(path)) for path in sorted(outdir.glob("*.png"))]
        pixels = getattr(view, name).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(np.stack(files), pixels), name
    counted = re.search(r"evaluations: (.*)", done["guided"].output.splitlines()[-1])[1]
    assert view.cost.startswith(f"{counted} evaluations, ")
    planned = view.opened.evaluations()
    assert counted.startswith(f"{IMAGES * planned['main']} main + {IMAGES * planned['guide 1']} guide 1")


def test_what_did_not_change_is_kept_and_comes_back(explored):
    explorer = explored("weak")
    first = explorer.look(Settings.of(explorer.start, IMAGES))
    other = explorer.look(replace(Settings.of(explorer.start, IMAGES), interval=StepInterval(0, 2)))
    again = explorer.look(Settings.of(explorer.start, IMAGES))
    assert other.unguided is first.unguided
    assert again.guided is first.guided
    assert not torch.equal(other.guided, first.guided)
    off = explorer.look(replace(Settings.of(explorer.start, IMAGES), weight=Weight.parse("constant")))
    assert off.guided is off.unguided


def test_a_pass_that_is_not_wanted_any_more_ends_at_its_next_step(explored):
    explorer, asked = explored("weak"), []

    def stop():
        asked.append(1)
        return len(asked) == 3

    settings = Settings.of(explorer.start, IMAGES)
    with pytest.raises(Stopped):
        explorer.look(settings, stop)
    assert len(asked) == 3
    assert len(explorer.look(settings).guided) == IMAGES


def test_settings_are_refused_before_anything_is_sampled(explored):
    explorer = explored("weak")
    settings = Settings.of(explorer.start, IMAGES)
    for wrong, message in (
        ({"num_images": 9}, "9 images: from 1 to 8"),
        ({"num_images": 0}, "0 images: from 1 to 8"),
        ({"num_steps": 0}, "at least 1"),
        ({"interval": StepInterval(2, STEPS)}, "sampling takes 6 steps"),
    ):
        with pytest.raises(ValueError, match=message):
            explorer.look(replace(settings, **wrong), stop=pytest.fail)


def test_d_over_the_steps_ends_in_the_image(explored):
    """A step to sigma 0 is D itself, up to the rounding of the sampler's state."""
    explorer = explored("weak")
    view = explorer.look(replace(Settings.of(explorer.start, IMAGES), interval=StepInterval(1, 3)))
    moments = explorer.moments(view, 2)
    assert [each.step for each in moments] == list(range(STEPS))
    assert [each.guided for each in moments] == [False, True, True, True, False, False]
    assert np.array_equal(moments[0].with_guides, moments[0].without)
    assert not np.array_equal(moments[1].with_guides, moments[1].without)
    for picture, images in ((moments[-1].with_guides, view.guided), (moments[-1].without, view.unguided)):
        difference = np.asarray(picture, int) - images[2].permute(1, 2, 0).numpy()
        assert abs(difference).max() <= 1
    few = explorer.look(replace(Settings.of(explorer.start, 1), num_steps=20))
    steps = [each.step for each in explorer.moments(few, 0)]
    assert (len(steps), steps[0], steps[-1]) == (16, 0, 19)


def test_curves_are_the_diagnostics_and_reach_beyond_the_interval(explored, open_):
    explorer = explored("weak")
    view = explorer.look(replace(Settings.of(explorer.start, IMAGES), interval=StepInterval(1, 3)))
    seen, everywhere = explorer.curves(view)
    (batch,) = open_(view.asked).images(view.seeds, 32, diagnostics=True)
    assert np.array_equal(seen.difference, np.median(batch.diagnostics.difference[:, :, 0], 0), equal_nan=True)
    assert [*np.isnan(seen.difference)] == [True, False, False, False, True, True]
    assert [*seen.weight] == [1, 1.75, 1.75, 1.75, 1, 1]
    assert not np.isnan(everywhere.difference).any()
    assert everywhere.difference[0] > 0
    assert [each.name for each in explorer.curves(explorer.look(Settings.of(explorer.start, 2)))] == ["as seen"]
    blend = explored("uncond", "weak")
    names = [each.name for each in blend.curves(blend.look(Settings.of(blend.start, 2)))]
    assert names == ["guide 1, as seen", "guide 2, as seen"]


def test_the_chart_draws_them_and_shades_the_interval(explored):
    explorer = explored("weak")
    settings = replace(Settings.of(explorer.start, 2), interval=StepInterval(1, 3))
    seen, everywhere = curves = explorer.curves(explorer.look(settings))
    drawn = chart.options(curves, settings)["series"]
    assert [each["name"] for each in drawn] == [everywhere.name] * 2 + [seen.name] * 2
    assert [len(each["data"]) for each in drawn] == [STEPS, STEPS, 3, STEPS]  # no points where a guide is off
    assert drawn[2]["data"][0] == [seen.sigma[1], seen.difference[1]]
    levels = settings.levels()
    assert [end["xAxis"] for end in drawn[0]["markArea"]["data"][0]] == [levels[1], levels[4]]
    assert chart.options([], settings) == {}


def test_own_functions_stay_and_are_in_the_command_line(tiny_networks, open_, tmp_path, monkeypatch):
    own = tmp_path / "own.py"
    own.write_text("def weight(progress, w=2.0):\n    return w if progress < 0.5 else 1\n")
    weight = Kind("weight").parse(f"{own}:weight").with_fields({"w": 3.0})
    recipe = Recipe(tiny_networks["cond"], Guide(tiny_networks["weak"], weight), 4, noise_device="device")
    explorer = Explorer(recipe, range(8), open_)
    view = explorer.look(Settings.of(explorer.start, 2))
    assert f"--weight={own}:weight" in view.command
    assert "--weights=1,3" in view.command
    (tmp_path / "by-command").mkdir()
    made = ran(view, tmp_path / "by-command", monkeypatch)
    assert explorer.figure(view, tmp_path).read_bytes() == made.read_bytes()


def test_a_guide_that_cannot_be_off_is_left_out_of_the_unguided(tiny_networks):
    recipe = Recipe(tiny_networks["cond"], Guide(tiny_networks["weak"], lambda step: 2.0))
    assert unguided(recipe).guides == ()
    assert len(unguided(Recipe(tiny_networks["cond"], Guide(tiny_networks["weak"], 2))).guides) == 1


def test_a_figure_that_cannot_be_written_is_refused(explored, tmp_path):
    explorer, file = explored(), tmp_path / "file"
    file.write_text("")
    view = explorer.look(Settings.of(explorer.start, 1))
    with pytest.raises((ValueError, OSError), match="file"):
        explorer.figure(view, file)
    assert [*tmp_path.iterdir()] == [file]
