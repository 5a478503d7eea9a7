"""Options made of specs: their help, ranges and defaults stand in the specs alone. No torch here."""

import dataclasses
import math
import re
from functools import partial

import click

from edm2_guidance.cli.option_group import Declared, Field, option
from edm2_guidance.cli.param_type import ParamType, show_if_list
from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.spec import About, Spec, listing


class Kind(ParamType):
    """A spec of an axis, in its text form; `list` prints what there is, and ends."""

    name = "kind[:field=value]..."

    def __init__(self, axis: str) -> None:
        self.axis = axis

    def parse(self, text: str) -> Spec:
        show_if_list(text, partial(listing, self.axis))
        if self.axis == "weight" and re.search(r":w=\+?1(\.0*)?(:|$)", text):
            raise ValueError("w=1 is off: give --guidance=1, or leave the guide out")
        try:
            spec: Spec = catalog.find(self.axis, text.split(":")[0]).parse(text)
        except ValueError as error:
            shows = f"--{self.axis}=list shows which"
            raise ValueError(f"{error}; give KIND or KIND:FIELD=VALUE:FIELD=VALUE, {shows}") from None
        return spec


def kind_option(axis: str, default: str | None, help: str, *, multiple: bool = False) -> Field:
    """The option that chooses a kind of an axis, with its fields: --sampler=heun:S_churn=40. A field of a group."""
    about = f"{help}; list = which there are"
    return option(about, f"--{axis}", type=Kind(axis), default=default, multiple=multiple)


def field_names(axis: str, kind: str) -> list[str]:
    """The fields of a kind."""
    return [each.name for each in dataclasses.fields(catalog.find(axis, kind))]


def field_options(axis: str, kind: str) -> dict[str, Declared]:
    """An option for every field of a kind, all of them numbers: --rho=7."""
    usual = catalog.find(axis, kind)()
    return {
        each.name: _number_option(f"--{each.name}", each.metadata["about"], getattr(usual, each.name))
        for each in dataclasses.fields(usual)
    }


def _number_option(name: str, about: About, default: float) -> Declared:
    low = max(about.low, about.above)
    numbers = click.FLOAT if low == -math.inf else click.FloatRange(min=low, min_open=about.above == low)
    shown = int(default) if default.is_integer() else default
    return (name,), {"metavar": "FLOAT", "type": numbers, "default": shown, "help": about.help}
