"""From what a network file says to networks and encoders of our own classes, strictly.

The file's own source text is never looked at. A network is built by our class from the constructor arguments in the
file, first without memory (torch's meta device), and must then agree with the file in everything: layers, their
constructor arguments, plain attributes, names and shapes of all tensors. Only then the tensors are read. What cannot
be reproduced is a ValueError that names it.
"""

import functools
import inspect
import json
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from torch_utils.persistence import FORMAT_VERSION, is_persistent
from torch_utils.safe_pickle import ModuleRecord, PersistentRecord, StoredTensor
from training.dataset import MAX_CLASSES
from training.encoders import Encoder, StabilityVAEEncoder, StandardRGBEncoder
from training.loss import EDM2Loss
from training.networks_edm2 import Precond

NETWORK_CLASSES: dict[str, type[Precond]] = {"Precond": Precond}
ENCODER_CLASSES: dict[str, type[Encoder]] = {
    "StandardRGBEncoder": StandardRGBEncoder,
    "StabilityVAEEncoder": StabilityVAEEncoder,
}
_MAX_PLAIN_ARRAY = 10_000
LOSS_CLASSES: dict[str, type[EDM2Loss]] = {"EDM2Loss": EDM2Loss}
FLOAT_TYPES = ("float16", "bfloat16", "float32", "float64")

# ----------------------------------------------------------------------------
# Constructor arguments.


