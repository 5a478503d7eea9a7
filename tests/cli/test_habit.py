"""One habit: an option is spelt, shown and set by default in one way; --help, --quiet and --verbose of all commands."""

import re

import click
import pytest
import torch.distributed.run
from click.testing import CliRunner

from edm2_guidance.cli.command import Command
from edm2_guidance.cli.help_page import FEW
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.say import detail, note, say, warn
from edm2_guidance.cli.spelling import spellings
from edm2_guidance.commands import calculate_metrics, generate_images
from edm2_guidance.recipe import catalog
from tests.words import commands

OPTIONS = [
    (" ".join([script, *before]), option)
    for script, before, command in commands()
    for option in command.params
    if isinstance(option, click.Option)
]

# Where one option has two defaults, and why.
OWN_DEFAULTS = {
    "--batch": "EDM2's 32 of samplers, the interval repository's of its scripts; elsewhere what is handled is no image",
    "--shard-size": "work that was begun goes on",
    "--num-images": "the papers' 50,000; 5,000 for a point of a search",
    "--seeds": "EDM2's 16-19; sets of points in the toy",
    "--metrics": "the interval repository's script has no other than fid",
    "--iterations": "of the toy's training, and of a descent over weights",
    "--outdir": "a folder of its own for what `verify` finds",
    "--format": "what a table is to a reader, a report or a network is not",
    **dict.fromkeys(("--net", "--gnet", "--uncond-net"), "toy: EDM2's URLs for its plot, what ships for scores"),
}


def test_an_option_has_the_same_spellings_everywhere():
    """Shown: that of its field, in dashes. Only symbols of the papers keep their underscores."""
    kinds = (catalog.find(axis, kind) for axis in ("sampler", "schedule") for kind in catalog.kinds(axis))
    symbols = {f"--{name}" for kind in kinds for name in kind.__dataclass_fields__} | {"--P_mean", "--P_std"}
    for command, option in OPTIONS:
        assert option.opts == [*spellings(option.name, option.opts[0])], command
        assert "_" not in option.opts[0] or option.opts[0] in symbols, (command, option.opts)
    shown = {option.name: option.opts[0] for _, option in OPTIONS}
    assert {(option.name, option.opts[0]) for _, option in OPTIONS} == set(shown.items())


def test_a_spelling_means_one_option_of_a_command():
    for command in {command for command, _ in OPTIONS}:
        names = [name.replace("_", "-") for each, option in OPTIONS if each == command for name in option.opts]
        assert len(set(names)) == len(names), command


def test_an_option_has_one_default():
    """That none is laid down is no other one: then the command says what it does, or asks for it."""
    defaults = {}
    for _, option in OPTIONS:
        default = option.to_info_dict()["default"]
        if default is not None and not option.multiple:
            defaults.setdefault(option.opts[0], set()).add(str(default))
    assert {name for name, found in defaults.items() if len(found) > 1} == OWN_DEFAULTS.keys()


def test_what_is_shown_is_none_of_torchruns_own():
    """It refuses --num, which may stand for several of its own, wherever it stands."""
    parser = torch.distributed.run.get_args_parser()
    for name in {option.opts[0] for _, option in OPTIONS}:
        assert parser.parse_args(["script.py", f"{name}=1"]).training_script_args == [f"{name}=1"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("calculate_metrics ref --data=a --dest=b", "calculate_metrics ref --images=a --out=b"),
        ("generate_zip --zip_dir=a --num 3 --batch_size=2", "generate_zip --outdir=a --num-images=3 --batch=2"),
        ("generate_zip --cond_pkl=a --uncond-pkl=b --guidance_scale=2", "generate_zip --net=a --gnet=b --guidance=2"),
        ("calculate_metrics calc --weights=fid=https://a --metric=fid", "calculate_metrics calc --detector_weights "
         "fid=https://a --metrics=fid"),
        ("network_tool convert a --to=pkl --force", "network_tool convert a --format=pkl --overwrite"),
        ("network_tool inspect a --json", "network_tool inspect a --format=json"),
        ("toy_example plot --save=a.png", "toy_example plot --out=a.png"),
        ("reproduce run a --results=b --num_images=9", "reproduce run a --results-dir=b --num-images=9"),
        ("generate_images --network=a --solver=euler", "generate_images --net=a --sampler=euler"),
        ("generate_zip --verbose=True --guidance_interval [1,2]", "generate_zip --verbose --guidance-interval=1,2"),
        ("generate_images --verbose no", "generate_images"),
    ],
)  # fmt: skip
def test_other_spellings_are_taken_for_it(old, new):
    assert parsed(old) == parsed(new)


