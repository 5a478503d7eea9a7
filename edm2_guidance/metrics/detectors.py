"""Opened extractors: networks with their weights, which give features by the names that these have in files.

Published weights are pinned by SHA-256. A file of your own takes their place by the argument `weights` or by the
environment variable EDM2_<METRIC>_WEIGHTS (EDM2_FID_WEIGHTS, EDM2_FD_DINOV2_WEIGHTS, EDM2_FD_MNIST_WEIGHTS): the
same file somewhere else, or other weights under the same parameter names, which every result then says.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dnnlib.download import fetch
from dnnlib.regular import sha256_of
from dnnlib.terminal import printable
from edm2_guidance.metrics import catalog
from edm2_guidance.metrics.extractors.base import Extractor
from torch_utils.memory import Batches
from torch_utils.tensor_file import read_tensors


@dataclass(frozen=True, eq=False)
class Detector:
    """Maps images to features, all that are asked for in one pass.

    name: of the extractor (`Extractor.stored_as`). dims: D of each of the features, by their name in files
    (`Extractor.stored`). keep: which are kept as they are, beside their mean and covariance. identity: what determines
    the features, for provenance: `network`, `weights_sha256`, `published` (whether these are the pinned weights),
    `resize`, `dtype`. run: network, images and names to features by name, if it is more than calling the network.
    """

    name: str
    dims: Mapping[str, int]
    identity: Mapping[str, Any]
    net: nn.Module
    device: torch.device
    keep: frozenset[str] = frozenset()
    run: Callable[[nn.Module, Tensor, Collection[str]], Mapping[str, Tensor]] | None = None
    memory: Batches = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "memory", Batches(self.name))

    @property
    def reduced(self) -> dict[str, int]:
        """{name: how many images at a time memory holds}, once it did not hold a whole batch; {} until then."""
        return {} if self.memory.limit is None else {self.name: self.memory.limit}

    @property
    def identities(self) -> dict[str, dict[str, Any]]:
        """The identity of each of the features, by name, which it says as `metric`."""
        return {name: {"metric": name, **self.identity} for name in self.dims}

    def only(self, names: Collection[str], keep: Collection[str]) -> "Detector":
        """The same for these of its features alone."""
        dims = {name: dim for name, dim in self.dims.items() if name in names}
        return replace(self, dims=dims, keep=frozenset(keep).intersection(dims))

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Features by name. images: uint8 [N, 3, H, W], any device -> float32 [N, D] on the detector's device.

        Images that memory does not hold at once are taken in parts. ValueError for anything but uint8 RGB: rounding to
        8 bits is part of the metric and belongs to whoever makes the images. RuntimeError if not one image fits.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            found = f"{images.dtype} {list(images.shape)}"
            raise ValueError(f"{self.name} takes images as uint8 [N, 3, H, W], these are {found}: quantise first")
        if images.shape[0] == 0:
            return {name: torch.zeros(0, dim, device=self.device) for name, dim in self.dims.items()}
        parts, _ = self.memory.run(lambda part: self._features(images[part]), len(images), len(images))
        return {name: torch.cat([part[name] for part in parts]) for name in self.dims}

    def _features(self, images: Tensor) -> Mapping[str, Tensor]:
        with torch.inference_mode(), full_float32():
            if self.run is not None:
                return self.run(self.net, images.to(self.device), self.dims)
            (name,) = self.dims
            return {name: self.net(images.to(self.device))}


@contextmanager
def full_float32() -> Iterator[None]:
    """Deterministic convolutions without TF32, which is torch's default on CUDA and moves features by 1e-3: numbers of
    a metric should depend on neither the kind of GPU nor the run. The previous settings return afterwards."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def load_detector(
    name: str,
    device: torch.device | str = "cpu",
    *,
    weights: str | Path | None = None,
    offline: bool = False,
    features: Collection[str] = ("pool",),
    keep: Collection[str] = (),
    **fields: Any,
) -> Detector:
    """Opens an extractor, fetching its weights unless a local file is given.

    name: of it, or of any of its features, in files. features, keep: which it shall give, and which of these are kept
    themselves, by their names in `Extractor.features`. weights: a .pth state dict (read as data, no code is run) or
    .safetensors instead of the published file; None: the environment variable of the module docstring, else the
    published file. fields: of the extractor, such as its resize.
    ValueError: unknown name or field, or a weight file that does not fit; OSError: no such file, no network.
    """
    spec = catalog.find_extractor(name).with_fields(fields)
    path = find_weights(spec, weights, offline)
    digest = sha256_of(path)
    with torch.device("meta"):  # no memory or random numbers for values that are replaced at once
        net = spec.build()
    _load_strictly(net, _read_state(path, trusted=digest == spec.weights.sha256), path)
    net = net.to(device).eval().requires_grad_(False)
    identity = {
        "network": type(net).__name__,
        "weights_sha256": digest,
        "published": digest == _pinned_sha256(spec),
        "resize": spec.resized,
        "dtype": "float32",
    }
    stored = {spec.stored(each): each for each in spec.features}

    def run(net: nn.Module, images: Tensor, names: Collection[str]) -> Mapping[str, Tensor]:
        found = spec.run(net, images, [stored[each] for each in names])
        return {each: found[stored[each]] for each in names}

    dims = {spec.stored(each): spec.features[each] for each in features}
    kept = frozenset(map(spec.stored, keep))
    return Detector(spec.stored_as, dims, MappingProxyType(identity), net, torch.device(device), kept, run)


def find_weights(spec: Extractor, weights: str | Path | None = None, offline: bool = False) -> Path:
    """Path of the weight file: `weights`, else the environment variable, else the published file (fetched)."""
    chosen = weights if weights is not None else os.environ.get(spec.weights_variable, "")
    if chosen != "":
        return fetch(chosen, offline=offline)
    published = spec.weights
    return fetch(published.source, sha256=published.sha256, mirrors=published.mirrors, offline=offline)


def _pinned_sha256(spec: Extractor) -> str | None:
    published = spec.weights
    if published.sha256 is not None:
        return published.sha256
    return sha256_of(published.source) if Path(published.source).is_file() else None


def _read_state(path: Path, *, trusted: bool) -> dict[str, Tensor]:
    """A state dict from .safetensors or a torch file, without running code. ValueError for anything else.

    trusted: the file is a published one, so torch itself may read it, in whichever of its forms it is.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True) if trusted else read_tensors(path)
    except OSError:
        raise
    except Exception as error:  # whatever the libraries raise on bytes that they were not made for
        first_line = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        raise ValueError(f"{path} is not a weight file of tensors (.pth or .safetensors): {first_line}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is not a state dict: expected a dict of tensors, found {type(state).__name__}")
    return state


def _load_strictly(net: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Puts the tensors into a network on the meta device; names and shapes must be exactly the network's."""
    expected = net.state_dict()
    problems = [f"{key} is missing" for key in expected if key not in state]
    problems += [f"{printable(str(key)[:100])} is not known" for key in state if key not in expected]
    problems += [
        f"{key} has shape {list(state[key].shape)}, expected {list(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    problems += [
        f"{key} is of type {state[key].dtype}, expected {value.dtype}"
        for key, value in expected.items()
        if key in state and state[key].is_floating_point() != value.is_floating_point()
    ]
    if problems:
        shown = "; ".join(problems[:3]) + (f" and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise ValueError(f"{path} does not fit {type(net).__name__}: {shown}")
    net.load_state_dict({key: value.to(expected[key].dtype) for key, value in state.items()}, assign=True)
