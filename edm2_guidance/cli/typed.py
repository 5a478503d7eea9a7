"""What the user typed, and errors of options that quote it as it was typed and say what to give instead.

One place for every option of every script: whatever its type refuses is told by `in_words`. Numbers are written in
digits; 50k, 1e4, 50,000 and 3.0 are answered with the digits to write.
"""

import difflib
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import click

from edm2_guidance.cli.say import note
from edm2_guidance.cli.spelling import WITHOUT_COUNTERPART

_ARGUMENTS = f"{__name__}.arguments"  # key in click's Context.meta
_FILES = f"{__name__}.files"  # likewise
_LONGEST = 100  # characters of a value that are shown
_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "ki": 2**10, "mi": 2**20}
_NUMBER = re.compile(
    r"([+-]?(?:\d[\d_',]*(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,2})?)\s*(k|m|ki|mi|)", re.IGNORECASE | re.ASCII
)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:[,_']\d{3})+(?:\.\d*)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


def either_spelling(token: str) -> str:
    """--sigma_max and --sigma-max are the same option, as are the choices fd_dinov2 and fd-dinov2."""
    return token.replace("_", "-")


def remember(ctx: click.Context, arguments: Sequence[str]) -> None:
    """Keep the command line of this context, before click parses it."""
    ctx.meta[_ARGUMENTS] = tuple(arguments)


def note_file(ctx: click.Context, option: click.Option, file: str) -> None:
    """Remember that an option's words stand in a file, which errors of its value are to name."""
    ctx.meta.setdefault(_FILES, {})[option] = file


def in_file(name: str) -> bool:
    """Whether what was given of this parameter of the current command stands in a file."""
    ctx = click.get_current_context()
    return any(option.name == name for option in ctx.meta.get(_FILES, {}))


def arguments() -> tuple[str, ...]:
    """The words of the current command's line, behind its name."""
    return tuple(click.get_current_context().meta.get(_ARGUMENTS, ()))


def occurrences(command: click.Command, arguments: Sequence[str]) -> Iterator[tuple[click.Option | None, list[str]]]:
    """Every option of a command line with its words, ["--a=1"] or ["--a", "1"]; every other word with None."""
    options = {
        either_spelling(name): each
        for each in command.params
        if isinstance(each, click.Option)
        for name in (*each.opts, *each.secondary_opts)
    }
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            yield from ((None, [each]) for each in (word, *rest))
            return
        name, equals, _ = word.partition("=")
        option = options.get(either_spelling(name))
        takes = option is not None and not option.is_flag and not equals
        yield option, [word, *itertools.islice(rest, 1 if takes else 0)]


def typed(name: str, ctx: click.Context | None = None) -> list[list[str]]:
    """The words of every occurrence of a parameter on the (current) command's line; none if it was not given."""
    ctx = ctx or click.get_current_context(silent=True)
    if ctx is None:
        return []
    return [
        words
        for option, words in occurrences(ctx.command, ctx.meta.get(_ARGUMENTS, ()))
        if option is not None and option.name == name
    ]


def spellings(name: str) -> set[str]:
    """By which of its names a parameter was given, in dashes: {"--uncond-pkl"} or {"--gnet"}."""
    return {either_spelling(words[0].partition("=")[0]) for words in typed(name)}


def values(name: str, ctx: click.Context | None = None) -> list[str]:
    """The texts that were given for a parameter."""
    return [value(words) for words in typed(name, ctx)]


def value(words: Sequence[str]) -> str:
    """The text that the words of an option give it."""
    return words[-1] if len(words) > 1 else words[0].partition("=")[2]


def given(name: str) -> bool:
    """Whether the user gave this parameter of the current command, rather than leaving it to its default."""
    ctx = click.get_current_context(silent=True)
    source = None if ctx is None else ctx.get_parameter_source(name)
    return source not in (None, click.core.ParameterSource.DEFAULT)


def quoted(name: str) -> str:
    """A parameter as it was typed first; its name if it was not."""
    found = typed(name)
    return " ".join(found[0]) if found else f"--{either_spelling(name)}"


def note_repeated(ctx: click.Context) -> None:
    """Say on stderr that the last of an option's different values counts: a script has defaults, and more follows."""
    seen: dict[str | None, list[str]] = {}
    for option, words in occurrences(ctx.command, ctx.meta.get(_ARGUMENTS, ())):
        if option is None and isinstance(ctx.command, click.Group):
            return  # what follows is the subcommand's
        if option is None or option.multiple:
            continue
        first = seen.setdefault(option.name, words)
        if words[0] != first[0] if option.secondary_opts else value(first) != value(words):
            note(f"{' '.join(first)} and {' '.join(words)}: the last counts")
            seen[option.name] = words


def check_finite(ctx: click.Context) -> None:
    """click.BadParameter for nan, and for an infinity where the default is none: click takes both for numbers."""
    for option in ctx.command.params:
        if not _is_float(option.type) or not typed(option.name or "", ctx):
            continue
        given = ctx.params.get(option.name or "")
        for number in given if isinstance(given, tuple) else (given,):
            if number is not None and not math.isfinite(number) and number != option.get_default(ctx):
                raise click.BadParameter("give a finite number", ctx, option)


def in_words(error: click.ClickException) -> str:
    """An error of the command line as one sentence. It begins with what was typed, if that is the trouble."""
    ctx = getattr(error, "ctx", None)
    file = None if ctx is None else ctx.meta.get(_FILES, {}).get(getattr(error, "param", None))
    return (f"{file}: " if file else "") + _in_words(error, ctx)


def _in_words(error: click.ClickException, ctx: click.Context | None) -> str:
    if ctx is None:
        return error.format_message()
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return _missing(error.param, ctx)
    if isinstance(error, click.BadParameter) and isinstance(error.param, click.Option):
        return _wrong_value(error, error.param, ctx) or error.format_message()
    if isinstance(error, click.NoSuchOption):
        name = _as_typed(error.option_name, ctx)
        if error.option_name in WITHOUT_COUNTERPART and _is_option("--schedule", ctx):
            return f"{name}: {WITHOUT_COUNTERPART[error.option_name]}"
        near = [f"-{name}"] if _is_option(f"-{name}", ctx) else error.possibilities
        return f"{name}: there is no such option; " + (f"near it: {', '.join(near)}" if near else "--help lists them")
    if isinstance(error, click.BadOptionUsage):
        return _wrong_usage(error, ctx)
    extra = re.fullmatch(r"Got unexpected extra arguments? \((.*)\)", error.format_message())
    return f"{extra[1]}: stands there without an option; --help lists them" if extra else error.format_message()


def _missing(param: click.Parameter, ctx: click.Context) -> str:
    """What to give for an option or an argument, in the words of the help page and of the first example there."""
    metavar, command = param.make_metavar(ctx), ctx.command
    if not isinstance(param, click.Option):
        pieces = (each for each in command.collect_usage_pieces(ctx) if each != command.options_metavar)
        return f"{metavar} is missing: write {' '.join([ctx.info_name or '', *pieces])} (--help tells more)"
    name, pages = param.opts[0], "\n".join([*_lines_about(ctx), command.help or ""])
    found = re.search(rf"(?<!\S){re.escape(name)}=[^\s\\]*\w", pages)
    example = f", such as {found[0]}" if found else ""
    return f"{name} is missing: give {name}={metavar} ({param.help}){example}"


def _lines_about(ctx: click.Context) -> list[str]:
    """The examples of a subcommand on the page of its group."""
    page = "" if ctx.parent is None else ctx.parent.command.help or ""
    return [line for line in page.replace("\\\n", "").splitlines() if f" {ctx.info_name} " in line]


def _as_typed(name: str, ctx: click.Context) -> str:
    """An option's name as it stands on the command line: click has it in dashes, and of -seeds the first letter."""
    for each in (word.partition("=")[0] for word in ctx.meta.get(_ARGUMENTS, ())):
        if either_spelling(each) == either_spelling(name) or (len(name) == 2 and each.startswith(name)):
            return str(each)
    return name


def _is_option(name: str, ctx: click.Context) -> bool:
    return any(either_spelling(name) in map(either_spelling, option.opts) for option in ctx.command.params)


def _wrong_usage(error: click.BadOptionUsage, ctx: click.Context) -> str:
    """A switch with a value, or an option without one."""
    for option, words in occurrences(ctx.command, ctx.meta.get(_ARGUMENTS, ())):
        name, equals, _ = words[0].partition("=")
        if option is None or either_spelling(name) != either_spelling(error.option_name):
            continue
        if equals and option.is_flag:
            return f"{words[0]}: this is a switch: write {name}, or leave it out"
        if len(words) == 1 and not option.is_flag:
            return f"{name}: give a value, {name}={option.metavar or option.type.name.upper()}"
    return error.format_message()


def _wrong_value(error: click.BadParameter, option: click.Option, ctx: click.Context) -> str | None:
    for words, text in zip(typed(option.name or "", ctx), values(option.name or "", ctx), strict=True):
        if _converts(option, text, ctx) and not (_is_float(option.type) and not math.isfinite(float(text))):
            continue
        shown = words[0] if len(words) == 1 else " ".join(words)
        if len(shown) > _LONGEST:
            shown = f"{shown[:_LONGEST]}..."
        return f"{shown}: {_advice(option, text, ctx) or error.message}"
    return None


def _converts(option: click.Option, text: str, ctx: click.Context) -> bool:
    try:
        option.type.convert(text, option, ctx)
    except click.BadParameter:
        return False
    return True


def _advice(option: click.Option, text: str, ctx: click.Context) -> str | None:
    """What to give for an option of one of click's types, which know no more than that a text is wrong; else None."""
    kind = option.type
    if isinstance(kind, click.Choice):
        near = difflib.get_close_matches(text, kind.choices, n=1)
        return f"give one of {', '.join(kind.choices)}" + (f"; nearest is {near[0]}" if near else "")
    if kind is click.BOOL:
        return "give true or false"
    whole = kind is click.INT or isinstance(kind, click.IntRange)
    if not whole and not _is_float(kind):
        return None
    quality = "whole " if whole else "" if any(map(str.isdigit, text)) else "finite "
    advice = f"give a {quality}number{_range(kind)}{' or auto' if hasattr(kind, 'or_auto') else ''}"
    digits = plain_number(text)
    meant = digits is not None and digits != text and _converts(option, digits, ctx)
    return f"{advice}, in digits: {digits}" if meant else advice


def _is_float(kind: "click.ParamType[Any]") -> bool:
    return kind is click.FLOAT or isinstance(kind, click.FloatRange)


def _range(kind: "click.ParamType[Any]") -> str:
    """The range of a click.IntRange or FloatRange in words."""
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    if low is None and high is None:
        return ""
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if high is not None:
        return f" of at most {high}"
    return f" above {low}" if getattr(kind, "min_open", False) else f" of at least {low}"


def plain_number(text: str) -> str | None:
    """The digits of a number that is written in another way: 50k, 8Mi, 1e4, 50,000, 50_000, 3.0 or 1,5; else None."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    number = match[1]
    if _DECIMAL_COMMA.fullmatch(number) and not _THOUSANDS.fullmatch(number):
        number = number.replace(",", ".")
    elif re.search("[,_']", number):
        if not _THOUSANDS.fullmatch(number):
            return None
        number = re.sub("[,_']", "", number)
    value = Decimal(number) * _SUFFIXES[match[2].lower()]
    plain = f"{value:f}"
    return plain.rstrip("0").rstrip(".") if "." in plain else plain