def parsed(line):
    """What a command line says: parameters, and what all commands share."""
    words = line.split()
    found = [each for each in commands() if [each[0], *each[1]] == words[: 1 + len(each[1])]]
    script, before, command = found[-1]
    with command.make_context(script, words[1 + len(before) :]) as context:
        return context.params, {"quiet", "verbose"} & context.meta.keys()


@pytest.mark.parametrize(("script", "before"), [each[:2] for each in commands()], ids=str)
def test_help_shows_what_matters_first_and_all_when_asked(script, before):
    main = next(each for name, none, each in commands() if name == script and not none)
    short, everything = (CliRunner().invoke(main, [*before, asked]).stdout for asked in ("--help", "--help-all"))
    shown, all_shown = (re.findall(r"^  (--[\w-]+|-h)", text, re.M) for text in (short, everything))
    visible = [option for name, option in OPTIONS if name == " ".join([script, *before]) and not option.hidden]
    assert set(all_shown) - {"--version", "-h"} == {option.opts[0] for option in visible}
    assert len(shown) <= FEW
    assert short.splitlines()[-1] == f"--help-all shows {len(all_shown) - len(shown)} more options"
    assert "--help-all shows" not in everything
    assert {option.opts[0] for option in visible if option.required} <= set(shown)


def test_headings_are_those_of_the_groups():
    text = CliRunner().invoke(calculate_metrics.main, ["gen", "--help-all"]).stdout
    headings = ["Networks:", "Guidance:", "Sampling:", "Images:", "Scoring:", "Output:", "Computing:", "Workers:"]
    assert [line for line in text.splitlines() if line in headings or line == "Options:"] == headings
    pair = ["--guidance ", "--weight ", "--guidance-interval ", "--guidance-sigma "]
    assert sorted(pair, key=text.index) == pair


@click.command(cls=Command)
def talkative():
    say("begins")
    note("odd")
    detail("more")
    warn("wrong")
    with progress_bar(1, "images") as progress:
        progress(1)
    click.echo("42")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], ["begins", "note: odd", "warning: wrong"]),
        (["--verbose"], ["begins", "note: odd", "more", "warning: wrong"]),
        (["--verbose=false"], ["begins", "note: odd", "warning: wrong"]),
        (["--quiet"], ["warning: wrong"]),
    ],
)
def test_how_much_is_said(words, said):
    done = CliRunner().invoke(talkative, words)
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line]
    assert [line for line in lines if not line.startswith("images:")] == said
    assert any(line.startswith("images:") for line in lines) == ("--quiet" not in words)
    assert done.stdout == "42\n"


def test_quiet_holds_for_the_command_of_a_group_and_not_for_the_next_command():
    group = click.Group("group", commands={"talkative": talkative})
    program = type(calculate_metrics.main)("program", commands=group.commands)
    assert CliRunner().invoke(program, ["--quiet", "talkative"]).stderr == "warning: wrong\n"
    assert "begins" in CliRunner().invoke(program, ["talkative"]).stderr


def test_quiet_and_verbose_are_not_said_together():
    done = CliRunner().invoke(talkative, ["--quiet", "--verbose"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "Error: --quiet and --verbose say two things: leave one of them out\n"


def test_a_grid_says_one_line_before_it_begins(tiny_networks, tmp_path):
    networks = [f"--net={tiny_networks['cond']}", f"--gnet={tiny_networks['uncond']}"]
    words = [*networks, "--weights=0.5,1,2", "--classes=0,1", "--seeds=0-1", "--steps=2", "--overwrite"]
    said = CliRunner().invoke(generate_images.main, [*words, f"--grid={tmp_path}/a.png"])
    assert said.exit_code == 0, said.output
    before = said.stderr.split("\rimages")[0].splitlines()
    assert before == [
        "2 rows of 3 cells, 2 seeds; on cpu; network evaluations in all: 60",  # of a guided image 3 + 3
        "note: w = 0.5 moves towards the guide; w = 1 is off, w > 1 guides",
    ]
    told = CliRunner().invoke(generate_images.main, [*words, f"--grid={tmp_path}/a.png", "--verbose"])
    assert told.stderr.count("evaluations per image: 3 main + 3 guide 1 = 6") == 2


def test_a_weight_below_1_is_noted_where_1_is_off(tiny_networks, tmp_path):
    words = [f"--net={tiny_networks['cond']}", f"--gnet={tiny_networks['uncond']}", "--guidance=0.5", "--steps=2"]
    words += ["--sampler=euler", "--seeds=0", f"--outdir={tmp_path}/out"]
    assert "moves towards the guide" not in CliRunner().invoke(generate_images.main, [*words, "--weight=cfgpp"]).stderr
