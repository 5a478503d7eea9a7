"""Options as fields of dataclasses: one declaration gives the option, its place on the help page, type and default."""

import dataclasses
from typing import Literal

import click
import pytest
from click.testing import CliRunner

from edm2_guidance.cli.command import Command
from edm2_guidance.cli.lists import IntList
from edm2_guidance.cli.option_group import COUNT, OptionGroup, flag, option, several_options, takes_options


class Inner(OptionGroup):
    colour: Literal["red", "green"] | None = option("Of it")
    numbers: list[int] = option("Which", "--num-images", type=IntList(), default="0-2")


class Outer(OptionGroup, heading="Size"):
    size: int = option("How many", type=COUNT, default=3)
    inner: Inner
    more: dict[str, float] = several_options({"S_max": ("--S_max", {"type": float, "default": 1.5, "help": "Most"})})
    dry_run: bool = flag("Do nothing")


@pytest.fixture
def run():
    seen = []

    @click.command(cls=Command)
    @click.argument("names", nargs=-1)
    @takes_options
    @click.option("--last", default="z")
    def command(names, outer: Outer, last: str):
        seen.append((names, outer, last))

    def run(*words):
        seen.clear()
        done = CliRunner().invoke(command, words)
        return seen[0] if done.exit_code == 0 and seen else done

    return run


def test_a_command_gets_its_groups_and_the_rest_from_click(run):
    usual = Outer(size=3, inner=Inner(colour=None, numbers=[0, 1, 2]), more={"S_max": 1.5}, dry_run=False)
    assert run() == ((), usual, "z")
    assert Outer.defaults() == usual
    names, outer, last = run("a", "--size=2", "--num", "4", "--colour=green", "--S_max=2", "--dry-run")
    assert (names, last) == (("a",), "z")
    assert outer == Outer(size=2, inner=Inner(colour="green", numbers=[4]), more={"S_max": 2.0}, dry_run=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        outer.size = 4


def test_help_has_headings_and_the_order_of_the_fields(run):
    text = run("--help").stdout
    order = ["Size:", "--size INT", "--S_max FLOAT", "--dry-run"]
    order += ["Options:", "--colour [red|green]", "--num-images LIST", "--last TEXT"]
    assert sorted(order, key=text.index) == order
    assert "How many  [default: 3; x>=1]" in text


@pytest.mark.parametrize("words", ["--size=0", "--colour=blue", "--num=x"])
def test_what_does_not_fit_is_refused(run, words):
    assert run(words).exit_code == 2
