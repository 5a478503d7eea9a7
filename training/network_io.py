"""Network files: reading, writing and looking into them.

Two forms. EDM2's pickle (a dictionary with `ema`, `encoder`, `dataset_kwargs` and `loss_fn`, or one bare network) is
read by `torch_utils.safe_pickle`, which runs nothing, and rebuilt with our own classes by `training.network_records`;
written, it carries the source text of our classes and so loads in the EDM2 code base. The safetensors form holds the
same tensors, bit for bit, and the rest as JSON in its metadata.

Tensors keep the type of the file, float16 in published networks: see `networks_edm2.effective_gain` for why that
matters.
"""

import copy
import itertools
import os
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dnnlib.atomic import atomic_path
from dnnlib.errors import odd_files_are_value_errors
from dnnlib.regular import sha256_of
from dnnlib.util import EasyDict
from edm2_guidance.recipe.class_names import checked_names
from torch_utils import persistence, pickle_writer, safe_pickle
from torch_utils.finite import first_not_finite
from torch_utils.safe_pickle import DamagedPickleError, OtherFormatError, UnsafePickleError
from training.encoders import Encoder, StandardRGBEncoder
from training.network_inspect import inspect_network, network_file
from training.network_records import (
    NETWORK_CLASSES,
    build_encoder,
    build_loss,
    build_network,
    check_unchanged,
    describe,
    network_parts,
    plain_copy,
)
from training.network_safetensors import DamagedFileError, is_safetensors, read_safetensors, save_safetensors
from training.networks_edm2 import Precond

__all__ = ["NetworkFile", "inspect_network", "load_network", "save_network", "save_safetensors"]

TRUST_HINT = "If you trust whoever made the file, --trust-pickle (trust_pickle=True) executes it instead."
DAMAGE_HINT = "Fetch or copy it again."


@dataclass(frozen=True)
class NetworkFile:
    """What a network file holds, ready to use.

    net: denoiser in evaluation mode, without gradients, tensors in the file's types. encoder: plain RGB where the
    file names none. source: path or URL as given. sha256: of the file, 64 hex digits. dataset_kwargs: how the
    training set was opened, plain data; empty if the file does not say. loss_fn: what it was trained by; None if the
    file does not say, or by what is not known here.
    """

    net: Precond
    encoder: Encoder
    source: str
    sha256: str
    dataset_kwargs: dict[str, Any] = field(default_factory=dict)
    loss_fn: Any = None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of classes 0, 1, ..., as the training set had them; None if the file does not say."""
        return checked_names(self.dataset_kwargs.get("class_names"))


# ----------------------------------------------------------------------------
# Reading.


def load_network(
    source: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    trust_pickle: bool = False,
    offline: bool = False,
) -> NetworkFile:
    """Network and encoder from a pickle or safetensors file.

    source: path or URL. trust_pickle: give a pickle to Python's unpickler, which executes what the file says, with
    our `torch_utils` and `dnnlib` in place of NVIDIA's; says on stderr what that is. offline: use no network.

    Raises ValueError (of which UnsafePickleError is one), naming what is refused and what to do, for a file that is
    damaged or that our classes do not reproduce exactly; OSError if it cannot be had or read.
    """
    path = network_file(source, offline=offline)
    digest = sha256_of(path)
    read = _from_safetensors if is_safetensors(path) else _from_trusted_pickle if trust_pickle else _from_pickle
    try:
        with odd_files_are_value_errors():
            net, encoder, dataset_kwargs, loss_fn = read(path)
    except OtherFormatError as error:
        raise OtherFormatError(f"{os.fspath(source)} is no network file: {error}") from error
    except (DamagedPickleError, DamagedFileError) as error:
        raise type(error)(f"{os.fspath(source)}: {error}. {DAMAGE_HINT}") from error
    except ValueError as error:
        kind = UnsafePickleError if isinstance(error, UnsafePickleError) else ValueError
        hint = f". {TRUST_HINT}" if read is _from_pickle else ""
        raise kind(f"{os.fspath(source)}: {error}{hint}") from error
    return NetworkFile(net.to(device), encoder, os.fspath(source), digest, dataset_kwargs, loss_fn)


def _from_safetensors(path: Path) -> tuple[Precond, Encoder, dict[str, Any], None]:
    return (*read_safetensors(path), None)


def _from_pickle(path: Path) -> tuple[Precond, Encoder, dict[str, Any], Any]:
    parts = network_parts(safe_pickle.load(path))
    encoder = StandardRGBEncoder() if parts.encoder is None else build_encoder(parts.encoder)
    return build_network(parts.ema), encoder, parts.dataset_kwargs, build_loss(parts.loss_fn)


# ----------------------------------------------------------------------------
# Reading with trust: the one place where a file's own code runs.


def _from_trusted_pickle(path: Path) -> tuple[Any, Any, dict[str, Any], Any]:
    safe_pickle.check_is_pickle(path)
    print(_announcement(path), file=sys.stderr)
    try:
        with persistence.trusting(), open(path, "rb") as file:
            parts = network_parts(_TrustingUnpickler(file).load())
    except Exception as error:  # code of the file's own ran: it may fail in any way
        raise ValueError(f"executing the pickle failed: {type(error).__name__}: {error}") from error
    missing = [name for name in ("img_resolution", "img_channels", "label_dim") if not hasattr(parts.ema, name)]
    if not isinstance(parts.ema, nn.Module) or missing:
        raise ValueError(f"'ema' is no denoising network: {describe(parts.ema)} without {', '.join(missing)}")
    encoder = StandardRGBEncoder() if parts.encoder is None else parts.encoder
    return parts.ema.eval().requires_grad_(False), encoder, parts.dataset_kwargs, parts.loss_fn


def _announcement(path: Path) -> str:
    scan = safe_pickle.scan(path)
    lines = [f"trust_pickle: executing {path} (sha256 {sha256_of(path)})", f"  imports {', '.join(scan.names)}"]
    for source, classes in itertools.groupby(scan.classes, lambda found: found.source_sha256):
        group = list(classes)
        names = ", ".join(found.class_name for found in group)
        lines.append(f"  source text of {names}: {group[0].source_characters} characters, sha256 {source}")
    return "\n".join(lines)


class _TrustingUnpickler(pickle.Unpickler):
    """Python's unpickler; an object whose source needs a package that is not here (a loss, say) becomes None."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        found = super().find_class(module_name, global_name)
        return _reconstruct_if_possible if found is persistence._reconstruct_persistent_obj else found


