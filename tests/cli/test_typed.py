"""Errors of options quote what was typed, as it was typed, and say what to give: every option of every script."""

import importlib
import re

import click
import pytest
from click.testing import CliRunner

from edm2_guidance.cli.command import Command, Group
from edm2_guidance.cli.option_group import takes_options
from edm2_guidance.cli.recipe_options import SamplingOptions
from edm2_guidance.cli.typed import occurrences, plain_number, spellings, typed, values
from tests.words import commands


def number_options():
    """(script, main, words before, option) of everything that is a number, a list or a choice."""
    for script, before, command in commands():
        main = importlib.import_module(f"edm2_guidance.commands.{script}").main
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag and option.type.name not in ("text", "path"):
                yield pytest.param(main, before, option, id=f"{script} {' '.join(before)} {option.opts[0]}")


@pytest.mark.parametrize(("main", "before", "option"), list(number_options()))
def test_every_option_says_what_to_give(main, before, option):
    for name in option.opts:
        for words, shown in (([f"{name}=1..e"], f"{name}=1..e"), ([name, "1..e"], f"{name} 1..e")):
            result = CliRunner().invoke(main, [*before, *words])
            assert result.exit_code == 2
            assert result.stderr.startswith(f"Error: {shown}: ")
            said = result.stderr.removeprefix(f"Error: {shown}: ")
            assert any(word in said for word in ("give ", "is not one of ", "=list)"))
            assert said.count("\n") == 1
            assert "valid" not in said


def test_what_is_missing_is_named_with_what_to_give():
    said = {}
    for script, before, command in commands():
        if any(param.required for param in command.params):
            main = importlib.import_module(f"edm2_guidance.commands.{script}").main
            result = CliRunner().invoke(main, before)
            assert result.exit_code == 2
            said[" ".join([script, *before])] = result.stderr.removeprefix("Error: ").rstrip("\n")
    assert all(re.match(r"(\S+) is missing: (give \1=\S+ \(|write [\w-]+ )", text) for text in said.values()), said
    assert said["calculate_metrics compare"] == "A is missing: write compare A B [REFERENCE] (--help tells more)"
    assert said["reproduce search"].endswith("one may come twice), such as --over=weight")
    assert said["reproduce run"] == "TABLE|ROW... is missing: write run TABLE|ROW... (--help tells more)"
    assert said["network_tool fetch"].startswith("PRESET|URL|FILE... is missing: write fetch")


