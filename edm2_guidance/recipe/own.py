"""Functions of the user's own as parts of a recipe, which knows each by a hash of what it does. Torch-free.

A recipe that was read from a file names its functions, and runs none: they are given again, and are then the same if
their hashes are. What a function takes from elsewhere may not change while images are made: this is looked at when a
pass over seeds begins (a call of `generate`, a shard of a ZIP, a block of a score), and when it ends.
"""

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Self

from edm2_guidance.recipe.described import describe
from edm2_guidance.recipe.spec import Spec, coerced, digest, text_of, value_of

_GIVEN: dict[str, Callable[..., Any]] = {}  # what this process was given, by hash
_PLAIN = bool | int | float | str


@dataclass(frozen=True)
class OwnFunction(Spec):
    """A function of the user's own, called with those of the offered values that its parameters name.

    Its other parameters are fields of this spec, if their defaults are numbers, texts or flags. A `functools.partial`
    that binds these is the same as the fields.

    Attributes:
        offered: The names of what it can be called with.
        name: Of the function.
        settings: Its other parameters that are not at their defaults, NAME=VALUE.
        sha256: Of what it does (`recipe.described`).
    """

    offered: ClassVar[tuple[str, ...]] = ()

    name: str = ""
    settings: tuple[str, ...] = ()
    sha256: str = ""

    @classmethod
    def of(cls, function: Callable[..., Any], *, later: bool = False) -> Self:
        """The spec of a function, which is known in this process from now on.

        later: what it needs may come later, as on a command line. ValueError if it takes something from elsewhere of
        which there is no hash (`recipe.described`).
        """
        function, bound = cls._parted(function)
        plain = function.func if isinstance(function, functools.partial) else function
        if not isinstance(plain, types.FunctionType | types.MethodType):
            raise ValueError(f"{plain!r} has no text to hash: write a function with def, which may call it")
        sha256 = digest(describe(function))
        _GIVEN[sha256] = function
        return cls._made(plain.__qualname__.replace("<locals>.", ""), sha256).with_fields(bound)

    @classmethod
    def _parted(cls, function: Callable[..., Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
        """A function, and what a partial binds of it that the spec's fields say."""
        if not isinstance(function, functools.partial):
            return function, {}
        own = {each.name for each in fields(OwnFunction)}
        bound = {
            key: value
            for key, value in function.keywords.items()
            if isinstance(value, Real | str) and key not in own and (key == "w" or key not in cls.offered)
        }
        others = {key: value for key, value in function.keywords.items() if key not in bound}
        rest = function.args or others
        return functools.partial(function.func, *function.args, **others) if rest else function.func, bound

    @classmethod
    def _made(cls, name: str, sha256: str) -> Self:
        return cls(name=name, sha256=sha256)

    @property
    def function(self) -> Callable[..., Any]:
        """What was given. ValueError if nothing was."""
        if self.sha256 not in _GIVEN:
            raise ValueError(
                f"the {self.axis} {self.name} is a function of your own, which recipes name and do not hold: give the "
                f"same one again ({self.axis}=FUNCTION, --{self.axis}=FILE.py:FUNCTION)"
            )
        return _GIVEN[self.sha256]

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Of the function."""
        return dict(inspect.signature(self.function).parameters)

    @property
    def defaults(self) -> dict[str, Any]:
        """The parameters that are fields, by their defaults; `inspect.Parameter.empty` for none."""
        return {
            name: each.default
            for name, each in self.parameters.items()
            if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
            and name not in self.offered
            and (each.default is each.empty or isinstance(each.default, _PLAIN))
        }

    def check_here(self) -> None:
        if digest(describe(self.function)) != self.sha256:
            raise ValueError(
                f"the {self.axis} {self.name} takes something from elsewhere that has changed since the recipe was "
                "made: what it takes must stay while images are made; then make the recipe anew"
            )
        given = {*self.offered, *self._values()}
        for name, each in self.parameters.items():
            if each.kind is each.POSITIONAL_ONLY:
                raise ValueError(f"{self.name}: what it takes is given by name: write it without '/'")
            if each.default is each.empty and each.kind is not each.VAR_KEYWORD and name not in given:
                raise ValueError(
                    f"{self.name}: there is no {name} for it; its parameters may be {', '.join(self.offered)}, and "
                    "others with a default or a value of their own"
                )

    def call(self, offered: Mapping[str, Any]) -> Any:
        """What the function makes of those of the offered values that it names, and of its settings."""
        parameters = self.parameters
        takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        bound = self.function.keywords if isinstance(self.function, functools.partial) else {}
        chosen = {key: value for key, value in offered.items() if (takes_all or key in parameters) and key not in bound}
        return self.function(**chosen, **self._values())

    def with_fields(self, values: Mapping[str, Any]) -> Self:
        """This spec with other values of its fields, or of the function's own parameters, which may be texts."""
        known = {each.name for each in fields(self)}
        plain = super().with_fields({name: value for name, value in values.items() if name in known})
        others = {name: value for name, value in values.items() if name not in known}
        if not others:
            return plain
        defaults, settings = plain.defaults, plain._values()
        for name, value in others.items():
            settings[name] = _as_default(self.name, name, value, defaults)
        changed = {name: value for name, value in sorted(settings.items()) if value != defaults[name]}
        return replace(plain, settings=tuple(f"{key}={_plain_text(value)}" for key, value in changed.items()))

    def with_texts(self, parts: Sequence[str]) -> Self:
        """With the fields of a text, NAME=VALUE each. ValueError as `with_fields`."""
        values: dict[str, Any] = {}
        for part in parts:
            name, equals, text = part.partition("=")
            if not equals or name in values:
                raise ValueError(
                    f"{self.name}: {name} is given twice" if equals else f"{self.name}: write {name}=VALUE"
                )
            of_spec = name in {each.name for each in fields(self)}
            values[name] = value_of(f"{self.name}: {name}", text, float) if of_spec else text
        return self.with_fields(values)

    def _values(self) -> dict[str, Any]:
        """The settings as values."""
        if not self.settings:
            return {}
        defaults = self.defaults
        parted = (setting.partition("=") for setting in self.settings)
        return {name: _as_default(self.name, name, text, defaults) for name, _, text in parted}

    def value(self, name: str) -> Any:
        """Of one of the function's own parameters; `inspect.Parameter.empty` for none."""
        return self._values().get(name, self.defaults[name])

    @property
    def caption(self) -> str:
        return " ".join([self.name, *self.settings])

    @property
    def flag(self) -> str:
        """What a command line says for it; its caption where the function is in no file, or inside of another."""
        code = getattr(self.function, "__code__", None)
        file = Path("" if code is None else code.co_filename)
        lies_there = file.suffix == ".py" and file.is_file() and self.name.isidentifier()
        return ":".join([f"{file}:{self.name}", *self.settings]) if lies_there else self.caption


def _as_default(function: str, name: str, value: Any, defaults: Mapping[str, Any]) -> Any:
    """A value, or the text of one, in the type of the parameter's default. ValueError if it is of another type."""
    if name not in defaults:
        known = f"its own are {', '.join(defaults)}" if defaults else "it has none of its own, with a default"
        raise ValueError(f"{function} has no parameter '{name}' to be given; {known}")
    usual, what = defaults[name], f"{function}: {name}"
    hint = float if usual is inspect.Parameter.empty else type(usual)
    if isinstance(value, str) and hint is not str:
        return value_of(what, value, hint)
    if hint is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if hint is str and not isinstance(value, str):
        raise ValueError(f"{what}={value}: not a text")
    return coerced(what, value, hint)


def _plain_text(value: Any) -> str:
    """A value as a part of a spec's text. ValueError for a text that such a part cannot be."""
    text = text_of(value).replace("e+", "e")
    if set(text) & set(":,+"):
        raise ValueError(f"'{text}': the texts of a recipe hold no ':', ',' or '+'")
    return text
