"""Types of the options of `train_edm2.py`, and presets applied to them. No torch here."""

import re
from typing import Any

import click

from edm2_guidance.cli.param_type import ParamType
from edm2_guidance.cli.typed import plain_number
from edm2_guidance.papers.train_presets import find_train_preset

_UNITS = {"": 1, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


class ImageCount(ParamType):
    """A number of images, such as 4096, 128Ki (x 1024), 8Mi (x 1024^2) or 1Gi (x 1024^3)."""

    name = "nimg"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+)(|ki|mi|gi)", str(value).strip().lower())
        if match is None:
            digits = plain_number(str(value))
            meant = f"; {value} is {digits}" if digits is not None and digits.isdigit() else ""
            self.fail(f"give a number of images, such as 4096, 128Ki, 8Mi or 1Gi{meant}", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


class Numbers(ParamType):
    """Comma-separated numbers of one kind, as a tuple; 'none' is the empty one."""

    name = "list"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        if str(value).strip().lower() == "none":
            return ()
        try:
            return tuple(self.kind(part) for part in str(value).split(","))
        except ValueError:
            kind = "whole numbers" if self.kind is int else "numbers"
            self.fail(f"give {kind}, such as 1,2, or none", param, ctx)


def apply_preset(preset: str, context: click.Context, params: dict[str, Any]) -> dict[str, Any]:
    """`params` with the preset's values in place of what the command line left out (defaults included).

    Raises ValueError for an unknown preset.
    """
    settings = find_train_preset(preset)
    options = {option.name: option for option in context.command.params}
    merged = dict(params)
    for name, text in settings.items():
        if context.get_parameter_source(name) is click.core.ParameterSource.DEFAULT:
            merged[name] = options[name].type_cast_value(context, text)
    return {name: value for name, value in merged.items() if value is not None}


def image_count_text(count: int) -> str:
    """The shortest exact spelling of a count: 131072 is 128Ki."""
    for unit in ("Gi", "Mi", "Ki"):
        if count and count % _UNITS[unit.lower()] == 0:
            return f"{count // _UNITS[unit.lower()]}{unit}"
    return str(count)
