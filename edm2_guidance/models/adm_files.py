"""Files of ADM networks (arXiv 2105.05233): the published ones, known by their tensors alone, and our own.

A published `.pt` is a state dict. Ours are safetensors: the tensors, and as JSON in the metadata

    adm_network: {version: 1, architecture: the fields of `Architecture`, class_names: list or null}
"""

import json
import os
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from safetensors.torch import save
from torch import Tensor

from dnnlib.atomic import atomic_path
from dnnlib.download import fetch
from dnnlib.errors import odd_files_are_value_errors
from dnnlib.published import published_as
from dnnlib.regular import sha256_of
from dnnlib.terminal import counted, printable
from dnnlib.urls import without_secrets
from edm2_guidance.images.zips import parse_object
from edm2_guidance.models.networks.adm import Architecture, Classifier, UNet
from edm2_guidance.recipe.class_names import checked_names
from torch_utils.tensor_file import read_tensors
from training.flops import Cost, cost_of
from training.network_safetensors import DamagedFileError, is_safetensors, opened

CONFIG_KEY = "adm_network"
CONFIG_VERSION = 1
_MAX_NAME = 200  # characters of a tensor's name that are shown
_LARGEST, _MAX_BLOCKS = 1 << 17, 32  # of what an architecture counts, and of its levels times blocks

