"""Network pickles of EDM's code base (arXiv 2206.00364): read by `torch_utils.safe_pickle`, so that nothing runs.

A file names its preconditioner and the arguments of its constructor. Our classes are built of these, and must then
agree with it in every layer, attribute, name and shape, and in the filters that it holds as tensors.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.download import fetch
from dnnlib.errors import odd_files_are_value_errors
from dnnlib.regular import sha256_of
from edm2_guidance.models.networks.edm import (
    PRECONDS,
    Architecture,
    Conv2d,
    Precond,
    ShapesOnly,
    iddpm_levels,
    iDDPMPrecond,
    resampling_kernel,
)
from edm2_guidance.recipe.class_names import checked_names
from torch_utils import safe_pickle
from torch_utils.finite import first_not_finite
from torch_utils.persistence import FORMAT_VERSION
from torch_utils.safe_pickle import PersistentRecord, UnsafePickleError
from training.dataset import MAX_CLASSES
from training.flops import Cost, cost_of
from training.network_inspect import inspect_network
from training.network_records import checked_arguments, compare_module, integer, list_of, network_parts, number

_PEEK = 1 << 20  # bytes at the start of a file: the network's class follows its source text, of 36 kB
_ROUNDING = 1e-3  # of numbers that files have in float32, computed step by step

_COMMON: dict[str, Callable[[Any], bool]] = {
    "img_resolution": integer(1, 2**12),
    "img_channels": integer(1, 2**10),
    "label_dim": integer(0, MAX_CLASSES),
    "use_fp16": lambda value: type(value) is bool,
    "model_type": lambda value: value in ("SongUNet", "DhariwalUNet"),
    "augment_dim": integer(0, 2**10),
    "model_channels": integer(4, 2**12),
    "channel_mult": lambda value: list_of(integer(1, 2**6), 10)(value) and len(value) > 0,
    "channel_mult_emb": integer(1, 2**6),
    "num_blocks": integer(1, 32),
    "attn_resolutions": list_of(integer(0, 2**12), 64),
    "dropout": number(0, 1),
    "label_dropout": number(0, 1),
    "embedding_type": lambda value: value in ("positional", "fourier"),
    "channel_mult_noise": integer(1, 2**6),
    "encoder_type": lambda value: value in ("standard", "skip", "residual"),
    "decoder_type": lambda value: value in ("standard", "skip"),
    "resample_filter": lambda value: list_of(integer(1, 2**6), 4)(value) and len(value) in (2, 4),
}
_OWN: dict[str, dict[str, Callable[[Any], bool]]] = {
    "EDMPrecond": {
        "sigma_min": number(0, 1e6),
        "sigma_max": lambda value: type(value) in (int, float) and value > 0,
        "sigma_data": number(1e-6, 1e6),
    },
    "VPPrecond": {
        "beta_d": number(1e-6, 1e3),
        "beta_min": number(0, 1e3),
        "M": integer(2, 2**16),
        "epsilon_t": number(1e-9, 1),
    },
    "VEPrecond": {"sigma_min": number(1e-9, 1e6), "sigma_max": number(1e-9, 1e6)},
    "iDDPMPrecond": {"C_1": number(1e-9, 1), "C_2": number(0, 1), "M": integer(2, 2**14)},
}
_UNET_TYPE = {
    "EDMPrecond": "DhariwalUNet",
    "VPPrecond": "SongUNet",
    "VEPrecond": "SongUNet",
    "iDDPMPrecond": "DhariwalUNet",
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "SongUNet": {},
    "DhariwalUNet": {
        "model_channels": 192,
        "channel_mult": (1, 2, 3, 4),
        "num_blocks": 3,
        "attn_resolutions": (32, 16, 8),
    },
}
_SONG_ONLY = ("embedding_type", "encoder_type", "decoder_type", "channel_mult_noise", "resample_filter")


@dataclass(frozen=True)
class EdmFile:
    """net: in evaluation mode, without gradients, in float32. source: as given. sha256: of the file."""

    net: Precond
    source: str
    sha256: str
    class_names: tuple[str, ...] | None = None


def load_edm(source: str, *, offline: bool = False) -> EdmFile:
    """A network by path or URL, on the CPU. Nothing in the file is run.

    Raises ValueError (of which UnsafePickleError is one) for what our classes do not reproduce exactly, OSError if it
    cannot be had or read.
    """
    path = fetch(source, offline=offline)
    digest = sha256_of(path)
    try:
        with odd_files_are_value_errors():
            net, names = _read(path)
    except ValueError as error:
        kind = UnsafePickleError if isinstance(error, UnsafePickleError) else ValueError
        raise kind(f"{source} is no network of EDM's: {error}") from error
    return EdmFile(net, source, digest, names)


def recognises(source: str, *, offline: bool) -> bool:
    """Whether a source is a pickle that names one of EDM's preconditioners near its start, where networks do."""
    path = fetch(source, offline=offline)
    if path.suffix not in (".pkl", ""):
        return False
    with open(path, "rb") as file:
        start = file.read(_PEEK)
    return start[:1] == b"\x80" and any(text in start for name in PRECONDS for text in _as_pickled(name))


def _as_pickled(name: str) -> tuple[bytes, bytes]:
    """A text as protocols 4 and 2 write it."""
    raw = name.encode()
    return b"\x8c" + bytes([len(raw)]) + raw, b"X" + len(raw).to_bytes(4, "little") + raw


def inspect(source: str, *, offline: bool = False) -> dict[str, Any]:
    """What is in a file, as `training.network_inspect.inspect_network`."""
    report = inspect_network(source, offline=offline)
    if report["network"] is None or "class" not in report["network"]:
        return report
    try:
        with odd_files_are_value_errors():
            _read(fetch(source, offline=offline))
    except ValueError as error:
        return report | {"refusal": str(error)}
    return report | {"refusal": None}


