"""What functions and objects of the user's own do, as plain data to be hashed. Torch-free.

A function is described by its name, by the text of its file (of its cell in a notebook), and by what it takes from
elsewhere by name: defaults, closed-over and global variables, also where only code nested in it reads them. What it
calls is described likewise, in whatever file of the user it stands; of installed packages and of this project by name.
An object is described by its class and its attributes, or by its class and `identity`, any JSON, if it has one.

Not described, since nobody can know it: files that are read, and names that are made up as the code runs.
"""

import dis
import functools
import hashlib
import importlib.util
import inspect
import itertools
import os
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edm2_guidance.recipe.spec import Spec, canonical

_READS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD"}


@functools.cache
def _real(path: str) -> str:
    """One spelling of a path, however it was come by: through symbolic links, in any letters on Windows."""
    return os.path.normcase(os.path.realpath(path))


_HOUSE = Path(__file__).parents[2]
_INSTALLED = tuple(
    f"{_real(str(folder))}{os.sep}"
    for folder in (
        *(_HOUSE / name for name in ("edm2_guidance", "dnnlib", "torch_utils", "training")),
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib")),
    )
)
_BY_NAME = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
_NUMPY_FUNCTIONS = {"ufunc", "_ArrayFunctionDispatcher"}
_MODULE = "torch.nn.modules.module.Module"  # all of its state is in its attributes
_STATELESS = {"builtins.object", "abc.ABC", "typing.Generic", "typing.Protocol", "edm2_guidance.models.base.Model"}


def describe(value: Any) -> Any:
    """Plain data that say what a function or an object does. ValueError, with the cure, where nothing does."""
    return _Describer().value(_name(value), value)


def is_installed(file: str | None) -> bool:
    """Whether code is Python's own, of a package or of this project; file: where it is from, None for built-in code."""
    if file is None or file in ("built-in", "frozen") or file.startswith("<frozen"):
        return True
    real = _real(file) if os.path.isabs(file) else file
    return real.startswith(_INSTALLED) or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


class _Describer:
    """What is met twice, also on a way that leads back to itself, is described once."""

    def __init__(self) -> None:
        self._met: list[Any] = []

    def value(self, what: str, value: Any) -> Any:
        """what: where it was met, with which the ValueError begins if nothing says what it is."""
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float | complex | bytes | range):
            return value if isinstance(value, float) and value - value == 0 else {"repr": repr(value)}
        if isinstance(value, tuple | list):
            return [self.value(what, each) for each in value]
        if isinstance(value, set | frozenset):
            return {"set": sorted((self.value(what, each) for each in value), key=repr)}
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {key: self.value(what, each) for key, each in value.items()}
        if isinstance(value, Spec):
            return canonical(value)
        if hasattr(value, "detach") and hasattr(value, "untyped_storage"):  # a tensor
            return _tensor(value)
        if hasattr(value, "tobytes") and str(getattr(value, "dtype", "object")) != "object":
            return [str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
        for number, each in enumerate(self._met):
            if each is value:
                return {"again": number}
        self._met.append(value)
        return self._thing(what, value)

    def _thing(self, what: str, value: Any) -> Any:
        """What has code or attributes of its own."""
        if isinstance(value, functools.partial):
            bound = {"args": value.args, "keywords": value.keywords}
            return {"of": self.value(what, value.func), **self._all("a partial", bound)}
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return {"method": self.value(what, value.__func__), "self": self.value(what, value.__self__)}
        if isinstance(value, staticmethod | classmethod):
            return self.value(what, value.__func__)
        if isinstance(value, property | functools.cached_property):
            parts = ("fget", "fset", "func")
            return [self.value(what, getattr(value, part)) for part in parts if hasattr(value, part)]
        if hasattr(value, "__wrapped__"):  # functools.cache
            return {"of": self.value(what, value.__wrapped__)}
        if isinstance(value, types.ModuleType):
            return _module(what, value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, _BY_NAME) or type(value).__name__ in _NUMPY_FUNCTIONS:
            of = getattr(value, "__self__", None)
            return [_name(value), None if isinstance(of, types.ModuleType) else self.value(what, of)]
        return self._object(what, value)

    def _all(self, what: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self.value(f"{what} takes {key}", values[key]) for key in sorted(values)}

    def _function(self, function: types.FunctionType) -> Any:
        name, code = function.__qualname__, function.__code__
        closed = {key: cell.cell_contents for key, cell in _cells(function)}
        if is_installed(code.co_filename):
            wrapped = {"__wrapped__": function.__wrapped__} if hasattr(function, "__wrapped__") else closed
            return {"name": f"{function.__module__}.{name}", **self._all(name, wrapped)}
        usual = function.__defaults__ or ()
        named = code.co_varnames[: code.co_argcount]
        defaults = dict(zip(named[len(named) - len(usual) :], usual, strict=True)) | (function.__kwdefaults__ or {})
        return {
            "name": name,
            "text": _text(function),
            "defaults": self._all(name, defaults),
            "values": self._all(name, dict(_globals(function)) | closed),
            **self._all(name, {key: value for key, value in vars(function).items() if not key.startswith("__")}),
        }

    def _class(self, cls: type) -> Any:
        if is_installed(_file_of(cls)):
            return _name(cls)
        members = {key: value for key, value in vars(cls).items() if _is_own_member(key, value)}
        bases = [self.value(_name(cls), base) for base in cls.__bases__]
        return {"class": cls.__qualname__, "bases": bases, "members": self._all(cls.__qualname__, members)}

    def _object(self, what: str, value: Any) -> Any:
        cls, identity = type(value), getattr(value, "identity", None)
        if str(cls) in ("<class 'torch.dtype'>", "<class 'torch.device'>"):
            return str(value) if cls.__name__ == "dtype" else "device"  # where it runs is no part of what it does
        if identity is not None and isinstance(identity, Mapping) and is_installed(_file_of(cls)):
            return {"network": identity.get("sha256")}  # one that is open
        bases = {_name(base): base for base in cls.__mro__}
        foreign = [name for name, base in bases.items() if is_installed(_file_of(base)) and name not in _STATELESS]
        if (foreign and _MODULE not in bases) or cls is object or not hasattr(value, "__dict__"):
            raise ValueError(
                f"{what}, a {cls.__name__}, from outside, and no hash says what that is: use numbers, texts, arrays or "
                "functions, or objects of classes of your own; or make it inside the function"
            )
        state = {"identity": identity} if identity is not None else vars(value)
        return {"object": self.value(what, cls), **self._all(cls.__qualname__, state)}


def _tensor(tensor: Any) -> list[Any]:
    data = tensor.detach().cpu().contiguous()
    flat = data.reshape(-1).view(sys.modules["torch"].uint8).numpy()
    return [str(tensor.dtype), list(tensor.shape), hashlib.sha256(flat).hexdigest()]


def _name(value: Any) -> str:
    named = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or type(value).__qualname__
    module = getattr(value, "__module__", None)
    return f"{module}.{named}" if isinstance(value, (type, *_BY_NAME)) else str(named)


def _module(what: str, module: types.ModuleType) -> str:
    if not is_installed(_place(module)):
        raise ValueError(f"{what} as a whole, a module of your own: write {module.__name__}.NAME where NAME is used")
    return module.__name__


def _place(module: types.ModuleType) -> str | None:
    if module.__name__ == "__main__":
        return getattr(module, "__file__", None) or ""  # a notebook's
    return getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)


