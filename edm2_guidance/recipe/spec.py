"""What a user can choose: small frozen dataclasses of a kind, with one text form and one canonical form.

    euler     heun:S_churn=40     kid:size=100:subsets=50     precision:adm

    spec = kind (":" (field "=" value | word))*

A word alone is a choice of the field that has it, a flag, or a variant: several fields at once, as some evaluator has
them. Fields given beside a variant win. A value holds no ":" or ","; lists inside a value are
joined by "+", lists of specs by ",". Nothing needs quoting in a shell. The same text stands on the command line, in
JSON, captions and reports.

What is hashed is the canonical form: the kind, and the fields that differ from their default. So a new field with a
default leaves every hash as it was, and a default, once published, never changes.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import types
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from edm2_guidance.recipe import catalog


@dataclass(frozen=True)
class About:
    """What is said about a field, once: help text and unit, and the numbers it takes (`above` excludes its end).

    endless: whether infinity is one of them.
    """

    help: str
    unit: str = ""
    low: float = -math.inf
    above: float = -math.inf
    high: float = math.inf
    endless: bool = False

    def check(self, name: str, value: float) -> None:
        """ValueError for a number outside of the range, or that is not a number."""
        if math.isnan(value) or not (
            self.low <= value <= self.high and (self.above < value or self.above == -math.inf)
        ):
            raise ValueError(f"{name}={number_text(value)}: {self.range}")
        if math.isinf(value) and not self.endless:
            raise ValueError(f"{name}={number_text(value)}: must be finite")

    @property
    def range(self) -> str:
        """The numbers that the field takes, in words."""
        bounds = [("at least", self.low, -math.inf), ("above", self.above, -math.inf), ("at most", self.high, math.inf)]
        said = [f"{word} {number_text(bound)}" for word, bound, none in bounds if bound != none]
        return f"must be {' and '.join(said)}" if said else "must be a number"


def option(default: Any, help: str, **about: Any) -> Any:
    """A field of a spec: its default, and what `About` says of it; endless, if its default is."""
    about.setdefault("endless", default == math.inf)
    return field(default=default, metadata={"about": About(help, **about)})


@dataclass(frozen=True)
class Spec(ABC):
    """Base of all kinds. An axis is what is chosen (a sampler, a measure); its kinds are the ways to choose.

    Subclasses are frozen dataclasses whose fields, made by `option`, are numbers, texts of a Literal, flags or tuples
    of these, all with defaults. ValueError for values outside of a field's range, and whatever `check` refuses.

    Attributes:
        axis: What is chosen; a key of the catalogue.
        kind: The name of the way.
        source: Where it is from, such as "arXiv 2206.00364, Algorithm 2".
        formula: What it computes, in plain text; the letters are explained in docs/gallery/index.md.
        variants: Fields by the name under which they may be chosen together. As with defaults, once published, they
            never change.
    """

    axis: ClassVar[str]
    kind: ClassVar[str] = ""
    source: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = types.MappingProxyType({})

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = coerced(each.name, getattr(self, each.name), _hints(type(self))[each.name])
            object.__setattr__(self, each.name, value)
            about = each.metadata.get("about")
            if about is not None and isinstance(value, float | int) and not isinstance(value, bool):
                about.check(f"{self.kind}: {each.name}", value)
        self.check()

    def check(self) -> None:  # noqa: B027 - most kinds have nothing to add
        """ValueError for fields that contradict each other."""

    def check_here(self) -> None:  # noqa: B027 - likewise
        """ValueError if this process cannot do what it says, or would do something else by now."""

    @property
    def caption(self) -> str:
        """What captions and announcements say of it."""
        return str(self)

    @property
    def flag(self) -> str:
        """What is given for it on a command line."""
        return str(self)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The spec that a text stands for; asked of an axis, such as `Sampler.parse("heun:S_churn=40")`.

        ValueError for a kind or a field that is not there, naming near ones, and for a value that does not fit.
        """
        kind, *parts = text.strip().split(":")
        found = catalog.find(cls.axis, kind)
        if not issubclass(found, cls):
            raise ValueError(f"'{kind}' is no {cls.kind or cls.axis}")
        named = [part for part in parts if part in found.variants]
        if len(named) > 1:
            raise ValueError(f"{text}: {named[0]} and {named[1]} are variants, and one may be given")
        given: dict[str, Any] = {}
        for part in parts:
            if part in named:
                continue
            name, value = _read(found, part)
            if name in given:
                raise ValueError(f"{text}: {name} is given twice")
            given[name] = value
        variant = found.variants[named[0]] if named else {}
        return found(**{**variant, **given})

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their default."""
        values = {each.name: (getattr(self, each.name), each.default) for each in dataclasses.fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    def with_fields(self, values: Mapping[str, Any]) -> Self:
        """This spec with other values. ValueError naming a field that it lacks."""
        for name in values:
            _field(type(self), name)
        return dataclasses.replace(self, **values)

    def __str__(self) -> str:
        """The text of this spec: the name of the variant that it is exactly, or the fields that are changed."""
        named = [name for name, fields in self.variants.items() if fields and type(self)(**fields) == self]
        return ":".join([self.kind, *(named[:1] or self._field_texts())])

    def _field_texts(self) -> list[str]:
        hints = _hints(type(self))
        return [_written(name, value, hints[name]) for name, value in self.changed().items()]


def canonical(value: Any) -> Any:
    """Plain JSON data in which equal choices are equal; of a spec its kind and what differs from the defaults."""
    if isinstance(value, Spec):
        return {"kind": value.kind, **{name: canonical(each) for name, each in value.changed().items()}}
    if isinstance(value, tuple | list):
        return [canonical(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): canonical(each) for key, each in value.items()}
    if isinstance(value, float) and math.isinf(value):
        return number_text(value)
    return value


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical form."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def listing(axis: str) -> str:
    """The kinds of an axis, a paragraph each: what it is, where it is from, its fields with defaults."""
    lines = []
    for kind in catalog.kinds(axis):
        found = catalog.find(axis, kind)
        what = (found.__doc__ or "").strip().splitlines()[0]
        lines.append(f"{kind:<12} {what}" + (f" [{found.source}]" if found.source else ""))
        lines += [f"    {text}" for text in fields_of(found)]
    return "\n".join([*lines, "With fields of your own: KIND:FIELD=VALUE, several as KIND:FIELD=VALUE:FIELD=VALUE"])


def fields_of(kind: type[Spec]) -> list[str]:
    """What a kind takes, a line for each field (how to write it, what it is, its default) and for each variant."""
    fields = [_field_text(kind, each) for each in dataclasses.fields(kind) if "about" in each.metadata]
    for name, values in kind.variants.items():
        fields.append(f"{name}  for {':'.join(kind(**values)._field_texts()) or 'the defaults'}")
    return fields


def number_text(value: float) -> str:
    """A number in as few characters as say it exactly: 40, 0.5, inf."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else f"{value!r}"


