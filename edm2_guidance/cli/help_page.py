"""--help: the options that matter first, under headings; --help-all: every option. No torch here."""

from collections.abc import Callable, Iterator
from typing import Any

import click

from edm2_guidance.cli.option_group import Option

FEW = 14  # of a command with no more options --help shows all
_ALL = f"{__name__}.all"  # key in click's Context.meta
SHARED = "Every command"


def shared(name: str, help: str, callback: Callable[[click.Context, click.Parameter, bool], None]) -> Option:
    """A switch of every command. callback: gets (context, parameter, whether it was given) before the other options."""
    declared: dict[str, Any] = {"is_flag": True, "is_eager": True, "expose_value": False, "heading": SHARED}
    return Option([name], help=help, callback=callback, **declared)


def _tell_all(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help())
        ctx.exit()


HELP_ALL = shared("--help-all", "Show every option and exit", _tell_all)


def write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """The options of a command, by headings in the order in which the first of each is declared."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for option, record in _shown(command, ctx):
        sections.setdefault(_heading(option) or "Options", []).append(record)
    for heading, records in sections.items():
        with formatter.section(heading):
            formatter.write_dl(records)


def write_rest(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """The last line, which says where the rest is."""
    if _ALL not in ctx.meta:
        left = len(_records(command, ctx)) - len(list(_shown(command, ctx)))
        formatter.write(f"\n--help-all shows {left} more options\n")


def _shown(command: click.Command, ctx: click.Context) -> Iterator[tuple[click.Option, tuple[str, str]]]:
    everything = _records(command, ctx)
    own = [each for each, _ in everything if _heading(each) != SHARED]
    for option, record in everything:
        first = option.required or getattr(option, "first", False) or (len(own) <= FEW and option in own)
        if _ALL in ctx.meta or first:
            yield option, record


def _records(command: click.Command, ctx: click.Context) -> list[tuple[click.Option, tuple[str, str]]]:
    """Every option that is not hidden, as help shows it."""
    options = (each for each in command.get_params(ctx) if isinstance(each, click.Option))
    found = ((each, each.get_help_record(ctx)) for each in options)
    return [(option, record) for option, record in found if record is not None]


def _heading(option: click.Option) -> str:
    """Of click's own option, --help, that of what all commands share."""
    return getattr(option, "heading", SHARED if "--help" in option.opts else "")
