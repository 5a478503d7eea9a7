"""A network of the user's own, --net=FILE.py:function: its code runs, as nothing else does but --trust-pickle.

`function(device)` returns one of two things. Either an object with the `shape` and `predict` of `models.base.Model`,
and those of its other members for which what `Model` has is not right; a subclass of it or not. Or a torch.nn.Module

    net(x, sigma, labels) -> D(x; sigma) [N,C,H,W]

with the attributes img_channels, img_resolution (H = W) and label_dim (number of classes, 0 = none), as EDM2's have. x
[N,C,H,W] is what is denoised, RGB in [-1, 1], plus noise of standard deviation sigma: float32, or float64 under
--dtype=float64, and sigma [] as well. labels are one-hot, float32 [N, label_dim], or None. One that enlarges small
images (--upsample) has their width as the attribute low_res_size, and is called as net(x, sigma, labels, low_res):
float32 [N, 3, low_res_size, low_res_size] in [-1, 1]. An object's own `conditions` gets them as uint8. An object that
lets references perturb it says so in `supports` and `layers`, and its `predict` then takes a `perturbation`.

With the attribute takes_prompts = True and no classes, either of the two gets texts, --prompt=TEXT, in place of labels:
a list of N, or None. What they mean is its own affair. An object's own `conditions(texts, device)` makes of them what
its `predict` takes, once for as long as they are the same; without, `predict` gets the texts.

A classifier, --classifier=FILE.py:function, is likewise an object with the `shape`, `num_classes` and `log_probs` of
`models.base.Classifier`, or a torch.nn.Module with these attributes, called as net(x, sigma) -> logits [N, label_dim].

A recipe knows it by a hash of the file's text and the function's name. What is not in the text, such as the weights
that it loads, should be told apart by the object's `identity`, any JSON, which is hashed with them.

In Python the object itself may be given, Recipe(OBJECT). The recipe knows it by a hash of its class and its attributes,
parameters among them, or of its `identity` in their place (`recipe.described`), and it must stay as it is.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dnnlib.places import python_function
from dnnlib.user_code import UserCode
from edm2_guidance.models.base import Classifier, Model, Prediction
from edm2_guidance.recipe.class_names import checked_names
from edm2_guidance.recipe.described import describe
from edm2_guidance.recipe.spec import digest
from torch_utils.memory import is_out_of_memory
from training.flops import file_cost as cost  # this and the next refuse what lies in no file
from training.network_inspect import inspect_network as inspect

__all__ = [
    "PythonClassifier",
    "PythonModel",
    "cost",
    "inspect",
    "of_object",
    "open_classifier",
    "open_model",
    "recognises",
]

_WHOLE = "an object with shape and predict, as of edm2_guidance.models.base.Model"
_OF_A_NETWORK = ("img_channels", "img_resolution", "label_dim")


def recognises(source: str, *, offline: bool) -> bool:
    """Whether it is FILE.py:function. ValueError if no function is named."""
    return python_function(source) is not None


def open_model(source: str, device: torch.device, *, trust_pickle: bool, offline: bool) -> "PythonModel":
    """Run FILE.py, call its function, and take what it returns; as `models.open_model`."""
    made, code, sha256 = _made(source, device)
    if not (hasattr(made, "shape") and hasattr(made, "predict")):
        made = _Bare(made, source, _WHOLE)
    return PythonModel(made, code, sha256)


def open_classifier(source: str, device: torch.device, *, trust_pickle: bool, offline: bool) -> "PythonClassifier":
    """The same for a classifier; as `models.open_classifier`."""
    made, code, sha256 = _made(source, device)
    if not (hasattr(made, "shape") and hasattr(made, "log_probs")):
        made = _Bare(made, source, "an object with shape, num_classes and log_probs, as of models.base.Classifier")
    return PythonClassifier(made, code, sha256)


def of_object(made: Any) -> "PythonModel | PythonClassifier":
    """A network that is an object of the user's own, where it is; a classifier if it has `log_probs`.

    ValueError for what is none, for a torch.nn.Module in training mode, and where no hash says what it is.
    """
    classifies = hasattr(made, "log_probs") and not hasattr(made, "predict")
    whole = hasattr(made, "shape") and (classifies or hasattr(made, "predict"))
    if not whole and not isinstance(made, nn.Module):
        raise ValueError(
            f"{made!r} is no network: give a path, URL or name, one that is open, an object with shape and predict, "
            "or a torch.nn.Module"
        )
    if getattr(made, "training", False):
        raise ValueError(f"{type(made).__qualname__} is in training mode: call its eval() first")
    source = type(made).__name__
    code = UserCode(
        source, Path(getattr(sys.modules.get(type(made).__module__), "__file__", None) or ""), is_out_of_memory
    )
    wraps = PythonClassifier if classifies else PythonModel
    model = wraps(made if whole else _Bare(made, None, _WHOLE), code, digest(describe(made)), made)
    weights = next(made.parameters(), None) if isinstance(made, nn.Module) else None
    model.device = torch.device(getattr(made, "device", "cpu")) if weights is None else weights.device
    return model


def _made(source: str, device: torch.device) -> tuple[Any, UserCode, str]:
    """What the function of FILE.py returns, where its code is from, and the hash by which a recipe knows it."""
    own = python_function(source)
    assert own is not None
    code = UserCode(source, own[0].absolute(), is_out_of_memory)
    function, text = code.function(name := own[1])
    with code.runs(f"{name}(device)"):
        made = function(device)
    parts = [text, name.encode()]
    if isinstance(made, nn.Module):
        made = made.to(device).eval().requires_grad_(False)
        parts.append(_weights_sha256(made))
    if getattr(made, "identity", None) is not None:
        with code.runs("writing its identity as JSON"):
            parts.append(json.dumps(made.identity, sort_keys=True, allow_nan=False).encode())
    return made, code, hashlib.sha256(b"\0".join(parts)).hexdigest()


def _weights_sha256(net: nn.Module) -> bytes:
    """Digest of all parameters and buffers, with their names: the file that they were loaded from may change."""
    total = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.digest()


class _Bare:
    """A bare torch.nn.Module as a model, or as a classifier."""

    supports = frozenset({"gradients"})

    def __init__(self, net: Any, source: str | None, better: str) -> None:
        """source: of the function that returned it; None for what was given. ValueError for what is neither."""
        missing = [name for name in _OF_A_NETWORK if not hasattr(net, name)]
        if not isinstance(net, nn.Module) or missing:
            without = f" without {', '.join(missing)}" if isinstance(net, nn.Module) else ""
            said, verb = ("a", "give") if source is None else (f"{source} returned a", "return")
            raise ValueError(
                f"{said} {type(net).__name__}{without}: {verb} {better}, or a torch.nn.Module with "
                f"{', '.join(_OF_A_NETWORK)}"
            )
        self._net = net
        self.low_res_size = getattr(net, "low_res_size", 0)
        self.predict = (lambda x, sigma, y: net(x, sigma, *y)) if self.low_res_size else net
        self.shape = (net.img_channels, net.img_resolution, net.img_resolution)
        self.takes_prompts = getattr(net, "takes_prompts", False)
        self.num_classes = net.label_dim
        self.num_parameters = sum(weights.numel() for weights in net.parameters())

    def log_probs(self, x: Tensor, sigma: Tensor) -> Tensor:
        logits: Tensor = self._net(x, sigma)
        return logits.log_softmax(1)


def _checked_shape(made: Any, source: str) -> tuple[int, int, int]:
    shape = made.shape
    if not isinstance(shape, Sequence) or [type(side) for side in shape] != [int] * 3 or min(shape) < 1:
        raise ValueError(f"{source}: shape is {shape!r}, not (channels, height, width)")
    if shape[1] != shape[2]:
        raise ValueError(f"{source}: shape is {shape!r}: height and width must be the same")
    return shape[0], shape[1], shape[2]


class _Given:
    """What is the same of both classes. _given: the object, where the user gave that, which may change."""

    _given: Any
    identity: dict[str, Any]

    def check_unchanged(self) -> None:
        if self._given is not None and digest(describe(self._given)) != self.identity["sha256"]:
            raise ValueError(
                f"{type(self._given).__qualname__} has changed since the recipe was made: what it is must stay while "
                "images are made; then make the recipe anew"
            )


class PythonModel(_Given, Model):
    """What the user's function returned, or the user gave, named and checked: `Model` says what it lacks."""

    def __init__(self, made: Any, code: UserCode, sha256: str, given: Any = None) -> None:
        self._made, self._code, self._given = made, code, given
        self.source = code.source
        self.identity = {"sha256": sha256}
        self.shape = _checked_shape(made, code.source)
        self.image_size = getattr(made, "image_size", self.shape[-1])
        self.num_classes = int(getattr(made, "num_classes", None) or 0)
        self.needs_classes = bool(getattr(made, "needs_classes", False))
        self.low_res_size = int(getattr(made, "low_res_size", None) or 0)
        self.takes_prompts = bool(getattr(made, "takes_prompts", False))
        if self.takes_prompts and self.num_classes > 0:
            raise ValueError(f"{code.source} takes prompts and has {self.num_classes} classes: prompts are its classes")
        self.class_names = checked_names(getattr(made, "class_names", None))
        self.supports = frozenset(getattr(made, "supports", None) or ())
        self.layers = tuple(getattr(made, "layers", None) or ())
        self.sigma_min = float(getattr(made, "sigma_min", None) or self.sigma_min)
        self.sigma_max = float(getattr(made, "sigma_max", None) or self.sigma_max)
        self.crop_multiple = int(getattr(made, "crop_multiple", None) or 1)
        self.decoder_batch = getattr(made, "decoder_batch", None)
        self.decodes_apart = self._own("decode") is None
        self.precision = str(getattr(made, "precision", None) or self.precision)
        self.num_parameters = getattr(made, "num_parameters", None) or 0

    def _own(self, name: str) -> Any:
        """A method that the user's object has of its own; None for none, or one that it has of `Model`."""
        method = getattr(self._made, name, None)
        return None if getattr(method, "__func__", None) is getattr(Model, name) else method

    def load_decoder(self, *, offline: bool = False) -> None:
        load, decode = self._own("load_decoder"), self._own("decode")
        if load is not None:
            with self._code.runs("load_decoder"):
                load(offline=offline)
            self.image_size = getattr(self._made, "image_size", self.image_size)
        if decode is None:
            return super().load_decoder(offline=offline)
        identity = getattr(self._made, "identity", None) or {}
        self.identity["encoder"] = identity.get("encoder") or {"class": type(self._made).__name__}
        return None

    def conditions(self, labels: Sequence[int] | None, device: torch.device, low_res: Tensor | None = None) -> Any:
        own = self._own("conditions")
        if own is None:
            return super().conditions(labels, device, low_res)
        told = self.texts(labels) if self.takes_prompts else labels
        with self._code.runs("conditions"):
            return own(told, device) if low_res is None else own(told, device, low_res)

    def predict(self, x: Tensor, sigma: Tensor, y: Any, **how: Any) -> Prediction:
        with self._code.runs("denoising"):
            made = self._made.predict(x, sigma, y, **how)
        denoised = getattr(made, "denoised", made)
        if not isinstance(denoised, Tensor):
            raise ValueError(
                f"{self.source}: denoising made a {type(denoised).__name__}: return a tensor, or a Prediction of "
                "edm2_guidance.models.base"
            )
        if denoised.shape != x.shape:
            raise ValueError(f"{self.source}: denoising made {list(denoised.shape)} of {list(x.shape)}: keep the shape")
        return Prediction(denoised.to(x), getattr(made, "mix", None))

    def decode(self, latents: Tensor) -> Tensor:
        own = self._own("decode")
        if own is None:
            return super().decode(latents)
        with self._code.runs("decoding"):
            images = own(latents)
        shape = [len(latents), 3, self.image_size, self.image_size]
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or list(images.shape) != shape:
            what = f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"{self.source}: decoding made {what} in place of torch.uint8 {shape}")
        return images