_hints: Callable[[Any], dict[str, Any]] = functools.cache(get_type_hints)  # types of the fields by name


def _field_text(kind: type[Spec], each: Any) -> str:
    about = each.metadata["about"]
    choices = _choices(_hints(kind)[each.name])
    shown = "|".join(choices) if choices else (f"{each.name}=" + (about.unit or "VALUE").upper())
    return f"{shown}  {about.help}  [default: {text_of(each.default) or 'none'}]"


def _choices(hint: Any) -> tuple[str, ...]:
    return get_args(hint) if get_origin(hint) is Literal else ()


def _field(kind: type[Spec], name: str) -> str:
    """The name of a field, '-' and '_' alike. ValueError if there is none."""
    known = [each.name for each in dataclasses.fields(kind)]
    wanted = name.replace("-", "_")
    if wanted in known:
        return wanted
    near = difflib.get_close_matches(wanted, known, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"{kind.kind} has no '{name}'{meant}; it takes {', '.join(known) or 'nothing'}")


def _read(kind: type[Spec], part: str) -> tuple[str, Any]:
    """Field and value of one part of a text."""
    name, equals, text = part.partition("=")
    hints = _hints(kind)
    if not equals:
        for each in dataclasses.fields(kind):
            if part in _choices(hints[each.name]):
                return each.name, part
            if hints[each.name] is bool and part.replace("-", "_") == each.name:
                return each.name, True
        raise ValueError(f"{kind.kind}: write {_field(kind, part)}=VALUE")
    name = _field(kind, name)
    return name, value_of(f"{kind.kind}: {name}", text, hints[name])


