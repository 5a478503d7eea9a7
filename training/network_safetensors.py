"""The safetensors form of a network file: the tensors as they are, the rest as JSON in the metadata.

The entry `edm2_network` of the metadata is the JSON of

    {version: 1, network: {class, arguments}, encoder: {class, arguments} or null, dataset_kwargs, source_sha256}

with constructor arguments by name and the SHA-256 of the file that was converted, or null. Reading is as strict as for
pickles: known classes, possible arguments, and exactly the tensors that the class has.
"""

import json
import os
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from dnnlib.atomic import atomic_path
from dnnlib.errors import odd_files_are_value_errors
from dnnlib.regular import open_regular
from edm2_guidance.images.zips import parse_object
from torch_utils.finite import first_not_finite
from training.encoders import Encoder, StandardRGBEncoder
from training.network_records import (
    ENCODER_CLASSES,
    NETWORK_CLASSES,
    check_unchanged,
    checked_arguments,
    empty_network,
    fill_network,
    named_arguments,
    new_encoder,
    plain_copy,
)
from training.networks_edm2 import Precond

CONFIG_KEY = "edm2_network"
CONFIG_VERSION = 1
_MAX_REASON = 300  # characters of what the library has to say; it quotes names of any length
_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


def save_safetensors(
    path: str | os.PathLike[str],
    net: Precond,
    *,
    encoder: Encoder | None = None,
    dataset_kwargs: Mapping[str, Any] | None = None,
    source_sha256: str | None = None,
) -> None:
    """Write a network as safetensors, atomically: tensors in their types, the rest as JSON in the metadata.

    source_sha256: of the file that the network came from, if it came from one.

    Raises ValueError for what reading would refuse, and for values that are not finite; OSError if the file cannot be
    written.
    """
    if type(net) not in NETWORK_CLASSES.values() or type(encoder) not in {type(None), *ENCODER_CLASSES.values()}:
        raise ValueError(
            f"only {', '.join(NETWORK_CLASSES)} with {', '.join(ENCODER_CLASSES)} can be written as safetensors, "
            f"got {type(net).__name__} with {type(encoder).__name__}"
        )
    config = {
        "version": CONFIG_VERSION,
        "network": _class_and_arguments(net),
        "encoder": None if encoder is None else _class_and_arguments(encoder),
        "dataset_kwargs": plain_copy(dataset_kwargs or {}, "dataset_kwargs"),
        "source_sha256": source_sha256,
    }
    check_unchanged(net)
    bad = first_not_finite(net.state_dict())
    if bad is not None:
        raise ValueError(f"{os.fspath(path)} is not written: the network's {bad} is not finite")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    with atomic_path(path) as temporary:
        try:
            safetensors.torch.save_file(tensors, temporary, {CONFIG_KEY: json.dumps(config)})
        except safetensors.SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error


def _class_and_arguments(obj: Any) -> dict[str, Any]:
    cls = type(obj)
    arguments = named_arguments(cls, obj.init_args, obj.init_kwargs, cls.__name__, defaults=False)
    return {"class": cls.__name__, "arguments": plain_copy(arguments, cls.__name__)}


def is_safetensors(path: Path) -> bool:
    """By the name's ending, or the content: length of the header (uint64), then the header's brace."""
    with open_regular(path) as file:
        start = file.read(9)
    header = int.from_bytes(start[:8], "little")
    return path.suffix == ".safetensors" or (start[8:] == b"{" and header <= path.stat().st_size)


def read_safetensors(path: Path) -> tuple[Precond, Encoder, dict[str, Any]]:
    """Network, encoder and dataset_kwargs of a file. Raises ValueError for anything but what this module writes."""
    with opened(path) as file:
        config, net = _checked_header(file)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return fill_network(net, tensors), _encoder_of(config["encoder"]), config["dataset_kwargs"]


