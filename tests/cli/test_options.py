"""Option types, the recipe that a command line describes, and errors as one line."""

import csv
import hashlib
import os
import signal
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dnnlib.errors import DownloadError
from edm2_guidance.cli.command import Command, Group, bad_input
from edm2_guidance.cli.lists import IntList
from edm2_guidance.cli.metric_options import Metrics
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.recipe_args import recipe_from
from edm2_guidance.cli.recipe_options import label_options, network_options, sampler_options
from edm2_guidance.cli.reproduce_options import goes_on
from edm2_guidance.cli.run_options import run_options
from edm2_guidance.cli.signals import stop_signals
from edm2_guidance.papers.presets import POSTHOC, all_presets
from edm2_guidance.recipe.recipe import SigmaInterval, StepInterval

ROOT = Path(__file__).parents[2]


@pytest.fixture
def describe(tmp_path):
    """Runs a command line through the shared options; gives (recipe or None, exit code, stderr)."""
    for name in ("a.pkl", "b.pkl", "c.pkl"):
        (tmp_path / name).write_bytes(b"x")
    seen = []

    @click.command(cls=Command)
    @network_options()
    @sampler_options
    @label_options
    @run_options
    def command(**params):
        seen.append(recipe_from(params))

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
        ("", 2.0, StepInterval(17, 22), "w = 2 (--guidance_scale=W for another) and steps 17-22 (--guidance_interval="),
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
    assert len(presets) == 45
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


@pytest.mark.parametrize(
    ("text", "expected"), [("16-19", [16, 17, 18, 19]), ("1,2,5-7", [1, 2, 5, 6, 7]), ("0", [0]), ("3-3", [3])]
)
def test_seed_lists(text, expected):
    assert IntList().convert(text, None, None) == expected


def test_long_seed_lists_are_checked_in_one_pass():
    """Compared pair by pair they would take minutes."""
    with pytest.raises(click.BadParameter, match="60000 stands"):
        IntList().convert("0-60000,60000", None, None)


@pytest.mark.parametrize(
    "text",
    ["", "a", "1,,2", "-3", "1-2-3", "1.5", "0:9"],
)
def test_what_is_no_seed_list(text):
    with pytest.raises(click.BadParameter, match=r"^give whole numbers and ranges, such as 0,5,10-19$"):
        IntList().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5-2", "write 2-5"),
        ("1,2,1", "1 stands there more than once"),
        ("0-3,2", "2 stands there more than once"),
        ("0-99999999999", "too large"),
        ("4294967296", "too large"),
        ("0-10000000", "more than 10000000"),
        ("0..9", "here 0-9"),
        ("0...9,12", "here 0-9,12"),
        ("0\u20139", "here 0-9"),
        ("0 to 9", "here 0-9"),
        ("[1, 2]", "here 1,2"),
        ("1 2 3", "here 1,2,3"),
        ("1;2;", "here 1,2"),
        ("0-9,", "here 0-9"),
        ("50k", "the first 50000 are 0-49999"),
        ("50,000", "the first 50000 are 0-49999"),
        ("1e4", "the first 10000 are 0-9999"),
    ],
)
def test_bad_seed_lists(text, says):
    with pytest.raises(click.BadParameter) as error:
        IntList().convert(text, None, None)
    assert says in error.value.message


def test_metrics_are_unique_and_known():
    assert Metrics().convert("fd-dinov2,fid,fid,fd/inception", None, None) == ["fd_dinov2", "fid"]
    with pytest.raises(click.BadParameter, match=r"'fif' is not one of fid, fd_dinov2"):
        Metrics().convert("fif", None, None)
    with pytest.raises(click.BadParameter, match=r"there is no measure 'fad' \(did you mean fd\?\)"):
        Metrics().convert("fad/inception", None, None)
    with pytest.raises(click.BadParameter, match="fd has no 'size'; it takes nothing"):
        Metrics().convert("fid:size=3", None, None)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("broken\n  file"), 1),
        (OSError(28, "No space left", "x.zip"), 1),
        (ValueError("\x1b[2J"), 1),
        (None, 0),
    ],
)
def test_exit_codes_of_failed_work(error, code):
    @click.group(cls=Group)
    def group():
        pass

    @group.command()
    def work():
        if error is not None:
            raise error

    result = CliRunner().invoke(group, ["work"])
    assert result.exit_code == code
    assert result.stderr.count("\n") == (1 if error is not None else 0)
    assert result.stderr.rstrip("\n").isprintable()  # no escape sequences, whatever a file's names say


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_interrupts_say_so(error):
    @click.command(cls=Command)
    def command():
        raise error

    result = CliRunner().invoke(command, [])
    assert (result.exit_code, result.stderr.strip()) == (130, "Error: interrupted")


