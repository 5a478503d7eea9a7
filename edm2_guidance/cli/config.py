"""--config=FILE.toml: options of a command line out of a file, a table per command. No torch here.

    [generate_zip]
    preset = "mnist16-autog"
    num_images = 1000

    [calculate_metrics.gen]
    metrics = ["fd_mnist", "kid/mnist"]

They stand before the options that are typed, and give way to them. Nothing out of a file switches on trust: neither
`trust_pickle` nor FILE.py:function, whose code would run.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dnnlib.places import near
from dnnlib.regular import read_regular
from edm2_guidance.cli import typed
from edm2_guidance.cli.help_page import SHARED
from edm2_guidance.cli.option_group import Option
from edm2_guidance.cli.typed import either_spelling

CONFIG = Option(
    ["--config"],
    metavar="TOML",
    expose_value=False,
    help="Options, in a table [COMMAND] of this file; those typed win",
    heading=SHARED,
)
MAX_BYTES = 1 << 20
_FILE = f"{__name__}.file"  # key in click's Context.meta
_CODE = re.compile(r"\.py(?![\w.-])")
_COMMANDS = Path(__file__).parents[1] / "commands"


def with_config(ctx: click.Context, arguments: Sequence[str]) -> list[str]:
    """The command line, and before it what its --config, or its group's, says that it does not.

    Raises OSError or ValueError, naming the file, for one that cannot be read, or says what the command does not know.
    """
    own = list(_options(ctx.command, arguments))
    for option, words in own:
        if option is CONFIG:
            ctx.meta[_FILE] = typed.value(words)
    file = ctx.meta.get(_FILE)
    if file is None or ctx.resilient_parsing:
        return list(arguments)
    given = {option.name for option, _ in own}
    before = []
    for name, content in _table(ctx, file, _read(file)).items():
        where = f"{file}: {name}"
        option = _option(ctx.command, name, where)
        if option.name not in given:
            before += _words(option, name, content, where)
            typed.note_file(ctx, option, file)
    return [*before, *arguments]


def _options(command: click.Command, arguments: Sequence[str]) -> Iterator[tuple[click.Option, list[str]]]:
    """The options on the line with their words; of a group those before its command."""
    for option, words in typed.occurrences(command, arguments):
        if option is not None:
            yield option, words
        elif isinstance(command, click.Group):
            return


def _read(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(read_regular(Path(file).expanduser(), MAX_BYTES).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: save it as UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is not valid TOML: {error}") from error


def _table(ctx: click.Context, file: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the file has for this command; tables of other commands are passed over."""
    known: Iterable[str] = (path.stem for path in _COMMANDS.glob("[!_]*.py"))
    for level, (name, command) in enumerate(_chain(ctx)):
        tables = _tables(content, known, file, options=level > 0)
        own = [table for each, table in tables.items() if _same(each, name)]
        content = {key: value for table in own for key, value in table.items()}  # of either spelling
        known = command.commands if isinstance(command, click.Group) else ()
    tables = _tables(content, known, file, options=True)
    return {name: value for name, value in content.items() if name not in tables}


def _same(name: str, other: str) -> bool:
    return either_spelling(name) == either_spelling(other)


def _chain(ctx: click.Context) -> list[tuple[str, click.Command]]:
    """The program, by the name of its page, and its command, if it has some."""
    above = [] if ctx.parent is None else _chain(ctx.parent)
    page = str(getattr(ctx.command.callback, "__module__", "")).rpartition(".")[2]
    return [*above, (page if ctx.parent is None else str(ctx.command.name), ctx.command)]


def _tables(content: Mapping[str, Any], known: Iterable[str], file: str, *, options: bool = False) -> dict[str, Any]:
    """The tables in a table, all of which must be of known commands. options: whether there may be others beside."""
    names = {either_spelling(name): name for name in known}
    for name, value in content.items():
        if not isinstance(value, dict) and not options:
            raise ValueError(f"{file}: {name} is in no command's table: write [COMMAND], such as [generate_zip], above")
        if isinstance(value, dict) and either_spelling(name) not in names:
            raise ValueError(f"{file}: there is no command {name}{near(name, names.values())}")
    return {name: value for name, value in content.items() if isinstance(value, dict)}


def _option(command: click.Command, name: str, where: str) -> click.Option:
    """The option of this name, without dashes, in either spelling."""
    named = {
        either_spelling(spelling.lstrip("-")): each
        for each in command.params
        if isinstance(each, click.Option) and each is not CONFIG
        for spelling in each.opts
    }
    found = named.get(either_spelling(name))
    if found is None:
        raise ValueError(f"{where}: there is no such option{near(either_spelling(name), named)}")
    if found.name == "trust_pickle":
        raise ValueError(f"{where}: a file cannot switch on trust: add --trust-pickle to the command line")
    return found


def _words(option: click.Option, name: str, value: Any, where: str) -> list[str]:
    """The option as it would be typed; nothing for a switch that is off."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise ValueError(f"{where}: this is a switch: write true or false")
        return [f"--{name}"] if value else []
    values = value if option.multiple and isinstance(value, list) else [value]
    words = [f"--{name}={_text(each, where)}" for each in values]
    for word in filter(_CODE.search, words):
        raise ValueError(f"{where}: a file runs no code: add {word} to the command line")
    return words


def _text(value: Any, where: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list):
        return ",".join(_text(each, where) for each in value)
    raise ValueError(f"{where}: expected a text, a number, true, false or a list; put quotes around what is typed")
