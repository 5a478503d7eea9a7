"""Every option of the reference repositories' scripts; their documented command lines run in `tests/commands`."""

import csv
import importlib
from pathlib import Path

import click
import pytest

DATA = Path(__file__).parents[1] / "data"


def command(script, subcommand=""):
    main = importlib.import_module(f"edm2_guidance.commands.{Path(script).stem}").main
    return main.commands[subcommand] if subcommand else main


def reference_options():
    with open(DATA / "reference_options.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["option"].startswith("-"):  # count_flops.py has an argument
                yield row


@pytest.mark.parametrize(
    "row", list(reference_options()), ids=lambda row: f"{row['script']} {row['subcommand']} {row['option']}"
)
def test_every_option_is_there_with_its_default(row):
    names = {name.replace("_", "-") for name in row["option"].split()}
    found = [
        parameter
        for parameter in command(row["script"], row["subcommand"]).params
        if names <= {name.replace("_", "-") for name in parameter.opts}
    ]
    assert found, f"{row['option']} of {row['script']} {row['subcommand']}"
    (parameter,) = found
    context = click.Context(command(row["script"], row["subcommand"]))
    ours = parameter.get_default(context)
    plain = isinstance(ours, str | int | float | bool | list) and not parameter.multiple
    if row["required"] or row["default"] in ("", "None") or not plain:
        return  # what an absent option means is tested where its meaning is
    assert parameter.type_cast_value(context, ours) == parameter.type_cast_value(context, row["default"])
