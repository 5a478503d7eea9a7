"""Feature extractors by the name of the metric they serve: "fid", "fd_dinov2" and "fd_mnist".

Published weights are pinned by SHA-256. A file of your own takes their place by the argument `weights` or by the
environment variable EDM2_<METRIC>_WEIGHTS (EDM2_FID_WEIGHTS, EDM2_FD_DINOV2_WEIGHTS, EDM2_FD_MNIST_WEIGHTS): the
same file somewhere else, or other weights under the same parameter names, which every result then says.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dnnlib.download import fetch
from dnnlib.places import EMBEDDED
from dnnlib.regular import sha256_of
from dnnlib.terminal import printable
from edm2_guidance.metrics import dinov2, inception, mnist
from torch_utils.memory import Batches
from torch_utils.tensor_file import read_tensors


@dataclass(frozen=True)
class DetectorSpec:
    """A detector before its weights are there.

    build: makes the network, given the resize mode. feature_dim: D. source: path or URL of the weights; mirrors:
    further URLs of the same file (source "": there are no weights); sha256: its hash (None for a file of this
    repository). resizes: modes, the
    default first; each is a variant of the metric with numbers of its own. image_size: the one size of images it
    takes, None for any.
    """

    name: str
    build: Callable[[str], nn.Module]
    feature_dim: int
    source: str
    resizes: tuple[str, ...]
    sha256: str | None = None
    mirrors: tuple[str, ...] = ()
    image_size: int | None = None

    @property
    def weights_variable(self) -> str:
        """Environment variable that names a local weight file."""
        return f"EDM2_{self.name.upper()}_WEIGHTS"


def _build_dinov2(resize: str) -> nn.Module:
    return dinov2.DinoV2(resize="pil" if resize == "pil" else "torch")


DETECTORS: Mapping[str, DetectorSpec] = MappingProxyType(
    {
        "fid": DetectorSpec(
            name="fid",
            build=lambda resize: inception.InceptionV3(),
            feature_dim=inception.FEATURE_DIM,
            source="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
            mirrors=(
                "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
                "pt_inception-2015-12-05-6726825d.pth",
            ),
            sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            resizes=("tf1-bilinear-299",),
        ),
        "fd_dinov2": DetectorSpec(
            name="fd_dinov2",
            build=_build_dinov2,
            feature_dim=dinov2.FEATURE_DIM,
            source="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
            sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
            resizes=("torch", "pil"),
        ),
        "fd_mnist": DetectorSpec(
            name="fd_mnist",
            build=lambda resize: mnist.DigitClassifier(),
            feature_dim=mnist.FEATURE_DIM,
            source=str(EMBEDDED / "mnist16-detector.safetensors"),
            resizes=("none",),
            image_size=mnist.IMAGE_SIZE,
        ),
    }
)


@dataclass(frozen=True, eq=False)
class Detector:
    """Maps images to the features of one metric.

    name: the metric. feature_dim: D. identity: what determines the features, for provenance: `metric`, `network`,
    `weights_sha256`, `published` (whether these are the pinned weights), `resize`, `dtype`.
    """

    name: str
    feature_dim: int
    identity: Mapping[str, Any]
    net: nn.Module
    device: torch.device
    memory: Batches = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "memory", Batches(self.name))

    @property
    def reduced(self) -> dict[str, int]:
        """{name: how many images at a time memory holds}, once it did not hold a whole batch; {} until then."""
        return {} if self.memory.limit is None else {self.name: self.memory.limit}

    def __call__(self, images: Tensor) -> Tensor:
        """Features. images: uint8 [N, 3, H, W], any device -> float32 [N, D] on the detector's device.

        Images that memory does not hold at once are taken in parts. ValueError for anything but uint8 RGB: rounding to
        8 bits is part of the metric and belongs to whoever makes the images. RuntimeError if not one image fits.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            found = f"{images.dtype} {list(images.shape)}"
            raise ValueError(f"{self.name} takes images as uint8 [N, 3, H, W], these are {found}: quantise first")
        if images.shape[0] == 0:
            return torch.zeros(0, self.feature_dim, device=self.device)
        parts, _ = self.memory.run(lambda part: self._features(images[part]), len(images), len(images))
        return torch.cat(parts)

    def _features(self, images: Tensor) -> Tensor:
        with torch.inference_mode(), _full_float32():
            features: Tensor = self.net(images.to(self.device))
        return features


def check_image_size(metric: str, size: tuple[int, int]) -> None:
    """ValueError if the metric's detector does not take images of this (height, width)."""
    wanted = find_spec(metric).image_size
    if wanted is not None and size != (wanted, wanted):
        raise ValueError(
            f"{metric} is defined for images of {wanted}x{wanted}, these are {size[1]}x{size[0]}: "
            "take another metric, or prepare such images with dataset_tool.py"
        )


@contextmanager
def _full_float32() -> Iterator[None]:
    """Deterministic convolutions without TF32, which is torch's default on CUDA and moves features by 1e-3: numbers of
    a metric should depend on neither the kind of GPU nor the run. The previous settings return afterwards."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def find_spec(metric: str) -> DetectorSpec:
    """The detector of a metric. ValueError naming the metrics there are."""
    if metric not in DETECTORS:
        raise ValueError(f"metric {metric!r} is not known: use one of {', '.join(DETECTORS)}")
    return DETECTORS[metric]


def load_detector(
    metric: str,
    device: torch.device | str = "cpu",
    *,
    weights: str | Path | None = None,
    resize: str | None = None,
    offline: bool = False,
) -> Detector:
    """Opens the detector of a metric, fetching its weights unless a local file is given.

    weights: a .pth state dict (read as data, no code is run) or .safetensors instead of the published file;
    None: the environment variable of the module docstring, else the published file. resize: None for the default.
    ValueError: unknown metric or resize, or a weight file that does not fit; OSError: no such file, no network.
    """
    spec = find_spec(metric)
    resize = spec.resizes[0] if resize is None else resize
    if resize not in spec.resizes:
        raise ValueError(f"{metric} has no resize mode {resize!r}: use {' or '.join(spec.resizes)}")
    path = find_weights(spec, weights, offline)
    digest = sha256_of(path)
    with torch.device("meta"):  # no memory or random numbers for values that are replaced at once
        net = spec.build(resize)
    _load_strictly(net, _read_state(path, trusted=digest == spec.sha256), path)
    net = net.to(device).eval().requires_grad_(False)
    identity = {
        "metric": metric,
        "network": type(net).__name__,
        "weights_sha256": digest,
        "published": digest == _pinned_sha256(spec),
        "resize": resize,
        "dtype": "float32",
    }
    return Detector(metric, spec.feature_dim, MappingProxyType(identity), net, torch.device(device))


def find_weights(spec: DetectorSpec, weights: str | Path | None = None, offline: bool = False) -> Path:
    """Path of the weight file: `weights`, else the environment variable, else the published file (fetched)."""
    chosen = weights if weights is not None else os.environ.get(spec.weights_variable, "")
    if chosen != "":
        return fetch(chosen, offline=offline)
    return fetch(spec.source, sha256=spec.sha256, mirrors=spec.mirrors, offline=offline)


def _pinned_sha256(spec: DetectorSpec) -> str | None:
    if spec.sha256 is not None:
        return spec.sha256
    return sha256_of(spec.source) if Path(spec.source).is_file() else None


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
