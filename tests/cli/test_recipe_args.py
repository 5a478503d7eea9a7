"""The recipe that a command line describes."""

import csv
import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from edm2_guidance.papers.presets import POSTHOC, all_presets
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval

ROOT = Path(__file__).parents[2]


@pytest.fixture
def describe(tmp_path, recipe_command):
    """Runs a command line through the shared options; gives (recipe or None, exit code, stderr)."""
    for name in ("a.pkl", "b.pkl", "c.pkl"):
        (tmp_path / name).write_bytes(b"x")
    command, seen = recipe_command

    def run(line):
        seen.clear()
        args = [arg.replace("@", str(tmp_path) + "/") for arg in line.split()]
        result = CliRunner().invoke(command, args)
        return (seen[0] if seen else None), result.exit_code, result.stderr

    return run


def test_both_vocabularies_say_the_same(describe):
    ours, code, err = describe("--net=@a.pkl --gnet=@b.pkl --guidance=2 --guidance_interval=17,22")
    theirs, *_ = describe("--cond_pkl=@a.pkl --uncond_pkl=@b.pkl --guidance_scale=2.0 --guidance-interval=[17,22]")
    assert code == 0, err
    assert ours == theirs
    assert ours.guides[0].interval == StepInterval(17, 22)


@pytest.mark.parametrize(
    ("line", "weight", "interval", "note"),
    [
        ("", 2.0, StepInterval(17, 22), "w = 2 (--guidance=W for another) and steps 17-22 (--guidance-interval="),
        ("--guidance_scale=1.2", 1.2, StepInterval(17, 22), "interval paper, steps 17-22"),
        ("--guidance=1.2", 1.2, StepInterval(17, 22), "interval paper, steps 17-22"),
        ("--guidance_interval=None", 2.0, None, "interval paper, w = 2"),
        ("--guidance-sigma=0.1,5", 2.0, SigmaInterval(0.1, 5), "interval paper, w = 2"),
        ("--guidance_scale=1.2 --guidance_interval=[3,4]", 1.2, StepInterval(3, 4), None),
    ],
)
def test_the_interval_papers_words_take_its_defaults(describe, line, weight, interval, note):
    recipe, code, err = describe(f"--cond_pkl=@a.pkl --uncond-pkl @b.pkl {line}")
    assert code == 0
    assert (recipe.guides[0].weight.w, recipe.guides[0].interval) == (weight, interval)
    assert note in err if note else not err


@pytest.mark.parametrize(
    "words",
    [
        "--net=@a.pkl --gnet=@b.pkl",
        "--cond_pkl=@a.pkl --gnet=@b.pkl",
        "--net=@a.pkl --uncond_pkl=@b.pkl",
        "--preset=mnist16 --uncond_pkl=@b.pkl",
    ],
)
def test_other_words_guide_everywhere_and_need_a_weight(describe, words):
    recipe, code, err = describe(f"{words} --guidance=1.5")
    assert (code, err) == (0, "")
    assert (recipe.guides[0].weight.w, recipe.guides[0].interval) == (1.5, None)
    for more in ("", "--guidance_interval=17,22", "--guidance-sigma=1,3"):
        recipe, code, err = describe(f"{words} {more}")
        assert (recipe, code) == (None, 2)
        typed = words.split()[-1].replace("@b.pkl", "")
        assert typed in err.split(": a guide needs a weight; give it as --guidance=W")[0]


def test_a_stated_weight_is_not_said_to_be_the_papers(describe):
    recipe, code, err = describe("--cond_pkl=@a.pkl --uncond_pkl=@b.pkl --weight=linear:w=3")
    assert (code, str(recipe.guides[0].weight)) == (0, "linear:w=3")
    assert "w = 2" not in err


def test_several_guides_in_step(describe):
    recipe, *_ = describe(
        "--net=@a.pkl --gnet=@b.pkl --gnet=@c.pkl --guidance=1.5 --guidance=2.5 --guidance-sigma=0.1,5 "
        "--guidance-sigma=none"
    )
    assert [guide.weight.w for guide in recipe.guides] == [1.5, 2.5]
    assert recipe.guides[0].interval == SigmaInterval(0.1, 5)
    assert recipe.guides[1].interval is None
    assert [guide.net.name for guide in recipe.guides] == ["b", "c"]


def test_presets_fill_in_and_options_override(describe):
    preset, *_ = describe("--preset=edm2-img512-xxl-interval-fid")
    assert preset.net.source == POSTHOC + "edm2-img512-xxl-0939524-0.015.pkl"
    assert (preset.guides[0].weight.w, preset.guides[0].interval) == (2.0, StepInterval(17, 22))
    changed, *_ = describe("--preset=edm2-img512-xxl-interval-fid --guidance=1.5 --guidance_interval=None --steps=64")
    assert (changed.guides[0].weight.w, changed.guides[0].interval, changed.num_steps) == (1.5, None, 64)
    rising, *_ = describe("--preset=edm2-img512-xxl-interval-fid --weight=linear:w=3")
    assert str(rising.guides[0].weight) == "linear:w=3"
    other, *_ = describe("--preset=edm2-img512-s-guid-fid --gnet=@b.pkl")
    assert (other.guides[0].weight.w, other.guides[0].net.name) == (1.4, "b")
    off, *_ = describe("--preset=edm2-img512-s-guid-fid --guidance=1 --class=0")
    assert off.guides[0].off
    assert off.labels == 0


