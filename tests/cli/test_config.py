"""--config=FILE.toml: a table per command, beaten by what is typed; nothing in it switches on trust."""

import click
import pytest
from click.testing import CliRunner

from edm2_guidance.cli import typed
from edm2_guidance.cli.command import Command, Group
from edm2_guidance.cli.lists import FloatList
from edm2_guidance.commands import calculate_metrics, generate_zip

FULL = """
[generate_zip]
num_images = 3
seeds = [0, 1, 5]
guidance-sigma = "0.1,2"
gnet = ["a", "b"]
guidance = [1.5, 2]
S_max = inf
steal = true
offline = false
verbose = true
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """(the parameters, exit code, stderr) of a command that has this file."""

    def run(toml, *args, command=generate_zip.main):
        (tmp_path / "c.toml").write_text(toml)
        monkeypatch.chdir(tmp_path)
        seen = {}

        def tell(**params):
            ctx = click.get_current_context()
            seen.update({name: params[name] for name in params if typed.given(name)}, ctx=ctx)

        replaced = command.commands["gen"] if command is calculate_metrics.main else command
        monkeypatch.setattr(replaced, "callback", _same_module(tell, replaced))
        result = CliRunner().invoke(command, args)
        return seen, result.exit_code, result.stderr.strip()

    return run


def _same_module(function, command):
    function.__module__ = command.callback.__module__
    return function


def test_options_are_those_that_one_would_type(run):
    seen, code, said = run(FULL, "--config=c.toml")
    assert (code, said) == (0, "")
    interval = seen.pop("guidance_sigma")[0]
    assert (interval.lo, interval.hi) == (0.1, 2)
    ctx = seen.pop("ctx")
    assert (ctx.params["offline"], ctx.meta["verbose"]) == (False, True)
    assert seen == {
        "num_images": 3, "seeds": [0, 1, 5], "gnet": ("a", "b"), "guidance": (1.5, 2.0), "S_max": float("inf"),
        "steal": True,
    }  # fmt: skip


def test_what_is_typed_wins(run):
    seen, _, said = run(FULL, "--num=7", "--guidance=3", "--config", "c.toml", "--uncond_pkl=c")
    assert (seen["num_images"], seen["guidance"], seen["gnet"], said) == (7, (3.0,), ("c",), "")


def test_the_options_of_the_form_without_a_command_are_not_of_the_commands(run):
    toml = "[calculate_metrics]\nbatch = 2\n[calculate_metrics.gen]\nnum = 3"
    for line in (["--config=c.toml", "gen"], ["gen", "--config=c.toml"]):
        seen, code, said = run(toml, *line, command=calculate_metrics.main)
        assert (code, said, seen["num"], "batch" in seen) == (0, "", 3, False)


def test_commands_of_a_program_have_tables_of_their_own(run):
    toml = '[calculate_metrics]\ngen_zip = "a.zip"\n[calculate-metrics.gen]\nnum = 10\n[generate_zip]\nseed = 3\n'
    seen, code, said = run(toml, "gen", "--config=c.toml", command=calculate_metrics.main)
    assert (code, said, seen["num"]) == (0, "", 10)
    assert "seed" not in seen
    seen, *_ = run("[calculate_metrics.gen]\nnum = 10", "--config=c.toml", "gen", command=calculate_metrics.main)
    assert seen["num"] == 10


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[generate_zip]\nnmu = 3", "nmu: there is no such option; near it: num"),
        ("[generate_zip]\nguidance = 'x'", "--guidance=x: give a finite number"),
        ("[generate_zip]\nguidance = nan", "--guidance=nan: give a finite number"),
        ("[generate_zip]\nseeds = '3-1'", "--seeds=3-1: the range 3-1 runs backwards"),
        ("[generate_zip]\nsteal = 1", "steal: this is a switch: write true or false"),
        ("[generate_zip]\ntime = 04:00:00", "time: expected a text, a number"),
        ("[generate_zip]\ntrust_pickle = true", "trust_pickle: a file cannot switch on trust"),
        ("[generate_zip]\nconfig = 'd.toml'", "config: there is no such option"),
        (
            "[generate_zip]\nnet = 'mine.py:make'",
            "net: a file runs no code: add --net=mine.py:make to the command line",
        ),
        ("[generate_zips]\n", "there is no command generate_zips; near it: generate_zip"),
        ("[generate_zip.gen]\n", "there is no command gen"),
        ("num = 3\n", "num is in no command's table: write [COMMAND]"),
        ("[generate_zip\n", "is not valid TOML"),
        ("x = " + "[" * 10**5, "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_said_with_its_file(run, toml, says):
    _, code, said = run(toml, "--config=c.toml")
    assert code == 2
    assert said.startswith("Error: c.toml")
    assert says in said
    assert "\n" not in said


def test_a_file_that_is_not_there(run):
    assert run("", "--config=d.toml")[1:] == (2, "Error: d.toml: No such file or directory")


def test_what_stands_in_a_file_counts_as_given_where_options_exclude_each_other(tmp_path):
    (tmp_path / "c.toml").write_text("[generate_zip]\nseeds = '0-3'\n")
    result = CliRunner().invoke(
        generate_zip.main, [f"--config={tmp_path}/c.toml", "--preset=mnist16", "--num=2", f"--zip_dir={tmp_path}"]
    )
    assert "--seeds says which and how many" in result.stderr


def test_every_command_takes_it():
    @click.group(cls=Group)
    def group():
        pass

    @group.command()
    @click.option("--weights", type=FloatList())
    def one(weights):
        pass

    assert isinstance(one, Command)
    assert all("--config TOML" in CliRunner().invoke(group, [*words, "--help-all"]).stdout for words in ([], ["one"]))
