"""What a network file holds, as plain data, without executing any of it; also for files that are refused."""

import math
import os
import reprlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.download import fetch
from dnnlib.errors import odd_files_are_value_errors
from dnnlib.places import python_function
from dnnlib.regular import sha256_of
from dnnlib.terminal import printable
from dnnlib.urls import without_secrets
from torch_utils import safe_pickle
from torch_utils.safe_pickle import ModuleRecord, OtherFormatError, PersistentRecord, StoredTensor, UnsafePickleError
from training.network_records import (
    ENCODER_CLASSES,
    LOSS_CLASSES,
    NETWORK_CLASSES,
    build_encoder,
    match_network,
    named_arguments,
    network_parts,
)
from training.network_safetensors import inspect_safetensors, is_safetensors


def network_file(source: str | os.PathLike[str], *, offline: bool = False) -> Path:
    """`fetch` of a network file; ValueError for FILE.py:function, a network that lies in no file."""
    if python_function(os.fspath(source)) is not None:
        raise ValueError(f"{source}: only network files can be read here; such a network can be sampled and scored")
    return fetch(source, offline=offline)


def inspect_network(source: str | os.PathLike[str], *, offline: bool = False) -> dict[str, Any]:
    """What is in a network file, ready for JSON.

    source: path or URL, as for `load_network`. The keys:

        file, bytes, sha256, format ("pickle", "safetensors" or "other")
        refusal     why `load_network` refuses the file; None if it does not
        names       what a pickle would import
        classes     source texts in a pickle: class_name, source_sha256, source_characters, count of objects
        network     class, arguments, parameters (count, buffers not included), tensors (count per type);
                    None if the file cannot be read or holds none
        encoder, loss_fn    class and arguments, or None
        dataset_kwargs

    Raises OSError if the file cannot be had, UnsafePickleError for an empty one.
    """
    path = network_file(source, offline=offline)
    report: dict[str, Any] = {
        "file": without_secrets(os.fspath(source)),
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
    }
    if is_safetensors(path):
        return report | {"format": "safetensors"} | inspect_safetensors(path)
    try:
        safe_pickle.check_is_pickle(path)
    except OtherFormatError as error:
        return report | {"format": "other"} | _nothing(f"no network file: {error}")
    except UnsafePickleError as error:  # empty, or far too large
        raise type(error)(f"{report['file']}: {error}") from error
    return report | {"format": "pickle"} | _inspect_pickle(path)


def _nothing(refusal: str | None) -> dict[str, Any]:
    """The report on a pickle of which no more is known."""
    return {
        "refusal": refusal,
        "names": [],
        "classes": [],
        "network": None,
        "encoder": None,
        "loss_fn": None,
        "dataset_kwargs": {},
    }


def _inspect_pickle(path: Path) -> dict[str, Any]:
    with odd_files_are_value_errors():
        scan = safe_pickle.scan(path)
    report = _nothing(scan.refusal)
    report |= {"names": list(scan.names), "classes": [asdict(found) for found in scan.classes]}
    if scan.refusal is not None:
        return report
    try:
        with odd_files_are_value_errors():
            return report | _inspect_content(scan.content)
    except ValueError as error:
        return report | {"refusal": str(error)}


def _inspect_content(content: Any) -> dict[str, Any]:
    """What a pickle that was read holds, for `inspect_network`. ValueError if it is no network file."""
    parts = network_parts(content)
    report: dict[str, Any] = {"refusal": None}
    report["network"] = _shown_object(parts.ema) | _tensor_counts(parts.ema)
    report["encoder"] = None if parts.encoder is None else _shown_object(parts.encoder)
    report["loss_fn"] = None if parts.loss_fn is None else _shown_object(parts.loss_fn)
    report["dataset_kwargs"] = _shown(parts.dataset_kwargs)
    try:
        with odd_files_are_value_errors():
            match_network(parts.ema)
            if parts.encoder is not None:
                build_encoder(parts.encoder)
    except ValueError as error:
        report["refusal"] = str(error)
    return report


class _AnyKeywords:
    """Stands for a class that is not known here: its keyword arguments have their names, positional ones none."""

    def __init__(self, **kwargs: Any) -> None: ...