@pytest.mark.parametrize(
    ("options", "lo", "hi"),
    [
        ("--steps=64", 0.2830, 2.9015),
        ("--sigma_max=160", 0.2830, 2.9015),
        ("--rho=5", 0.2830, 2.9015),
    ],
)
def test_a_presets_interval_keeps_its_noise_levels_on_another_schedule(describe, options, lo, hi):
    recipe, code, err = describe(f"--preset=edm2-img512-s-interval-fid {options}")
    assert code == 0
    interval = recipe.guides[0].interval
    assert isinstance(interval, SigmaInterval)
    assert (interval.lo, interval.hi) == pytest.approx((lo, hi), abs=1e-4)
    assert "steps 15-21 of 32 are taken as sigma in (0.283, 2.902]" in err
    levels = recipe.levels()
    steps = recipe.resolved()[0].guides[0].interval
    for step in range(steps.first, steps.last + 1):
        assert lo * 0.98 < levels[step] <= hi * 1.02


def test_every_option_reaches_the_recipe(describe):
    recipe, *_ = describe(
        "--net=@a.pkl --steps=9 --sigma_min=0.01 --sigma_max=50 --rho=5 --S_churn=1 --S_min=2 --S_max=3 --S_noise=4 "
        "--dtype=float64 --noise-device=cuda --labels=balanced"
    )
    assert (recipe.num_steps, recipe.dtype) == (9, "float64")
    assert str(recipe.schedule) == "edm:sigma_min=0.01:sigma_max=50:rho=5"
    assert str(recipe.sampler) == "heun:S_churn=1:S_min=2:S_max=3:S_noise=4"
    assert (recipe.noise_device, recipe.labels) == ("cuda", "balanced")
    assert describe("--preset=mnist16")[0].num_steps == 16
    assert describe("--preset=mnist16 --steps=32")[0].num_steps == 32


def test_the_published_presets_are_those_of_the_papers():
    with open(ROOT / "edm2_guidance" / "papers" / "presets.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    digest = hashlib.sha256((ROOT / "edm2_guidance" / "papers" / "presets.csv").read_bytes()).hexdigest()
    assert digest == "e041c826eb7d5ef9879912acfb6b1d513812059ecbdb872b7355250ade38653f", (
        "compared row by row with the papers; compare again before changing this"
    )
    presets = all_presets()
    assert sum(not preset.net.endswith(".pt") for preset in presets.values()) == 74 + 14, "beside those of ADM"
    assert presets["edm2-img512-s-autog-fid"].guidance == 2.10
    assert presets["edm2-img512-s-autog-fid"].published == 1.34
    assert presets["edm2-img512-xxl-autog-dino"].gnet == POSTHOC + "edm2-img512-m-0268435-0.205.pkl"
    assert presets["edm2-img512-s-interval-dino"].interval == StepInterval(13, 19)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "--net"),
        ("--net=@missing.pkl", "no network file"),
        ("--preset=edm2-img512-s-gid-fid", "edm2-img512-s-guid-fid"),
        ("--preset=mnist16 --preset=mnist16-cfg", "--grid"),
        ("--net=@a.pkl --guidance_scale 2.0", "--guidance_scale 2.0: a weight needs a guiding network; give --gnet"),
        ("--net=@a.pkl --gnet=@b.pkl --guidance=two", "--guidance=two: give a finite number"),
        ("--net=@a.pkl --gnet=@b.pkl --guidance=nan", "give a finite number"),
        ("--net=@a.pkl --gnet=@b.pkl --guidance=inf", "give a finite number"),
        ("--net=@a.pkl --gnet=@b.pkl --guidance=2 --guidance_interval=22,17", "FIRST <= LAST"),
        ("--net=@a.pkl --gnet=@b.pkl --guidance=2 --guidance_interval=0.2,1.6", "--guidance-sigma"),
        ("--net=@a.pkl --gnet=@b.pkl --guidance=2 --guidance_interval=17,40", "32 steps"),
        ("--net=@a.pkl --gnet=@b.pkl --guidance=2 --guidance-sigma=3,1", "LO < HI"),
        ("--net=@a.pkl --gnet=@b.pkl --guidance=2 --guidance-sigma=3", "LO,HI"),
        ("--net=@a.pkl --gnet=@b.pkl --guidance=2 --guidance-sigma=1,3 --guidance_interval=1,3", "one of them"),
        ("--net=@a.pkl --gnet=@b.pkl --gnet=@c.pkl --guidance=2", "once per guide"),
        ("--net=@a.pkl --guidance-sigma=1,3", "--guidance-sigma=1,3: an interval needs a guiding network"),
        ("--net=@a.pkl --class=-1", "--class=-1: give a class number of 0 or more, or a name"),
        ("--preset=edm2-img512-s-fid --class=1000", "classes 0 to 999"),
        ("--preset=edm2-img512-s-uncond-autog-fid --class=0", "unconditional"),
        ("--preset=mnist16 --class=10", "classes 0 to 9"),
        ("--net=@a.pkl --class=3 --labels=balanced", "--labels"),
        ("--net=@a.pkl --steps=0", "steps"),
        ("--net=@a.pkl --sigma_min=5 --sigma_max=1", "min <= max"),
        ("--net=@a.pkl --sigma_min=0", "sigma"),
        ("--net=@a.pkl --rho=0.001", "falling noise levels"),
        ("--net=@a.pkl --no-such-option", "no-such-option"),
    ],
)
def test_bad_command_lines_are_one_line_with_exit_code_2(describe, line, says):
    recipe, code, err = describe(line)
    assert recipe is None
    assert code == 2
    assert says in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