def value_of(name: str, text: str, hint: Any) -> Any:
    """The value that a text stands for, of a type. ValueError, naming the field, for a text of none."""
    if get_origin(hint) in (Union, types.UnionType):
        return (
            None
            if text == "none"
            else value_of(name, text, next(arg for arg in get_args(hint) if arg is not type(None)))
        )
    if get_origin(hint) is tuple:
        return tuple(value_of(name, part, get_args(hint)[0]) for part in (text.split("+") if text else ()))
    if hint is bool:
        return coerced(name, {"true": True, "yes": True, "false": False, "no": False}.get(text.lower(), text), hint)
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise ValueError(f"{name}={text}: '{text}' is not {'an integer' if hint is int else 'a number'}") from None
    return text


def coerced(name: str, value: Any, hint: Any) -> Any:
    """The value as the type wants it: 2 and 2.0 are the same recipe. ValueError if it is of another type."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = next(arg for arg in get_args(hint) if arg is not type(None))
        return None if value is None else coerced(name, value, inner)
    if get_origin(hint) is tuple and isinstance(value, tuple | list):
        return tuple(coerced(name, each, get_args(hint)[0]) for each in value)
    if hint in (int, float) and isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool):
        return hint(value)  # NumPy's as well
    choices = _choices(hint)
    if choices and value not in choices:
        raise ValueError(f"{name}={value}: one of {', '.join(map(str, choices))}")
    if hint is int or (hint is bool and not isinstance(value, bool)):
        raise ValueError(f"{name}={value}: not {'an integer' if hint is int else 'true or false'}")
    if hint is float:
        raise ValueError(f"{name}={value}: not a number")
    return value


def text_of(value: Any) -> str:
    """A value of a field in the text of a spec."""
    if isinstance(value, tuple):
        return "+".join(text_of(each).replace("e+", "e") for each in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return number_text(value) if isinstance(value, float) else str(value)


def _written(name: str, value: Any, hint: Any) -> str:
    return text_of(value) if _choices(hint) else name if value is True else f"{name}={text_of(value)}"


def settle(part: Any, name: str, convert: Callable[[Any], Any]) -> None:
    """Put in place of a field of a frozen dataclass what it stands for."""
    object.__setattr__(part, name, convert(getattr(part, name)))


def chosen(axis: type[Spec], given: Any) -> Any:
    """A choice of an axis: given as such, or by its text, or as a function of the user's own. ValueError for none."""
    if callable(given):
        if axis.axis not in catalog.OF_FUNCTIONS:
            raise ValueError(f"{given!r}: a function can be a {', a '.join(catalog.OF_FUNCTIONS)}, no {axis.axis}")
        return catalog.find(axis.axis, catalog.OF_FUNCTIONS[axis.axis]).of(given)
    found = axis.parse(given) if isinstance(given, str) else given
    if not isinstance(found, axis):
        text = f"a text such as '{catalog.kinds(axis.axis)[0]}'"
        forms = {"weight": f"a number, a function or {text}", "rule": f"a function or {text}"}
        raise ValueError(f"{given!r} is no {axis.axis}: give {forms.get(axis.axis, text)}")
    return found
