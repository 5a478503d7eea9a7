"""Options of a command line as frozen dataclasses: each option is declared once, as a field with its type.

    class SampleOptions(OptionGroup):
        networks: NetworkOptions
        seed: int = option("First seed", type=click.IntRange(min=0), default=0)

An option is spelt as its field, in dashes; `cli/spelling.py` has what else is accepted for it. A group may have a
heading, under which --help shows its options; of many it shows those that are declared with first=True.

    @click.command(cls=Command)
    @takes_options
    def main(asked: SampleOptions) -> None: ...

This is where click's parameters, which may be anything, become typed; behind it nobody asks for an option by its name.
"""

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self, dataclass_transform, get_args, get_origin, get_type_hints

import click

from edm2_guidance.cli.spelling import spellings

COUNT = click.IntRange(min=1)
_METAVARS = {
    click.types.IntParamType: "INT",
    click.types.FloatParamType: "FLOAT",
    click.types.BoolParamType: "BOOL",
}
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
#: What `option` gives. As that of dataclasses.field it has the type of the annotation that it stands beside.
Field = Any
#: The spelling of an option, or None for its parameter's; settings of click.option. Defaults are shown.
Declared = tuple[str | None, Mapping[str, Any]]


class Option(click.Option):
    """click.Option that help shows by its first spelling alone, under a heading.

    first: one of those that help shows where a command has many.
    """

    def __init__(self, *args: Any, heading: str = "", first: bool = False, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.heading, self.first = heading, first

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        shown = copy.copy(self)
        shown.opts = self.opts[:1]
        return super(Option, shown).get_help_record(ctx)


def option(help: str, name: str | None = None, **settings: Any) -> Field:
    """A field that is an option, as `Declared`. Numbers and BOOL need no metavar, a Literal no type.

    Among the settings may be those of `Option`; its heading is that of the group, unless it is given.
    """
    metavar = next((text for kind, text in _METAVARS.items() if isinstance(settings.get("type"), kind)), None)
    return dataclasses.field(metadata={"option": (name, {"metavar": metavar, "help": help, **settings})})


def flag(help: str, name: str | None = None, **settings: Any) -> Field:
    """A field that is a switch, False unless it is given."""
    return option(help, name, is_flag=True, **settings)


def several_options(declared: Mapping[str, Declared]) -> Field:
    """A field that is a dict of options, by the names of their parameters: for those that a catalogue declares."""
    return dataclasses.field(metadata={"several": declared})


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(option, flag, several_options))
class OptionGroup:
    """Base of groups of options: frozen dataclasses whose fields are made by `option`, or are groups themselves."""

    heading: ClassVar[str] = ""

    def __init_subclass__(cls, heading: str = "") -> None:
        """heading: of the options that are declared here; those of a class that it derives from keep theirs."""
        cls.heading = heading
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """The group, out of click's parameters."""
        values = {}
        for name, (hint, more) in _fields(cls).items():
            if "several" in more:
                values[name] = {each: params[each] for each in more["several"]}
            else:
                values[name] = hint.of(params) if _is_group(hint) else params[name]
        return cls(**values)

    @classmethod
    def defaults(cls) -> Self:
        """What a command line says that gives none of these options."""
        return cls.of(click.command("")(_decorated(lambda: None, cls.declared())).make_context("", []).params)

    @classmethod
    def declared(cls) -> list[Decorator]:
        """The options, in the order of the fields."""
        found: list[Decorator] = []
        for name, (hint, more) in _fields(cls).items():
            heading = next(each.heading for each in _bases(cls) if name in inspect.get_annotations(each))
            if _is_group(hint):
                found += hint.declared()
            elif "several" in more:
                several = more["several"].items()
                found += [_click_option(each, None, heading, *declared) for each, declared in several]
            else:
                found.append(_click_option(name, _choice(hint), heading, *more["option"]))
        return found


def takes_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that gets each of its arguments that is annotated with an OptionGroup; the others come from click."""
    groups = {name: hint for name, hint in get_type_hints(command).items() if _is_group(hint)}
    own = inspect.signature(command).parameters.keys() - groups.keys()

    @functools.wraps(command)
    def call(*args: Any, **params: Any) -> Any:
        others = {name: params[name] for name in own & params.keys()}
        return command(*args, **others, **{name: group.of(params) for name, group in groups.items()})

    return _decorated(call, [each for group in groups.values() for each in group.declared()])


def _decorated(command: Callable[..., Any], decorators: list[Decorator]) -> Callable[..., Any]:
    for each in reversed(decorators):
        command = each(command)
    return command


def _click_option(
    field: str, kind: "click.Choice[str] | None", heading: str, name: str | None, settings: Mapping[str, Any]
) -> Decorator:
    usual = {"type": kind, "show_default": settings.get("default") is not None, "heading": heading}
    return click.option(*spellings(field, name), field, cls=Option, **{**usual, **settings})


def _fields(group: type[OptionGroup]) -> dict[str, tuple[Any, Mapping[str, Any]]]:
    """Annotation and metadata of each field."""
    assert dataclasses.is_dataclass(group)
    hints = get_type_hints(group)
    return {each.name: (hints[each.name], each.metadata) for each in dataclasses.fields(group)}


def _bases(group: type[OptionGroup]) -> list[type[OptionGroup]]:
    """The group, and those that it derives from."""
    return [each for each in group.__mro__ if issubclass(each, OptionGroup)]


def _is_group(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, OptionGroup)


def _choice(hint: Any) -> "click.Choice[str] | None":
    """One of the texts of a Literal, or of `Literal | None`; None for others: click asks the default for its type."""
    literals = [each for each in (hint, *get_args(hint)) if get_origin(each) is Literal]
    return click.Choice(get_args(literals[0])) if literals else None
