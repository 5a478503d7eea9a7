"""The base of the types of options, whose values click gives as anything."""

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]  # newer versions of click alone can be asked for its parameter when they run
else:
    ParamType = click.ParamType