def _shown_object(record: Any) -> dict[str, Any]:
    if not isinstance(record, PersistentRecord):
        return {"class": type(record).__name__, "arguments": {}}
    args, kwargs = record.state.get("_init_args"), record.state.get("_init_kwargs")
    known: type = {**NETWORK_CLASSES, **ENCODER_CLASSES, **LOSS_CLASSES}.get(record.class_name, _AnyKeywords)
    try:
        arguments = named_arguments(known, args, kwargs, record.class_name, defaults=False)
    except ValueError:
        arguments = {"args": args, "kwargs": kwargs}
    return {"class": record.class_name, "arguments": _shown(arguments), "source_sha256": record.source_sha256}


def _shown(value: Any) -> Any:
    """A value of the file for JSON; what is neither number, text, list nor dictionary is described."""
    if isinstance(value, dict):
        return {str(key): _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.size <= 64):
        return _shown(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value if isinstance(value, str | int | float | bool | None) else reprlib.repr(value)


def _tensor_counts(record: Any) -> dict[str, Any]:
    """Number of parameters, and number of tensors of each type, buffers included."""
    parameters, types = 0, dict[str, int]()
    for kind, tensor in _stored_tensors(record):
        parameters += tensor.numel if kind == "_parameters" else 0
        types[tensor.dtype] = types.get(tensor.dtype, 0) + 1
    return {"parameters": parameters, "tensors": types}


def _stored_tensors(record: Any) -> Iterator[tuple[str, StoredTensor]]:
    if not isinstance(record, PersistentRecord | ModuleRecord):
        return
    for kind in ("_parameters", "_buffers"):
        entries = record.state.get(kind)
        for tensor in entries.values() if isinstance(entries, dict) else ():
            if isinstance(tensor, StoredTensor):
                yield kind, tensor
    children = record.state.get("_modules")
    for child in children.values() if isinstance(children, dict) else ():
        yield from _stored_tensors(child)


# ----------------------------------------------------------------------------
# For people.


_SHOWN = 400  # characters of a name or value
_LISTED = 40  # names and values


def report_lines(report: dict[str, Any]) -> list[str]:
    """A report of `inspect_network` as aligned lines of text."""
    kind = "" if report["format"] == "other" else f"{report['format']}, "
    lines = [
        f"file      {report['file']} ({kind}{report['bytes']:,} bytes)",
        f"sha256    {report['sha256']}",
    ]
    network = report["network"]
    if network is not None:
        lines.append(f"network   {_call(network)}")
    if network is not None and "parameters" in network:
        tensors = ", ".join(f"{count} {dtype}" for dtype, count in network["tensors"].items())
        lines.append(f"          {network['parameters']:,} parameters; tensors: {tensors}")
    if network is not None and "parameters" in network and "encoder" in report:
        encoder = report["encoder"]
        lines.append(f"encoder   {'none in the file: plain RGB' if encoder is None else _call(encoder)}")
    if report.get("loss_fn") is not None:
        lines.append(f"loss      {_call(report['loss_fn'])}")
    if report["dataset_kwargs"]:
        lines.append(f"dataset   {_listed(_in_short(report['dataset_kwargs']))}")
    if report.get("source_sha256") is not None:
        lines.append(f"made of   a file with sha256 {report['source_sha256']}")
    for found in report.get("classes", ()):
        what = f"{found['count']} x {found['class_name']}, {found['source_characters']} characters of source"
        lines.append(f"class     {what}, sha256 {found['source_sha256']}")
    lines.extend(f"name      {name}" for name in report.get("names", ()))
    refusal = report["refusal"]
    by = f", by {report['reader']}" if "reader" in report else ""
    answer = (
        f"yes{by}: rebuilt with {report.get('rebuilt_with', 'our own classes')}"
        if refusal is None
        else f"refused{by}: {refusal}"
    )
    lines.append(f"reading   {answer}")
    return [printable(line) for line in lines]


def _in_short(values: dict[str, Any]) -> dict[str, Any]:
    """Without the names of many classes."""
    names = values.get("class_names")
    if not isinstance(names, list) or len(names) <= 10:
        return values
    return {**values, "class_names": [*names[:10], f"and {len(names) - 10} more"]}


def _call(shown: dict[str, Any]) -> str:
    return f"{shown['class']}({_listed(shown['arguments'])})"


def _listed(values: dict[str, Any]) -> str:
    """Names and values, as much of them as a reader takes in; JSON has all."""
    shown = [f"{name[:_SHOWN]}={_cut(repr(value))}" for name, value in list(values.items())[:_LISTED]]
    return ", ".join([*shown, f"{len(values) - _LISTED} more"] if len(values) > _LISTED else shown)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