@pytest.fixture
def refuse():
    @click.group(cls=Group)
    def group():
        pass

    @group.command()
    @click.option("--num", "--num_images", type=click.IntRange(2, 10**6))
    @click.option("--share", type=click.FloatRange(0, 1))
    @click.option("--times", type=float, multiple=True)
    @click.option("--kind", type=click.Choice(["random", "balanced"]))
    @click.option("--loud", is_flag=True)
    @click.option("--go/--no-go")
    @click.option("--out", metavar="FILE")
    @takes_options
    def work(sampling: SamplingOptions):
        click.echo(sampling.sampler_fields["S_max"])

    def run(*words):
        result = CliRunner().invoke(group, ["work", *words])
        assert result.exit_code == 2, result.output
        return result.stderr.removeprefix("Error: ").rstrip("\n")

    run.group = group
    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--num=50k"], "--num=50k: give a whole number from 2 to 1000000, in digits: 50000"),
        (["--num", "50k"], "--num 50k: give a whole number from 2 to 1000000, in digits: 50000"),
        (["--num=3.0"], "--num=3.0: give a whole number from 2 to 1000000, in digits: 3"),
        (["--num_images=1e4"], "--num_images=1e4: give a whole number from 2 to 1000000, in digits: 10000"),
        (["--num-images=50,000"], "--num-images=50,000: give a whole number from 2 to 1000000, in digits: 50000"),
        (["--num=9m"], "--num=9m: give a whole number from 2 to 1000000"),
        (["--num=2.5"], "--num=2.5: give a whole number from 2 to 1000000"),
        (["--num=1"], "--num=1: give a whole number from 2 to 1000000"),
        (["--num="], "--num=: give a whole number from 2 to 1000000"),
        (["--share=0,5"], "--share=0,5: give a number from 0 to 1, in digits: 0.5"),
        (["--share=half"], "--share=half: give a finite number from 0 to 1"),
        (["--times=1", "--times=two", "--times=3"], "--times=two: give a finite number"),
        (["--times=nan"], "--times=nan: give a finite number"),
        (["--times=1", "--times=inf"], "--times=inf: give a finite number"),
        (["--rho=nan"], "--rho=nan: give a finite number above 0"),
        (["--sigma_max=inf"], "--sigma_max=inf: give a finite number above 0"),
        (["--S_max=nan"], "--S_max=nan: give a finite number of at least 0"),
        (["--kind=randm"], "--kind=randm: give one of random, balanced; nearest is random"),
        (["--loud=true"], "--loud=true: this is a switch: write --loud, or leave it out"),
        (["--out"], "--out: give a value, --out=FILE"),
        (["--num_image=3"], "--num_image: there is no such option; near it: --num-images, --num"),
        (["-num=3"], "-num: there is no such option; near it: --num"),
        (["--xyz=1"], "--xyz: there is no such option; --help lists them"),
        (["mnist16", "b"], "mnist16 b: stands there without an option; --help lists them"),
        ([f"--num={'9' * 500}x"], f"--num={'9' * 94}...: give a whole number from 2 to 1000000"),
    ],
)
def test_what_was_typed_is_quoted(refuse, words, said):
    assert refuse(*words) == said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--num=2", "--share=1", "--num-images", "3"], "--num=2 and --num-images 3"),
        (["--rho=2", "--times=1", "--times=2", "--rho=3"], "--rho=2 and --rho=3"),
        (["--go", "--no-go"], "--go and --no-go"),
    ],
)
def test_of_several_values_the_last_counts_which_is_said(refuse, words, said):
    assert CliRunner().invoke(refuse.group, ["work", *words]).stderr == f"note: {said}: the last counts\n"


def test_the_same_value_may_be_given_twice(refuse):
    words = [
        "--S_max=2.0",
        "--num=2",
        "--loud",
        "--loud",
        "--num_images",
        "2",
        "--times=1",
        "--times=2",
        "--S-max",
        "2.0",
    ]
    done = CliRunner().invoke(refuse.group, ["work", *words])
    assert (done.stdout, done.stderr) == ("2.0\n", "")


def test_an_infinite_default_may_be_typed(refuse):
    assert CliRunner().invoke(refuse.group, ["work", "--S_max=inf"]).stdout == "inf\n"


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("50k", "50000"),
        ("1.5K", "1500"),
        ("8Mi", "8388608"),
        ("1e4", "10000"),
        ("1e-2", "0.01"),
        ("50,000", "50000"),
        ("1_000_000", "1000000"),
        ("3.0", "3"),
        (".5", "0.5"),
        ("1,5", "1.5"),
        (" 7 ", "7"),
        ("-2", "-2"),
        ("1,2,3", None),
        ("cat", None),
        ("", None),
        ("nan", None),
        ("1e400", None),
    ],
)
def test_numbers_in_other_writings(text, digits):
    assert plain_number(text) == digits


def test_options_are_found_by_any_of_their_names():
    seen = {}

    @click.command(cls=Command)
    @click.option("--gnet", "--uncond_pkl", multiple=True)
    @click.option("--silent", is_flag=True)
    @click.argument("rest", nargs=-1)
    def command(**params):
        seen.update(names=spellings("gnet"), texts=values("gnet"), silent=typed("silent"), absent=typed("rest"))

    arguments = ["--uncond_pkl", "--silent", "--silent", "--gnet=b=c", "x", "--", "--gnet=d"]
    assert CliRunner().invoke(command, arguments).exit_code == 0
    assert seen == {
        "names": {"--uncond-pkl", "--gnet"},
        "texts": ["--silent", "b=c"],
        "silent": [["--silent"]],
        "absent": [],
    }
    assert [words for _, words in occurrences(command, arguments)] == [
        ["--uncond_pkl", "--silent"], ["--silent"], ["--gnet=b=c"], ["x"], ["--"], ["--gnet=d"]
    ]  # fmt: skip
