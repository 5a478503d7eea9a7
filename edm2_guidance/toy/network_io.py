"""Files of toy networks: one pickled network each, read without running anything in them."""

import copy
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dnnlib.atomic import atomic_path
from dnnlib.download import fetch
from edm2_guidance.toy.network import ToyModel
from torch_utils import pickle_writer, safe_pickle
from torch_utils.finite import first_not_finite
from torch_utils.persistence import FORMAT_VERSION
from torch_utils.pickle_records import ModuleRecord, PersistentRecord, StoredTensor

# Published files have 4 layers of 32 or 64.
_MOST_LAYERS, _WIDEST = 64, 4096


def save_model(path: str | os.PathLike[str], net: ToyModel) -> None:
    """Write a network in the form of the published files, atomically; parameters as they are (float32).

    Raises ValueError if one of them is not finite.
    """
    bad = first_not_finite(net.state_dict())
    if bad is not None:
        raise ValueError(f"{os.fspath(path)} is not written: the network's {bad} is not finite; did training diverge?")
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        pickle_writer.dump(copy.deepcopy(net).eval().requires_grad_(False).cpu(), file)


def load_model(source: str | os.PathLike[str], *, offline: bool = False) -> ToyModel:
    """The network in a file (path or URL), float32, on the CPU, ready to evaluate.

    It is built by our class from the shapes of the tensors, and everything else in the file must be what that class
    makes of them. Raises ValueError that names what is not, OSError if the file cannot be had or read.
    """
    try:
        return _build(safe_pickle.load(fetch(source, offline=offline)))
    except ValueError as error:
        raise ValueError(f"{os.fspath(source)}: {error}") from error


def complete_report(report: dict[str, Any], source: str | os.PathLike[str], *, offline: bool = False) -> dict[str, Any]:
    """What `training.network_inspect.inspect_network` says of a file, completed where it holds a network of the toy.

    Of one of these, `reader` is the script that reads it, and `refusal` why `load_model` does not, or None.
    """
    if report["network"] is None or report["network"]["class"] != ToyModel.__name__:
        return report
    complete = {key: value for key, value in report.items() if key != "encoder"} | {"reader": "toy_example.py"}
    try:
        load_model(source, offline=offline)
    except ValueError as error:
        return complete | {"refusal": str(error)}
    return complete | {"refusal": None}


def _build(record: Any) -> ToyModel:
    net = _checked(record, PersistentRecord, "ToyModel", "the file")
    layers = _checked(_entries(net, "_modules", {"layers"})["layers"], ModuleRecord, "Sequential", "layers")
    names = [str(index) for index in range(len(layers.state.get("_modules") or ()))]
    children = list(_entries(layers, "_modules", set(names)).values())
    if len(children) % 2 == 0 or len(children) > 2 * _MOST_LAYERS:
        raise ValueError(f"layers: {len(children)} of them, where linear ones and activations alternate")
    weights = [_weight(child, f"layers.{index}") for index, child in enumerate(children) if index % 2 == 0]
    for index, child in enumerate(children[1::2]):
        _entries(_checked(child, PersistentRecord, "MPSiLU", f"layers.{2 * index + 1}"), "_parameters", set())
    gain = _tensor(_entries(net, "_parameters", {"gain"})["gain"], 0, "gain")
    width, inputs = weights[0].shape
    _check_widths(weights, width)
    arguments: dict[str, Any] = {"in_dim": inputs - 2, "num_layers": len(weights) - 1, "hidden_dim": width}
    arguments["sigma_data"] = _sigma_data(net, arguments)
    model = ToyModel(**arguments)
    model.load_state_dict({"gain": gain, **{f"layers.{2 * i}.weight": w for i, w in enumerate(weights)}})
    return model.eval().requires_grad_(False)


def _checked(record: Any, kind: Any, class_name: str, where: str) -> Any:
    """The record, if it is of this class and has no state but tensors, children and what `_PLAIN` allows."""
    found = getattr(record, "class_name", type(record).__name__)
    if not isinstance(record, kind) or found != class_name:
        raise ValueError(f"{where}: {class_name} of a toy network expected, found {found}")
    if isinstance(record, PersistentRecord) and record.version != FORMAT_VERSION:
        raise ValueError(f"{where}: persistence format {record.version}; only {FORMAT_VERSION} is known")
    for name, value in record.state.items():
        if name not in ("_parameters", "_modules", "_init_args", "_init_kwargs", *_PLAIN) and not _is_empty(value):
            raise ValueError(f"{where}: attribute {name} is unknown to our {class_name}")
    return record


_PLAIN = ("sigma_data", "in_dim", "num_layers", "hidden_dim", "out_dim")


def _is_empty(value: Any) -> bool:
    """What torch keeps in every module if it holds nothing: flags, None and empty collections."""
    return value is None or isinstance(value, bool) or (isinstance(value, dict | set | list) and not value)


def _entries(record: Any, key: str, names: set[str]) -> dict[str, Any]:
    entries = record.state.get(key) or {}
    if not isinstance(entries, dict) or set(entries) != names:
        raise ValueError(f"{record.class_name}: {key} should be {sorted(names)}, found {sorted(map(str, entries))}")
    return entries


def _weight(record: Any, where: str) -> Tensor:
    layer = _checked(record, PersistentRecord, "MPLinear", where)
    return _tensor(_entries(layer, "_parameters", {"weight"})["weight"], 2, f"{where}.weight")


def _tensor(stored: Any, dimensions: int, where: str) -> Tensor:
    if not isinstance(stored, StoredTensor) or not stored.dtype.startswith(("float", "bfloat")):
        raise ValueError(f"{where}: no floating-point tensor")
    if len(stored.shape) != dimensions or any(not 1 <= size <= _WIDEST for size in stored.shape):
        raise ValueError(f"{where}: shape {stored.shape} is not possible")
    return stored.to_torch().to(torch.float32)


def _check_widths(weights: list[Tensor], width: int) -> None:
    shapes = [tuple(weight.shape) for weight in weights]
    if shapes[0][1] < 3 or any(shape != (width, width) for shape in shapes[1:]):
        raise ValueError(f"layers: weights of shapes {shapes} do not follow one another")


def _sigma_data(net: PersistentRecord, arguments: Mapping[str, Any]) -> float:
    """The file's sigma_data, once what the file says of itself agrees with its tensors."""
    stated = {**_dict(net.state.get("_init_kwargs")), **{k: v for k, v in net.state.items() if k in _PLAIN}}
    for name, value in arguments.items():
        if name in stated and stated[name] != value:
            raise ValueError(f"{name} is {stated[name]!r} in the file, but its tensors make it {value}")
    sigma_data = stated.get("sigma_data", 0.5)
    if type(sigma_data) not in (int, float) or not 0 < sigma_data < 1e6:
        raise ValueError(f"sigma_data = {sigma_data!r} is not possible")
    return float(sigma_data)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