def _file_of(cls: type) -> str | None:
    module = None if cls.__module__ == "__main__" else sys.modules.get(cls.__module__)
    return "" if module is None else _place(module)


def _is_own_member(key: str, value: Any) -> bool:
    """Whether somebody wrote it: not what Python, dataclasses and abc add to a class."""
    dunder = key.startswith("__") and key.endswith("__")
    if key.startswith("__annotat"):  # types, of which Python 3.14 makes a function
        return False
    if isinstance(value, types.FunctionType):
        code = getattr(inspect.unwrap(value), "__code__", value.__code__)
        return code.co_filename != "<string>" and not (dunder and is_installed(code.co_filename))
    return isinstance(value, property) or not (dunder or key == "_abc_impl" or inspect.isdatadescriptor(value))


def _cells(function: types.FunctionType) -> Iterator[tuple[str, types.CellType]]:
    """The closed-over variables that have a value by now."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            _ = cell.cell_contents
        except ValueError:
            continue
        yield name, cell


def _globals(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The global variables that a function reads, or code nested in it; of modules of the user, what it takes of them.

    ValueError for such a module that is imported inside.
    """
    for code in _nested(function.__code__):
        steps = [each for each in dis.get_instructions(code) if each.opname != "EXTENDED_ARG"]
        for at, step in enumerate(steps):
            if step.opname == "IMPORT_NAME":
                _check_import(function, step.argval)
            if step.opname not in _READS or step.argval not in function.__globals__:
                continue
            name, value = step.argval, function.__globals__[step.argval]
            for attribute in itertools.takewhile(lambda each: each.opname in _ATTRIBUTES, steps[at + 1 :]):
                if not isinstance(value, types.ModuleType) or is_installed(_place(value)):
                    break
                name, value = f"{name}.{attribute.argval}", getattr(value, attribute.argval, None)
            yield name, value


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """This code, and that of functions, lambdas, comprehensions and classes inside it."""
    yield code
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _nested(each)


def _check_import(function: types.FunctionType, name: str) -> None:
    top = name.partition(".")[0]
    found = importlib.util.find_spec(top) if top else None
    places = [] if found is None else [found.origin, *(found.submodule_search_locations or ())]
    if top and is_installed(next((place for place in places if place), None)):
        return
    raise ValueError(
        f"{function.__qualname__} imports {name or 'from .'}, of your own: import it at the head of the file"
    )


_texts: dict[int, tuple[types.CodeType, str]] = {}  # by identity: a module that is loaded again has code of its own


def _text(function: types.FunctionType) -> str:
    """SHA-256 of the text that a function is of, as it was when the function was first seen: files are edited later."""
    code = function.__code__
    if id(code) not in _texts:
        try:
            text = "".join(inspect.findsource(function)[0])
        except (OSError, TypeError):
            name = function.__qualname__
            raise ValueError(f"{name}: its text is nowhere: define it in a file or a notebook") from None
        _texts[id(code)] = code, hashlib.sha256(text.encode()).hexdigest()
    return _texts[id(code)][1]