_LEVELS = {
    64: (1.0, 2.0, 3.0, 4.0),
    128: (1.0, 1.0, 2.0, 3.0, 4.0),
    256: (1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
    512: (0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
}
_256 = Architecture("denoiser", 256, 256, _LEVELS[256], 2, 1000, float16=True)


def _classifier(size: int, blocks: int = 2) -> Architecture:
    return Architecture("classifier", size, 128, _LEVELS[size], blocks, 1000)


#: Of all published files; those of LSUN are as `adm-256-uncond`.
PUBLISHED: Mapping[str, Architecture] = MappingProxyType({
    "adm-64": replace(_256, image_size=64, width=192, mult=_LEVELS[64], blocks=3, order="new", betas="cosine"),
    "adm-128": replace(_256, image_size=128, mult=_LEVELS[128], heads=4),
    "adm-256": _256,
    "adm-256-uncond": replace(_256, classes=0),
    "adm-512": replace(_256, image_size=512, mult=_LEVELS[512], float16=False),
    "adm-64-256": replace(_256, role="upsampler", width=192, heads=4),
    "adm-128-512": replace(_256, role="upsampler", image_size=512, width=192),
    "adm-64-classifier": replace(_classifier(64, blocks=4), betas="cosine"),
    **{f"adm-{size}-classifier": _classifier(size) for size in (128, 256, 512)},
})  # fmt: skip


@dataclass(frozen=True)
class AdmFile:
    """net: in evaluation mode, without gradients, in float32. source: as given. sha256: of the file."""

    net: UNet | Classifier
    source: str
    sha256: str
    class_names: tuple[str, ...] | None = None


def load_adm(source: str, *, offline: bool = False) -> AdmFile:
    """A network by path, URL or name, on the CPU. Nothing in a file is run.

    Raises ValueError for what is no ADM network, or one with a tensor missing, unknown, or of another shape; OSError if
    it cannot be had or read.
    """
    path = fetch(source, offline=offline)
    digest = sha256_of(path)
    try:
        with odd_files_are_value_errors():
            arch, state, names = _read(path)
            net = _filled(arch, state)
    except ValueError as error:
        raise ValueError(
            f"{source} is no network or classifier of ADM's: {str(error).removeprefix(f'{path}: ')}"
        ) from error
    return AdmFile(net.eval().requires_grad_(False), source, digest, names)


def save_adm(path: str | os.PathLike[str], net: UNet | Classifier, class_names: Sequence[str] | None = None) -> None:
    """Write a network as safetensors, atomically, tensors in float16."""
    config = {"version": CONFIG_VERSION, "architecture": asdict(net.arch), "class_names": class_names}
    tensors = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in net.state_dict().items()}
    with atomic_path(path) as temporary:
        # One entry of metadata only: safetensors writes several in random order.
        temporary.write_bytes(save(tensors, {CONFIG_KEY: json.dumps(config)}))


def cost(source: str, *, offline: bool = False) -> Cost:
    """What one evaluation costs; of a published network, by name, without its file. As `load_adm`."""
    arch = PUBLISHED.get(source)
    net = (arch or load_adm(source, offline=offline).net.arch).empty()
    size = net.arch.image_size
    image, t = torch.empty([1, 3, size, size], device="meta"), torch.empty([1], device="meta")
    if isinstance(net, Classifier):
        return cost_of(net, image, t)
    small = torch.empty([1, 3, size // 4, size // 4], device="meta") if net.arch.role == "upsampler" else None
    return cost_of(
        net, image, t, torch.empty([1, net.arch.classes], device="meta") if net.arch.classes else None, small
    )


def recognises(source: str, *, offline: bool) -> bool:
    """Whether a source counts as ADM's: `.pt`, also under a published name, or safetensors whose metadata say so."""
    source, _ = published_as(source)
    if source.endswith(".pt"):  # then it is not fetched for that
        return True
    path = fetch(source, offline=offline)
    if not is_safetensors(path):
        return path.suffix == ".pt"
    with suppress(DamagedFileError), opened(path) as file:
        return CONFIG_KEY in (file.metadata() or {})
    return False


def inspect(source: str, *, offline: bool = False) -> dict[str, Any]:
    """What is in a file, as `training.network_inspect.inspect_network`."""
    path = fetch(source, offline=offline)
    report: dict[str, Any] = {
        "file": without_secrets(source),
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "format": "safetensors" if is_safetensors(path) else "pickle",
        "refusal": None,
        "network": None,
        "dataset_kwargs": {},
    }
    try:
        with odd_files_are_value_errors():
            arch, state, names = _read(path)
            net = _filled(arch, state)
    except ValueError as error:
        return report | {"refusal": str(error).removeprefix(f"{path}: ")}
    report["network"] = {
        "class": type(net).__name__,
        "arguments": asdict(arch),
        "parameters": sum(weights.numel() for weights in net.parameters()),
        "tensors": Counter(str(value.dtype).removeprefix("torch.") for value in state.values()),
    }
    return report | {"dataset_kwargs": {} if names is None else {"class_names": list(names)}}


def _read(path: Path) -> tuple[Architecture, Mapping[Any, Tensor], tuple[str, ...] | None]:
    """Architecture, tensors and names of classes."""
    if is_safetensors(path):
        return _from_safetensors(path)
    state = read_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            "expected a state dict, tensors by their names and nothing else; of a training state give the network file "
            "that its trainer wrote beside it (network-snapshot-KIMG-LENGTH.pkl)"
        )
    return _nearest(state), state, None


def _nearest(state: Mapping[Any, Tensor]) -> Architecture:
    """The published architecture that these tensors differ least from. ValueError if none begins as they do."""
    found = {name: tuple(value.shape) for name, value in state.items()}
    stem = found.get("input_blocks.0.0.weight")
    near = [arch for arch in PUBLISHED.values() if (arch.channels(0), arch.inputs, 3, 3) == stem]
    if not near:
        known = ", ".join(PUBLISHED)
        raise ValueError(f"its tensors ({len(state)}) are not those of a published file ({known})")
    return min(near, key=lambda arch: len(found.items() ^ _shapes(arch).items()))


@cache
def _shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in arch.empty().state_dict().items()}


def _from_safetensors(path: Path) -> tuple[Architecture, Mapping[Any, Tensor], tuple[str, ...] | None]:
    with opened(path) as file:
        config = _config((file.metadata() or {}).get(CONFIG_KEY))
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return _architecture(config["architecture"]), state, checked_names(config["class_names"])


def _config(text: str | None) -> dict[str, Any]:
    if text is None:
        raise ValueError(f"its metadata have no entry {CONFIG_KEY}")
    config = parse_object(text.encode("utf-8", "surrogatepass"), f"the metadata entry {CONFIG_KEY}")
    if config.keys() != {"version", "architecture", "class_names"} or config["version"] != CONFIG_VERSION:
        raise ValueError(f"the metadata entry {CONFIG_KEY} is not of version {CONFIG_VERSION}")
    return config


def _architecture(entry: Any) -> Architecture:
    """Of the fields that a file gives, which may be older than some with a default. ValueError for what none has."""
    hints = get_type_hints(Architecture)
    required = {field.name for field in fields(Architecture) if field.default is MISSING}
    if not isinstance(entry, dict) or not required <= entry.keys() <= hints.keys():
        raise ValueError("its metadata do not give the fields of an architecture")
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    for name, value in given.items():
        if not _possible(value, hints[name]):
            raise ValueError(f"its metadata say {name} = {reprlib.repr(value)}, which no network has")
    arch = Architecture(**given)
    if arch.blocks * len(arch.mult) > _MAX_BLOCKS:
        raise ValueError(f"its metadata say {arch.blocks} blocks on {len(arch.mult)} levels: no network has as many")
    return arch


def _possible(value: Any, kind: Any) -> bool:
    """Whether a value is of the type of a field, and no larger than of any network."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_possible(each, get_args(kind)[0]) for each in value[:_MAX_BLOCKS])
    if kind is float:
        return isinstance(value, int | float) and 0 < value <= _LARGEST
    return type(value) is int and 0 <= value <= _LARGEST if kind is int else isinstance(value, kind)


def _filled(arch: Architecture, state: Mapping[Any, Tensor]) -> UNet | Classifier:
    """A network of these tensors, in float32. ValueError unless they are exactly those that it has."""
    expected = _shapes(arch)
    found = {name: tuple(value.shape) if value.is_floating_point() else value.dtype for name, value in state.items()}
    wrong = [name for name in [*expected, *(found.keys() - expected.keys())] if expected.get(name) != found.get(name)]
    if wrong:
        name = wrong[0]
        there, here = found.get(name, "missing"), expected.get(name, "unknown")
        more = f", and {counted(len(wrong) - 1, 'other')} like it" if len(wrong) > 1 else ""
        raise ValueError(f"tensor {printable(str(name)[:_MAX_NAME])} is {there} in the file, {here} in a network{more}")
    net = arch.empty()
    net.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return net