def cost(source: str, *, offline: bool = False) -> Cost:
    """What one evaluation costs. As `load_edm`."""
    return network_cost(load_edm(source, offline=offline).net)


def network_cost(net: Precond) -> Cost:
    """What one evaluation of such a network costs, counted without its weights."""
    with torch.device("meta"), ShapesOnly():
        twin = type(net)(net.model.arch)
    image = torch.empty([1, net.img_channels, net.img_resolution, net.img_resolution], device="meta")
    labels = torch.empty([1, net.label_dim], device="meta") if net.label_dim else None
    return cost_of(twin, image, torch.ones([], device="meta"), labels)


# ----------------------------------------------------------------------------
# From records to networks.


def _read(path: Path) -> tuple[Precond, tuple[str, ...] | None]:
    parts = network_parts(safe_pickle.load(path))
    if parts.encoder is not None:
        raise ValueError("it has an encoder, which EDM's networks of pixels have not")
    return build_network(parts.ema), checked_names(parts.dataset_kwargs.get("class_names"))


def build_network(record: Any, where: str = "ema") -> Precond:
    """The network that a file's record describes; ValueError if it is of no known class, or differs from ours."""
    if not isinstance(record, PersistentRecord) or record.class_name not in PRECONDS:
        name = getattr(record, "class_name", type(record).__name__)
        raise ValueError(f"{where}: class {name} is not known here (only {', '.join(PRECONDS)})")
    if record.version != FORMAT_VERSION:
        raise ValueError(f"{where}: persistence format {record.version}; only {FORMAT_VERSION} is known")
    net = _empty(record.class_name, _arguments(record, where), where)
    tensors: dict[str, Any] = {}
    levels: dict[str, Any] = {name: record.state.get(name) for name in ("sigma_min", "sigma_max")}
    others = {name: value for name, value in record.state.items() if name not in levels}
    compare_module(replace(record, state=others), net, where, "", tensors)
    if len({id(tensor) for tensor in tensors.values()}) < len(tensors):
        raise ValueError(f"{where}: two tensors are one, which {record.class_name} does not do")
    for name, value in levels.items():
        own = getattr(net, name)
        if type(value) not in (int, float) or not _near(value, own):
            raise ValueError(f"{where}: attribute {name} is {value!r}, but {own} as its constructor arguments make it")
        setattr(net, name, float(value))
    return _filled(net, {name: tensor.to_torch().float() for name, tensor in tensors.items()}, where)


def _arguments(record: PersistentRecord, where: str) -> dict[str, Any]:
    """Those of the constructor, by name."""
    args, kwargs = record.state.get("_init_args"), record.state.get("_init_kwargs")
    if args != () or not isinstance(kwargs, dict):
        raise ValueError(f"{where}: the file does not say by name what {record.class_name} was constructed with")
    checked = checked_arguments(record.class_name, kwargs, where, {**_COMMON, **_OWN[record.class_name]})
    missing = {"img_resolution", "img_channels"} - checked.keys()
    if missing:
        raise ValueError(f"{where}: the file does not give {', '.join(sorted(missing))}")
    return checked


def _empty(class_name: str, arguments: Mapping[str, Any], where: str) -> Precond:
    """A network whose tensors have shapes but no memory, from checked arguments."""
    kind = arguments.get("model_type", _UNET_TYPE[class_name])
    own = {name: value for name, value in arguments.items() if name in _OWN[class_name] or name == "use_fp16"}
    known = {each.name for each in fields(Architecture)} - (set(_SONG_ONLY) if kind == "DhariwalUNet" else set())
    of_unet = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in arguments.items()
        if name not in own and name not in ("model_type", "img_channels")
    }
    unknown = of_unet.keys() - known
    if unknown:
        raise ValueError(f"{where}: {kind} has no constructor argument {sorted(unknown)[0]!r}")
    channels = arguments["img_channels"]
    outputs = channels * (2 if class_name == "iDDPMPrecond" else 1)
    try:
        arch = Architecture(kind, in_channels=channels, out_channels=outputs, **{**_DEFAULTS[kind], **of_unet})
        with torch.device("meta"), ShapesOnly():
            return PRECONDS[class_name](arch, **own)
    except (ValueError, RuntimeError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"{where}: {class_name} cannot be constructed so: {error}") from error


def _filled(net: Precond, tensors: dict[str, Tensor], where: str) -> Precond:
    """A network of these tensors, whose filters and levels must be those that its arguments make."""
    bad = first_not_finite(tensors)
    if bad is not None:
        raise ValueError(f"{where}: {bad} is not finite")
    net.load_state_dict(tensors, assign=True)
    for name, layer in net.named_modules():
        found = layer.resample_filter if isinstance(layer, Conv2d) else None
        if found is not None and not torch.allclose(found, resampling_kernel(layer.taps), rtol=1e-6):
            raise ValueError(f"{where}: {name}.resample_filter is not what its constructor arguments make")
    if isinstance(net, iDDPMPrecond):
        levels_of_file, expected = net.u.tolist(), iddpm_levels(net.C_1, net.C_2, net.M)
        falling = all(a > b for a, b in itertools.pairwise(levels_of_file))
        if not falling or not all(map(_near, levels_of_file, expected)):
            raise ValueError(f"{where}: its noise levels u are not those that its constructor arguments make")
    return net.eval().requires_grad_(False)


def _near(a: float, b: float) -> bool:
    return a == b or abs(a - b) <= _ROUNDING * abs(a)