class PythonClassifier(_Given, Classifier):
    """What the user's function returned, or the user gave, named and checked."""

    def __init__(self, made: Any, code: UserCode, sha256: str, given: Any = None) -> None:
        self._made, self._code, self._given = made, code, given
        self.source = code.source
        self.identity = {"sha256": sha256}
        self.shape = _checked_shape(made, code.source)
        self.num_classes = int(getattr(made, "num_classes", None) or 0)
        if self.num_classes < 2:
            raise ValueError(f"{self.source}: a classifier tells apart 2 classes at least, num_classes of them")
        self.class_names = checked_names(getattr(made, "class_names", None))
        self.precision = str(getattr(made, "precision", None) or self.precision)
        self.num_parameters = getattr(made, "num_parameters", None) or 0

    def log_probs(self, x: Tensor, sigma: Tensor) -> Tensor:
        with self._code.runs("classifying"):
            made = self._made.log_probs(x, sigma)
        shape = [len(x), self.num_classes]
        if not isinstance(made, Tensor) or list(made.shape) != shape:
            what = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise ValueError(f"{self.source}: classifying made {what} in place of log-probabilities {shape}")
        if x.requires_grad and not made.requires_grad:
            raise ValueError(f"{self.source}: its log-probabilities have no gradient: leave out no_grad and detach")
        return made
