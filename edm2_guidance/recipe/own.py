"""Functions of the user's own as parts of a recipe, which knows each by a hash of what it does. Torch-free.

A recipe that was read from a file names its functions, and runs none: they are given again, and are then the same if
their hashes are.
"""

import functools
import hashlib
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

from edm2_guidance.recipe.spec import Spec, canonical, digest

_GIVEN: dict[str, Callable[..., Any]] = {}  # what this process was given, by hash


def given(function: Callable[..., Any]) -> tuple[str, str]:
    """Name and hash of a function, which `find` gives back from now on.

    The hash is of the text of its file (or notebook cell), of its name there, and of the values that it takes from
    elsewhere: defaults, closed-over and global variables. ValueError where one of these has no hash, with the cure.
    """
    plain = _plain(function)
    name = getattr(plain, "__qualname__", repr(plain)).replace("<locals>.", "")
    sha256 = digest(_described(function))
    _GIVEN[sha256] = function
    return name, sha256


def find(name: str, sha256: str, axis: str) -> Callable[..., Any]:
    """The function that was given under this hash. ValueError if none was."""
    if sha256 not in _GIVEN:
        raise ValueError(
            f"the {axis} {name} is a function of your own, which recipes name and do not hold: give the same one again "
            f"({axis}=FUNCTION)"
        )
    return _GIVEN[sha256]


def call(function: Callable[..., Any], offered: Mapping[str, Any], name: str) -> Any:
    """What the function makes of those of the offered values that its parameters name.

    ValueError for a parameter without a default that is not on offer.
    """
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
    for each in parameters:
        if each.default is each.empty and each.kind is not each.VAR_KEYWORD and each.name not in offered:
            raise ValueError(f"{name}: there is no {each.name} for it; its parameters may be {', '.join(offered)}")
    named = {each.name for each in parameters}
    return function(**{key: value for key, value in offered.items() if takes_all or key in named})


def _plain(function: Any) -> Any:
    """What a partial is made of."""
    return _plain(function.func) if isinstance(function, functools.partial) else function


def _described(function: Any, above: tuple[Any, ...] = ()) -> Any:
    """Plain data that say what a function does. above: the functions that use it, and are described already."""
    if isinstance(function, functools.partial):
        bound = {"args": function.args, "keywords": function.keywords}
        return {
            "of": _described(function.func, above),
            **{key: _value(f"{key} of a partial", value, above) for key, value in bound.items()},
        }
    if not isinstance(function, types.FunctionType):
        raise ValueError(f"{function!r} has no text to hash: write a function with def, which may call it")
    try:
        text = "".join(inspect.findsource(function)[0])  # of its whole file, or of its cell in a notebook
    except (OSError, TypeError):
        raise ValueError(f"{function.__qualname__}: its text is nowhere: define it in a file or a notebook") from None
    described = {"name": function.__qualname__, "text": hashlib.sha256(text.encode()).hexdigest()}
    if above and function.__code__.co_filename != above[0].__code__.co_filename:
        return described  # what another file takes from elsewhere is its own affair
    taken = inspect.getclosurevars(function)
    values = {**taken.globals, **taken.nonlocals}
    values |= {f"default of {each.name}": each.default for each in inspect.signature(function).parameters.values()}
    return {
        **described,
        "values": {
            key: _value(f"{function.__qualname__} takes {key}", value, (*above, function))
            for key, value in sorted(values.items())
            if value is not inspect.Parameter.empty and value is not function and value not in above
        },
    }


def _value(what: str, value: Any, above: tuple[Any, ...]) -> Any:
    """Plain data that say what a value is. ValueError, beginning with `what`, where nothing does."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_value(what, each, above) for each in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _value(what, each, above) for key, each in value.items()}
    if isinstance(value, Spec):
        return canonical(value)
    if isinstance(value, types.ModuleType | types.BuiltinFunctionType | type):
        return getattr(value, "__qualname__", value.__name__)
    if isinstance(value, types.FunctionType | functools.partial):
        return _described(value, above)
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu().numpy()
    if hasattr(value, "tobytes") and hasattr(value, "dtype"):
        return [str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
    raise ValueError(
        f"{what}, a {type(value).__name__}, from outside, and no hash says what that is: use numbers, texts, arrays or "
        "functions, or make it inside the function"
    )
