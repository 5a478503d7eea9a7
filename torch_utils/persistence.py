"""Classes whose pickles carry their own source text: the format of EDM2's network files.

A persistent object is stored as a call of `torch_utils.persistence._reconstruct_persistent_obj(meta)`
with

    meta = {type: "class", version: 6, module_src: <source of the whole module>, class_name, state}

so that a file outlives the code that wrote it, at the price that its reader executes what the file
says. This module writes that format and keeps the one function that files name. The function itself
executes nothing by default: it hands back our own class when the source in the file is, byte for byte,
that of a module already imported here, and refuses everything else unless the caller has said
`with trusting():`. Network files are better opened with `training.network_io.load_network`, which
never executes anything, whatever the source says.

The embedded source must be loadable where only torch, numpy and this package exist, so a module with
persistent classes imports nothing else of the project.
"""

import copy
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

FORMAT_VERSION = 6

T = TypeVar("T")

_source_of_module: dict[str, str] = {}  # module name -> source text, one string object per module
_class_of_source: dict[tuple[str, str], type] = {}  # (sha256 of source, class name) -> class of this process
_trusted_modules: dict[str, types.ModuleType] = {}  # sha256 of source -> module made from a trusted file
_trusting: ContextVar[bool] = ContextVar("trusting", default=False)


def persistent_class(cls: type[T]) -> type[T]:
    """Class decorator: remember constructor arguments, and pickle together with the module's source.

    Instances get `_init_args` and `_init_kwargs` (deep copies of what the constructor was called with),
    readable as `init_args` and `init_kwargs`. The class itself is changed in place and keeps its identity.
    Copies made by `copy` stay instances of the same class. A subclass must be decorated too, or its
    instances refuse to be pickled.
    """
    constructor: Any = cls.__init__

    @functools.wraps(constructor)
    def recording_init(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is cls:  # not when a decorated subclass calls super().__init__
            self.__dict__["_init_args"] = copy.deepcopy(args)
            self.__dict__["_init_kwargs"] = copy.deepcopy(kwargs)
        constructor(self, *args, **kwargs)

    members: dict[str, Any] = {
        "__init__": recording_init,
        "__reduce__": _reduce,
        "__copy__": _shallow_copy,
        "__deepcopy__": _deep_copy,
        "init_args": property(_init_args),
        "init_kwargs": property(_init_kwargs),
        "_persistent_owner": cls,
    }
    for name, value in members.items():
        setattr(cls, name, value)
    source = _source_text(cls.__module__)
    if source is not None:
        _class_of_source[_sha256(source), cls.__name__] = cls
    return cls


def is_persistent(obj: object) -> bool:
    """True for a class made by `persistent_class` and for an instance of exactly such a class."""
    cls = obj if isinstance(obj, type) else type(obj)
    return cls.__dict__.get("_persistent_owner") is cls


@contextmanager
def trusting() -> Iterator[None]:
    """Inside, `_reconstruct_persistent_obj` executes the source text that a pickle brings along.

    For `load_network(..., trust_pickle=True)` only: whoever enters has told the user what will run.
    """
    token = _trusting.set(True)
    try:
        yield
    finally:
        _trusting.reset(token)


def _reconstruct_persistent_obj(meta: Mapping[str, Any]) -> Any:
    """What a pickle calls by this name: an object from its meta dict.

    Raises ValueError for a dict that is not such a meta, and for source text that is not that of a
    class in this process unless inside `trusting()`.
    """
    kind, version = meta.get("type"), meta.get("version")
    if kind != "class" or version != FORMAT_VERSION:
        raise ValueError(
            f"persistent object of type {kind!r}, version {version!r}: only version {FORMAT_VERSION} is known"
        )
    cls = _find_class(meta["module_src"], meta["class_name"])
    obj = cls.__new__(cls)
    if hasattr(obj, "__setstate__"):
        obj.__setstate__(meta["state"])
    else:
        obj.__dict__.update(meta["state"])
    return obj


def _find_class(source: str, class_name: str) -> Any:
    digest = _sha256(source)
    known = _class_of_source.get((digest, class_name))
    if known is not None:
        return known
    if not _trusting.get():
        raise ValueError(
            f"refused to execute the source text of class {class_name} (sha256 {digest[:16]}..., "
            f"{len(source)} characters) inside a pickle: open network files with "
            "training.network_io.load_network"
        )
    if digest not in _trusted_modules:
        _trusted_modules[digest] = _execute_source(source, digest)
    return getattr(_trusted_modules[digest], class_name)


def _execute_source(source: str, digest: str) -> types.ModuleType:
    """Run trusted source text as a fresh module, registered because its classes look themselves up there."""
    name = f"_trusted_source_{digest}"
    module = types.ModuleType(name)
    sys.modules[name] = module
    _source_of_module[name] = source
    try:
        exec(compile(source, f"<source in pickle, sha256 {digest[:16]}>", "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name], _source_of_module[name]
        raise
    return module


def _reduce(self: Any) -> tuple[Callable[..., Any], tuple[dict[str, Any]]]:
    cls = type(self)
    if not is_persistent(cls):
        raise TypeError(f"{cls.__name__} extends a persistent class: decorate it with @persistent_class too")
    source = _source_of_module.get(cls.__module__)
    if source is None:
        raise TypeError(f"cannot pickle {cls.__name__}: module {cls.__module__} has no source text")
    if cls.__qualname__ != cls.__name__:
        raise TypeError(f"cannot pickle {cls.__qualname__}: define persistent classes at top level")
    meta = {
        "type": "class",
        "version": FORMAT_VERSION,
        "module_src": source,
        "class_name": cls.__name__,
        "state": self.__getstate__(),
    }
    return _reconstruct_persistent_obj, (meta,)


def _shallow_copy(self: Any) -> Any:
    """Copying must not go through `__reduce__`, which is about files."""
    duplicate = object.__new__(type(self))
    duplicate.__dict__.update(self.__dict__)
    return duplicate


def _deep_copy(self: Any, memo: dict[int, Any]) -> Any:
    duplicate = object.__new__(type(self))
    memo[id(self)] = duplicate
    duplicate.__dict__.update(copy.deepcopy(self.__dict__, memo))
    return duplicate


def _init_args(self: Any) -> tuple[Any, ...]:
    """Positional arguments that the constructor was called with (a deep copy)."""
    args: tuple[Any, ...] = copy.deepcopy(self.__dict__["_init_args"])
    return args


def _init_kwargs(self: Any) -> dict[str, Any]:
    """Keyword arguments that the constructor was called with (a deep copy)."""
    kwargs: dict[str, Any] = copy.deepcopy(self.__dict__["_init_kwargs"])
    return kwargs


def _source_text(module_name: str) -> str | None:
    """Source of an imported module, read while it is being imported, so that it is what runs; else None."""
    if module_name not in _source_of_module:
        try:
            _source_of_module[module_name] = inspect.getsource(sys.modules[module_name])
        except (OSError, TypeError, KeyError):  # an interactive session, a built-in: pickling says so
            return None
    return _source_of_module[module_name]


def _sha256(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
