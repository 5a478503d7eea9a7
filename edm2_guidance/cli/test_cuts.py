"""What `dnnlib.test_cuts` does to a command line, between its parsing and its work. No torch here."""

from typing import Any

import click

from dnnlib import test_cuts

#: The smallest training there is: snapshots are named by 1024 images, and attention needs whole heads.
_TRAINING = {
    **dict.fromkeys(("duration", "snapshot", "checkpoint", "status"), 1024),
    "batch": 512,
    "channels": 8,
    "channels_per_head": 8,
    "channel_mult": (1,),
    "num_blocks": 1,
}
_TOY_TRAINING = {"iterations": 2, "batch": 64}


def apply(context: click.Context) -> None:
    """Cut the parameters of the command that is about to run, and say so; nothing at all while the switch is off.

    A usage error for a value of the variable that is no number of images.
    """
    try:
        limit, notice = test_cuts.limit(), test_cuts.notice()
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if limit is None:
        return
    if context.parent is None:
        click.echo(f"warning: {notice}", err=True)
    params = context.params
    fixed = _TRAINING if "duration" in params else _TOY_TRAINING if "iterations" in params else {}
    if params.get("figs") is not None:
        fixed = {"steps": 2}  # pictures are many; their intervals follow the schedule
    for name, value in fixed.items():
        params[name] = value
        context.set_parameter_source(name, click.core.ParameterSource.COMMANDLINE)  # stronger than a preset
    for name, value in params.items():
        params[name] = _cut(name, value, limit, context.command.name)


def _cut(name: str, value: Any, limit: int, command: str | None) -> Any:
    if name == "num" and command in ("calc", "gen"):
        return limit if value is None else min(value, limit)  # None is the papers' 50,000
    if name == "num_images" and value is not None:
        return min(value, limit)
    if name == "seeds" and value is not None:
        return value[:limit]
    return value