def integer(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and low <= value <= high


def list_of(check: Callable[[Any], bool], longest: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and len(value) <= longest and all(map(check, value))


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _one_or_more(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: check(value) or list_of(check, 64)(value)


# What a file may ask for. The bounds keep construction short even where no tensors are allocated yet; published
# networks have at most 4 levels, 3 blocks per level and 448 channels in the first.
_ARGUMENT_CHECKS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "Precond": {
        "img_resolution": integer(1, 2**16),
        "img_channels": integer(1, 2**12),
        "label_dim": integer(0, MAX_CLASSES),
        "use_fp16": lambda value: type(value) is bool,
        "sigma_data": number(1e-6, 1e6),
        "logvar_channels": integer(1, 2**16),
        "model_channels": integer(1, 2**16),
        "channel_mult": list_of(integer(1, 2**10), 10),
        "channel_mult_noise": _or_none(number(0, 2**10)),
        "channel_mult_emb": _or_none(number(0, 2**10)),
        "num_blocks": integer(0, 32),
        "attn_resolutions": list_of(integer(0, 2**16), 64),
        "label_balance": number(0, 1),
        "concat_balance": number(0, 1),
        "resample_filter": list_of(number(-1e6, 1e6), 64),
        "channels_per_head": integer(1, 2**16),
        "dropout": number(0, 1),
        "res_balance": number(0, 1),
        "attn_balance": number(0, 1),
        "clip_act": _or_none(number(0, math.inf)),
    },
    "StandardRGBEncoder": {},
    "StabilityVAEEncoder": {
        "vae_name": lambda value: isinstance(value, str) and 0 < len(value) < 4096 and value.isprintable(),
        "raw_mean": list_of(number(-1e6, 1e6), 64),
        "raw_std": list_of(number(1e-6, 1e6), 64),
        "final_mean": _one_or_more(number(-1e6, 1e6)),
        "final_std": _one_or_more(number(1e-6, 1e6)),
        "batch_size": integer(1, 2**16),
    },
    "EDM2Loss": {
        "P_mean": number(-1e6, 1e6),
        "P_std": number(0, 1e6),
        "sigma_data": number(1e-6, 1e6),
    },
}

# What older preconditioning classes had, constructor argument and attribute: the noise levels that they were made for.
# At these values it is any level, as here; samplers do not ask for it.
_NEUTRAL: dict[str, dict[str, float]] = {"Precond": {"sigma_min": 0, "sigma_max": math.inf}}


def _is_neutral(class_name: str, name: str, value: Any, where: str) -> bool:
    """Whether it is an entry of `_NEUTRAL`; ValueError if it is one with another value."""
    if name not in _NEUTRAL.get(class_name, {}):
        return False
    neutral, found = _NEUTRAL[class_name][name], plain_value(value)
    if type(found) not in (int, float) or found != neutral:
        raise ValueError(
            f"{where}: {name} = {reprlib.repr(value)}: this network is for some noise levels only, our {class_name} "
            f"for all ({name} = {neutral:g})"
        )
    return True


def _without_neutral(class_name: str, arguments: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if not _is_neutral(class_name, name, value, where)}


def checked_arguments(
    class_name: str, arguments: Mapping[str, Any], where: str, checks: Mapping[str, Callable[[Any], bool]] | None = None
) -> dict[str, Any]:
    """Constructor arguments by name, as plain Python values. ValueError for an unknown name or impossible value.

    checks: what is possible, by name, of a class that is not of this module.
    """
    checks = _ARGUMENT_CHECKS[class_name] if checks is None else checks
    checked = {}
    for name, value in arguments.items():
        if name not in checks:
            raise ValueError(f"{where}: {class_name} has no constructor argument {name!r}")
        try:
            checked[name] = plain_value(value)
        except ValueError as error:
            raise ValueError(f"{where}: constructor argument {name} is {error}") from None
        if not checks[name](checked[name]):
            raise ValueError(f"{where}: constructor argument {name} = {reprlib.repr(value)} is not possible")
    return checked


def named_arguments(cls: type, args: Any, kwargs: Any, where: str, *, defaults: bool) -> dict[str, Any]:
    """Arguments of a call of `cls` by name, those that it passes on included; `defaults`: also those left out."""
    if not isinstance(args, tuple) or not isinstance(kwargs, dict) or not all(isinstance(k, str) for k in kwargs):
        raise ValueError(f"{where}: the file does not say what {cls.__name__} was constructed with")
    signature = _signature(cls)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f"{where}: {cls.__name__} cannot be constructed so: {error}") from None
    if defaults:
        bound.apply_defaults()
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        elif kind is not inspect.Parameter.VAR_POSITIONAL:
            named[name] = value
        elif value:
            raise ValueError(f"{where}: {cls.__name__} takes no positional arguments, got {len(value)}")
    return named


@functools.cache
def _signature(cls: type) -> inspect.Signature:
    return inspect.signature(cls)


def plain_value(value: Any) -> Any:
    """numpy scalars and arrays as Python numbers and lists, at any depth; other values as they are.

    ValueError for an array of more than `_MAX_PLAIN_ARRAY` numbers: as a list it takes up to 40 times as much memory.
    """
    if isinstance(value, np.ndarray) and value.size > _MAX_PLAIN_ARRAY:
        raise ValueError(f"an array of {value.size} numbers, where at most {_MAX_PLAIN_ARRAY} are expected")
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        items = [plain_value(item) for item in value]
        return items if isinstance(value, list) else tuple(items)  # also of their subclasses
    return {key: plain_value(item) for key, item in value.items()} if isinstance(value, dict) else value


def plain_copy(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Plain data by way of JSON; ValueError for anything else."""
    try:
        copied: dict[str, Any] = json.loads(json.dumps(plain_value(dict(values)), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not plain data (numbers, texts, lists, dictionaries): {error}") from None
    return copied


def _arguments_in(record: PersistentRecord, cls: type, where: str) -> dict[str, Any]:
    if record.version != FORMAT_VERSION:
        raise ValueError(f"{where}: persistence format {record.version}; only {FORMAT_VERSION} is known")
    args, kwargs = record.state.get("_init_args"), record.state.get("_init_kwargs")
    named = named_arguments(cls, args, kwargs, where, defaults=False)
    return checked_arguments(cls.__name__, _without_neutral(cls.__name__, named, where), where)


# ----------------------------------------------------------------------------
# Networks.


def build_network(record: Any, where: str = "ema") -> Precond:
    """The network that a file's record describes, on the CPU, tensors in the file's types, evaluation mode.

    Raises ValueError if it is of no known class, or differs from what that class makes of its arguments.
    """
    net, tensors = match_network(record, where)
    return fill_network(net, {name: tensor.to_torch() for name, tensor in tensors.items()})


def match_network(record: Any, where: str = "ema") -> tuple[Precond, dict[str, StoredTensor]]:
    """The network of `build_network` without memory, and its tensors still in the file, by their names."""
    if not isinstance(record, PersistentRecord):
        raise ValueError(f"{where}: not a network but {describe(record)}")
    cls = _known_class(record, NETWORK_CLASSES, where)
    net = empty_network(cls, _arguments_in(record, cls, where), where)
    tensors: dict[str, StoredTensor] = {}
    compare_module(record, net, where, "", tensors)
    if len({id(tensor) for tensor in tensors.values()}) < len(tensors):
        raise ValueError(f"{where}: two parameters share one tensor, which {cls.__name__} does not do")
    return net, tensors


def empty_network(cls: type[Precond], arguments: Mapping[str, Any], where: str) -> Precond:
    """A network whose tensors have shapes but no memory, from checked arguments."""
    try:
        with torch.device("meta"), _ShapesOnly():
            return cls(**arguments)
    except Exception as error:  # whatever goes wrong with arguments from outside is the file's fault
        raise ValueError(f"{where}: {cls.__name__} cannot be constructed so: {error}") from error


def check_unchanged(net: Precond) -> None:
    """Raise ValueError if a network's attributes are no longer those that its constructor arguments make.

    A file of such a network would be refused, or, without attributes, would be of another network.
    """
    arguments = named_arguments(type(net), net.init_args, net.init_kwargs, "net", defaults=False)
    twin = empty_network(type(net), checked_arguments(type(net).__name__, arguments, "net"), "net")
    layers, built = dict(net.named_modules(prefix="net")), dict(twin.named_modules(prefix="net"))
    if layers.keys() != built.keys():
        raise ValueError(f"net: layers were added or removed: {', '.join(sorted(layers.keys() ^ built.keys()))}")
    for where, layer in layers.items():
        for name, value in vars(layer).items():
            if name not in _STRUCTURE and not _is_bookkeeping(name, value, where):
                _compare_attribute(name, value, built[where], where)


class _ShapesOnly(TorchFunctionMode):
    """Makes short work of the few operations in our constructors.

    torch's own versions for the meta device import its compiler first: 2 seconds, in every process.
    """

    factories = (torch.randn, torch.rand, torch.zeros)
    scalings = (torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.factories:
            return torch.empty(*args, device="meta")
        if func in self.scalings and isinstance(args[1], int | float):
            return args[0]
        return func(*args, **(kwargs or {}))


def fill_network(net: Precond, tensors: Mapping[str, torch.Tensor]) -> Precond:
    """Give an empty network its tensors, as they are, and make it ready to evaluate."""
    net.load_state_dict(dict(tensors), strict=True, assign=True)
    return net.eval().requires_grad_(False)


def build_encoder(record: Any, where: str = "encoder") -> Encoder:
    """The encoder that a file's record describes; ValueError as for networks."""
    if not isinstance(record, PersistentRecord):
        raise ValueError(f"{where}: not an encoder but {describe(record)}")
    cls = _known_class(record, ENCODER_CLASSES, where)
    encoder = new_encoder(cls, _arguments_in(record, cls, where), where)
    for name, value in record.state.items():
        if name not in ("_init_args", "_init_kwargs"):
            _compare_attribute(name, value, encoder, where)
    for name, value in record.state.items():
        if isinstance(value, np.ndarray):  # equal but for rounding, and then the file's digits count
            setattr(encoder, name, value)
    return encoder


def new_encoder(cls: type[Encoder], arguments: Mapping[str, Any], where: str) -> Encoder:
    """An encoder from checked arguments."""
    try:
        return cls(**arguments)
    except Exception as error:
        raise ValueError(f"{where}: {cls.__name__} cannot be constructed so: {error}") from error


def build_loss(record: Any, where: str = "loss_fn") -> EDM2Loss | None:
    """The loss that a file's record describes; None if our classes do not reproduce it, which no sampling needs."""
    if not isinstance(record, PersistentRecord) or record.class_name not in LOSS_CLASSES:
        return None
    values = {name: value for name, value in record.state.items() if name not in ("_init_args", "_init_kwargs")}
    try:
        arguments = checked_arguments(record.class_name, values, where)
    except ValueError:
        return None
    is_whole = arguments.keys() == _ARGUMENT_CHECKS[record.class_name].keys()
    return LOSS_CLASSES[record.class_name](**arguments) if is_whole else None


def _known_class(record: PersistentRecord, known: Mapping[str, type], where: str) -> Any:
    if record.class_name not in known:
        raise ValueError(f"{where}: class {record.class_name} is not known here (only {', '.join(known)})")
    return known[record.class_name]


def describe(record: Any) -> str:
    """What something in a file is, in a few words."""
    if isinstance(record, PersistentRecord | ModuleRecord):
        return f"an object of class {record.class_name}"
    return f"a value of type {type(record).__name__}"


# ----------------------------------------------------------------------------
# Comparing a record with the module that was built for it.

_CONTAINERS = {"ModuleDict": nn.ModuleDict, "ModuleList": nn.ModuleList, "Sequential": nn.Sequential}
_STRUCTURE = {"_parameters", "_buffers", "_modules", "_init_args", "_init_kwargs"}


def compare_module(record: Any, module: nn.Module, where: str, prefix: str, tensors: dict[str, StoredTensor]) -> None:
    """Compare, and collect the record's tensors by their names in the state dict (`prefix` + name).

    Constructor arguments are compared where our class keeps its own. An attribute that the file lacks is no difference:
    ours follows from the constructor arguments, which agree.
    """
    if not isinstance(record, PersistentRecord | ModuleRecord) or not _is_class_of(record, module):
        raise ValueError(f"{where}: {describe(record)} where {type(module).__name__} is expected")
    if isinstance(record, PersistentRecord) and is_persistent(module):
        _compare_arguments(record, module, where)
    for name, value in record.state.items():
        if name not in _STRUCTURE and not _is_bookkeeping(name, value, where):
            _compare_attribute(name, value, module, where)
    own_tensors = {**module._parameters, **module._buffers}
    stored = {**_entries(record, "_parameters", where), **_entries(record, "_buffers", where)}
    _compare_names(stored, {name for name, tensor in own_tensors.items() if tensor is not None}, "tensors", where)
    for name, tensor in stored.items():
        tensors[prefix + name] = _checked_tensor(tensor, own_tensors[name], f"{where}.{name}")
    children = _entries(record, "_modules", where)
    _compare_names(children, {name for name, child in module._modules.items() if child is not None}, "layers", where)
    for name, child in children.items():
        own_child = module._modules[name]
        assert own_child is not None
        compare_module(child, own_child, f"{where}.{name}", f"{prefix}{name}.", tensors)


def _is_class_of(record: PersistentRecord | ModuleRecord, module: nn.Module) -> bool:
    if isinstance(record, ModuleRecord):
        return type(module) is _CONTAINERS[record.class_name]
    return record.class_name == type(module).__name__ and type(module) not in _CONTAINERS.values()


def _entries(record: PersistentRecord | ModuleRecord, key: str, where: str) -> dict[str, Any]:
    entries = record.state.get(key)
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries):
        raise ValueError(f"{where}: {key} is missing or no dictionary of names")
    return {name: value for name, value in entries.items() if value is not None}


def _compare_names(stored: Mapping[str, Any], expected: set[str], what: str, where: str) -> None:
    missing, extra = sorted(expected - stored.keys()), sorted(stored.keys() - expected)
    if missing:
        raise ValueError(f"{where}: the file lacks the {what} {_few(missing)}")
    if extra:
        raise ValueError(
            f"{where}: the file has {what} that its constructor arguments do not make: {_few([*map(repr, extra)])}"
        )


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _checked_tensor(stored: Any, own: torch.Tensor | None, where: str) -> StoredTensor:
    assert own is not None
    if not isinstance(stored, StoredTensor) or stored.dtype not in FLOAT_TYPES:
        raise ValueError(f"{where}: not a floating-point tensor but {reprlib.repr(stored)}")
    if stored.shape != tuple(own.shape):
        raise ValueError(f"{where}: shape {stored.shape} where the arguments make {tuple(own.shape)}")
    return stored


def _compare_arguments(record: PersistentRecord, module: nn.Module, where: str) -> None:
    cls = type(module)
    args, kwargs = record.state.get("_init_args"), record.state.get("_init_kwargs")
    stored = _without_neutral(cls.__name__, named_arguments(cls, args, kwargs, where, defaults=True), where)
    own_args, own_kwargs = module.__dict__["_init_args"], module.__dict__["_init_kwargs"]
    own = named_arguments(cls, own_args, own_kwargs, where, defaults=True)
    for name in sorted(stored.keys() | own.keys()):
        if name not in own or name not in stored or not _equal(plain_value(stored[name]), plain_value(own[name])):
            there, here = reprlib.repr(stored.get(name)), reprlib.repr(own.get(name))
            raise ValueError(f"{where}: constructor argument {name} is {there} in the file, {here} as built here")


def _is_bookkeeping(name: str, value: Any, where: str) -> bool:
    """True for what torch keeps in every module (the set differs between its versions) if it holds nothing."""
    if name == "training":
        return type(value) is bool  # loaded networks are always in evaluation mode
    if name == "_is_full_backward_hook":
        return value is None or type(value) is bool
    if name == "_non_persistent_buffers_set":
        return isinstance(value, set | dict) and not value
    if "_hooks" in name:
        if not isinstance(value, dict) or value:
            raise ValueError(f"{where}: {name} is not empty; hooks are code, which is not read from files")
        return True
    return False


def _compare_attribute(name: str, value: Any, owner: object, where: str) -> None:
    own = getattr(owner, name, inspect.Parameter.empty)
    if own is inspect.Parameter.empty and _is_neutral(type(owner).__name__, name, value, where):
        return
    if own is inspect.Parameter.empty:
        raise ValueError(f"{where}: attribute {name} = {reprlib.repr(value)} is unknown to our {type(owner).__name__}")
    if not _equal(value, own):
        ours = "a tensor" if isinstance(own, torch.Tensor) else reprlib.repr(own)  # to show one, torch imports more
        raise ValueError(
            f"{where}: attribute {name} is {reprlib.repr(value)}, but {ours} as our "
            f"{type(owner).__name__} makes it of its constructor arguments"
        )


def _equal(stored: Any, own: Any) -> bool:
    """Whether a value of the file is ours: numbers by value, sequences by members, arrays but for rounding.

    An array where we have a list is compared as a list.
    """
    if isinstance(own, np.ndarray):
        same_kind = isinstance(stored, np.ndarray) and stored.shape == own.shape
        return same_kind and bool(np.allclose(stored, own, rtol=1e-6, atol=1e-7))
    stored, own = plain_value(stored), plain_value(own)
    if isinstance(stored, list | tuple) and isinstance(own, list | tuple):
        return len(stored) == len(own) and all(map(_equal, stored, own))
    if isinstance(stored, dict) and isinstance(own, dict):
        return stored.keys() == own.keys() and all(_equal(stored[key], own[key]) for key in stored)
    if type(stored) in (int, float) and type(own) in (int, float):
        return bool(stored == own)
    return type(stored) is type(own) and isinstance(stored, str | bool | None) and stored == own


# ----------------------------------------------------------------------------
# The outermost dictionary.


@dataclass(frozen=True)
class NetworkParts:
    """The entries of a network pickle that mean something here; records, or objects in a trusted one."""

    ema: Any
    encoder: Any
    loss_fn: Any
    dataset_kwargs: dict[str, Any]


def network_parts(content: Any) -> NetworkParts:
    """Entries of the outermost dictionary; a bare network is one with `ema` alone."""
    if isinstance(content, PersistentRecord | nn.Module):
        content = {"ema": content}
    if not isinstance(content, dict):
        raise ValueError(f"no network file: it holds {describe(content)}, not a dictionary with 'ema'")
    if content.get("ema") is None:
        keys = ", ".join(map(repr, list(content)[:8]))
        hint = "; for a training state give the network file that its trainer wrote beside it" if content else ""
        raise ValueError(f"no network file: 'ema' is not among its entries ({keys or 'none'}){hint}")
    dataset_kwargs = content.get("dataset_kwargs")
    if dataset_kwargs is not None and not isinstance(dataset_kwargs, dict):
        raise ValueError(f"dataset_kwargs is {describe(dataset_kwargs)}, not a dictionary")
    return NetworkParts(content["ema"], content.get("encoder"), content.get("loss_fn"), dict(dataset_kwargs or {}))