def inspect_safetensors(path: Path) -> dict[str, Any]:
    """Content of a file for `network_inspect.inspect_network`, with the reason why it is refused, if it is."""
    report: dict[str, Any] = {"refusal": None, "network": None, "encoder": None, "dataset_kwargs": {}}
    try:
        with odd_files_are_value_errors(), opened(path) as file:
            config = _checked_config(file.metadata())
            report |= {key: config[key] for key in ("network", "encoder", "dataset_kwargs", "source_sha256")}
            _, net = _checked_header(file)
            types = Counter(_TYPES[file.get_slice(name).get_dtype()] for name in net.state_dict())
        _encoder_of(config["encoder"])
        parameters = sum(parameter.numel() for parameter in net.parameters())
        report["network"] |= {"parameters": parameters, "tensors": dict(types)}
    except ValueError as error:
        report["refusal"] = str(error)
    return report


class DamagedFileError(ValueError):
    """A file that is no complete safetensors file."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, as `safetensors.safe_open` gives it; its errors are a DamagedFileError."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except safetensors.SafetensorError as error:
        reason = str(error)[:_MAX_REASON]
        raise DamagedFileError(f"damaged or incomplete safetensors file: {reason}") from error


def _checked_header(file: Any) -> tuple[dict[str, Any], Precond]:
    """Config, and the network without memory; ValueError unless the file has exactly the network's tensors."""
    config = _checked_config(file.metadata())
    cls, arguments = _class_of(config["network"], NETWORK_CLASSES, "network")
    net = empty_network(cls, arguments, "network")
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    stored = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    shapes = {name: tuple(tensor.get_shape()) for name, tensor in stored.items()}
    for name in sorted(expected.keys() | stored.keys()):
        if expected.get(name) != shapes.get(name):
            there, here = shapes.get(name, "missing"), expected.get(name, "unknown")
            shown = name[:_MAX_REASON]
            raise ValueError(f"tensor {shown} is {there} in the file, {here} in the network of these arguments")
        if stored[name].get_dtype() not in _TYPES:
            raise ValueError(f"tensor {name} is of type {stored[name].get_dtype()}, not of {', '.join(_TYPES)}")
    return config, net


def _checked_config(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    text = (metadata or {}).get(CONFIG_KEY)
    if text is None:
        raise ValueError(f"no EDM2 network of this project: the metadata has no entry {CONFIG_KEY}")
    config = parse_object(text.encode("utf-8", "surrogatepass"), f"the metadata entry {CONFIG_KEY}")
    keys = {"version", "network", "encoder", "dataset_kwargs", "source_sha256"}
    if config.keys() != keys or config["version"] != CONFIG_VERSION:
        raise ValueError(f"the metadata entry {CONFIG_KEY} is not of version {CONFIG_VERSION}")
    if not isinstance(config["dataset_kwargs"], dict):
        raise ValueError("dataset_kwargs in the metadata is not a dictionary")
    if not isinstance(config["source_sha256"], str | None):
        raise ValueError("source_sha256 in the metadata is not a text")
    _checked_class(config["network"], NETWORK_CLASSES, "network")
    if config["encoder"] is not None:
        _checked_class(config["encoder"], ENCODER_CLASSES, "encoder")
    return config


def _encoder_of(entry: Any) -> Encoder:
    if entry is None:
        return StandardRGBEncoder()
    cls, arguments = _class_of(entry, ENCODER_CLASSES, "encoder")
    return new_encoder(cls, arguments, "encoder")


def _checked_class(entry: Any, known: Mapping[str, Any], where: str) -> None:
    """ValueError unless an entry of the metadata names a known class, and arguments, whatever they are."""
    if not isinstance(entry, dict) or entry.keys() != {"class", "arguments"}:
        raise ValueError(f"{where}: the metadata does not name a class and its arguments")
    name, arguments = entry["class"], entry["arguments"]
    if not isinstance(name, str) or name not in known or not isinstance(arguments, dict):
        raise ValueError(f"{where}: class {reprlib.repr(name)} is not known here (only {', '.join(known)})")


def _class_of(entry: Mapping[str, Any], known: Mapping[str, Any], where: str) -> tuple[Any, dict[str, Any]]:
    """Class and checked arguments of an entry that `_checked_class` let pass."""
    return known[entry["class"]], checked_arguments(entry["class"], entry["arguments"], where)