def _reconstruct_if_possible(meta: Mapping[str, Any]) -> Any:
    try:
        return persistence._reconstruct_persistent_obj(meta)
    except ImportError as error:
        print(f"trust_pickle: left out an object of class {meta['class_name']}: {error}", file=sys.stderr)
        return None


# ----------------------------------------------------------------------------
# Writing.


def save_network(
    path: str | os.PathLike[str],
    net: Precond,
    *,
    encoder: Encoder | None = None,
    dataset_kwargs: Mapping[str, Any] | None = None,
    loss_fn: object | None = None,
) -> None:
    """Write a network pickle in EDM2's format, tensors in float16, atomically. `net` stays as it is.

    encoder None: readers take plain RGB. dataset_kwargs: plain data. loss_fn: an object of a persistent class.

    Raises ValueError for objects that such a file cannot hold, and for weights that are not finite, or not in float16;
    OSError if it cannot be written.
    """
    for name, part in {"net": net, "encoder": encoder, "loss_fn": loss_fn}.items():
        if part is not None and not persistence.is_persistent(part):
            raise ValueError(f"{name}: class {type(part).__name__} is not persistent, so no file can hold it")
    if type(net) in NETWORK_CLASSES.values():
        check_unchanged(net)
    content = EasyDict(ema=copy.deepcopy(net).eval().requires_grad_(False).to("cpu", torch.float16))
    bad = first_not_finite(content.ema.state_dict())
    if bad is not None:
        raise ValueError(f"{os.fspath(path)} is not written: the network's {bad} is not finite, or not in float16")
    if encoder is not None:
        content.encoder = encoder
    if dataset_kwargs is not None:
        content.dataset_kwargs = EasyDict(plain_copy(dataset_kwargs, "dataset_kwargs"))
    if loss_fn is not None:
        content.loss_fn = loss_fn
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        pickle_writer.dump(content, file)