@pytest.mark.parametrize(
    ("name", "code"), [("TERM", 143), ("INT", 130), ("HUP", 129), ("USR1", 138), ("USR2", 140), ("XCPU", 152)]
)
def test_signals_end_in_order_whatever_libraries_make_of_them(name, code):
    """torch was seen to make a ValueError of an interrupt that came in the middle of it."""
    left, number = [], signal.Signals[f"SIG{name}"]

    @click.command(cls=Command)
    def command():
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        except BaseException as error:
            raise ValueError("could not determine the shape of an object") from error
        finally:
            left.append("in order")

    before = [signal.getsignal(each) for each in (number, signal.SIGINT)]
    result = CliRunner().invoke(command, [])
    assert (result.exit_code, left) == (code, ["in order"])
    assert result.stderr == ("Error: interrupted\n" if name == "INT" else f"Error: ended by SIG{name}\n")
    assert [signal.getsignal(each) for each in (number, signal.SIGINT)] == before


def test_a_signal_while_the_end_is_told_changes_nothing(monkeypatch):
    from edm2_guidance.cli import command as module

    plain = module._fail

    def slow(message, code):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        return plain(message, code)

    @click.command(cls=Command)
    def command():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr(module, "_fail", slow)
    result = CliRunner().invoke(command, [])
    assert (result.exit_code, result.stderr.strip()) == (130, "Error: interrupted")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_somebody_swallows_ends_the_work_all_the_same(number, code):
    """As destructors and callbacks of the garbage collector do."""
    done = []

    @click.command(cls=Command)
    def command():
        with progress_bar(3, "pieces") as progress:
            for piece in range(3):
                with suppress(BaseException):
                    if piece == 1:
                        os.kill(os.getpid(), number)
                        time.sleep(10)
                progress(1)
                done.append(piece)

    assert CliRunner().invoke(command, []).exit_code == code
    assert done == [0]


def test_an_interrupt_tells_what_is_kept_whatever_libraries_make_of_it():
    @click.command(cls=Command)
    @click.option("--ledger", default="a.jsonl")
    @click.option("--results", default="b")
    @goes_on
    def command(**params):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except BaseException as error:
            raise ValueError("could not determine the shape of an object") from error

    said = CliRunner().invoke(command, []).stderr
    assert said == "Error: interrupted: what was scored is in a.jsonl, unfinished work in b; the same command goes on\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR2])
@pytest.mark.parametrize("training", [False, True])
def test_a_signal_that_is_ignored_stays_so(number, training):
    """As SIGINT for what a shell runs in the background, SIGHUP under nohup, SIGUSR2 in jobs by --submit."""

    @click.command(cls=Command)
    def command():
        with stop_signals() if training else nullcontext(lambda: None) as stopped:
            os.kill(os.getpid(), number)
            return stopped() or 0

    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert CliRunner().invoke(command, []).exit_code == 0
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_failed_download_is_failed_work():
    @click.command(cls=Command)
    def command():
        with bad_input():
            raise DownloadError("could not fetch https://host/net.pkl")

    result = CliRunner().invoke(command, [])
    assert (result.exit_code, result.stderr) == (1, "Error: could not fetch https://host/net.pkl\n")


def test_bad_input_is_a_usage_error():
    @click.command(cls=Command)
    def command():
        with bad_input():
            raise FileNotFoundError(2, "No such file or directory", "net.pkl")

    result = CliRunner().invoke(command, [])
    assert (result.exit_code, result.stderr) == (2, "Error: net.pkl: No such file or directory\n")
