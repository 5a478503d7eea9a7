"""EDM2's network files (arXiv 2312.02696), pixels or latents: `training.network_io` reads them."""

import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from dnnlib import measured
from dnnlib.inference import COMPILED, FORMS, PLAIN, Inference
from edm2_guidance.models.base import Model, Prediction
from torch_utils.distributed import device_name, wait_for
from training.encoders import Encoder, StabilityVAEEncoder, StandardRGBEncoder
from training.flops import Cost, network_cost
from training.flops import file_cost as cost
from training.inference_form import PRECISIONS, cannot_compile, check_precision, filled_size, prepare, usual_precision
from training.network_inspect import inspect_network as inspect
from training.network_io import NetworkFile, load_network
from training.network_records import NETWORK_CLASSES, named_arguments
from training.perturbed import layers_of

__all__ = ["Edm2Model", "cannot_compile", "compile_key", "cost", "inspect", "load_encoder", "open_model", "recognises"]

_CHANNELS = {StandardRGBEncoder: 3, StabilityVAEEncoder: 4}
_INSIDE = ("attention", "blocks", "crops", "dropout", "label noise", "noise embedding")


def recognises(source: str, *, offline: bool) -> bool:
    """Whatever no other family recognises."""
    return True


def open_model(source: str, device: torch.device, *, trust_pickle: bool, offline: bool) -> "Edm2Model":
    """A network file, by path or URL; as `models.open_model`."""
    load = partial(load_network, source, device=device, trust_pickle=trust_pickle, offline=offline)
    return Edm2Model(load(), device, load)


def load_encoder(encoder: Any, resolution: int, device: torch.device | str, **how: Any) -> int:
    """Load what an encoder needs; the width and height of the images that it decodes to, in pixels.

    resolution: of what is denoised. how: arguments of its `init`, whose errors are raised.
    """
    encoder.init(device, **how)
    vae = getattr(encoder, "_vae", None)
    return resolution if vae is None else resolution * 2 ** (len(vae.config.block_out_channels) - 1)


def _cost_of(net: Any, source: str) -> Callable[[], Cost]:
    """What counts the cost of a network of ours, without holding it."""
    return partial(
        network_cost, named_arguments(type(net), net.init_args, net.init_kwargs, source, defaults=False),
        type(net).__name__,
    )  # fmt: skip


def compile_key(model: Model, batch: int) -> str:
    """By what the time is kept that compiling a network for so many images takes: of its equals it is the same."""
    return f"{model.shape} {model.num_parameters} {device_name(model.device)} {batch}"


class Edm2Model(Model):
    """A network called as net(x, sigma, one-hot labels), and the encoder that its file names.

    The encoder may be of a class of the file's own (--trust-pickle), of which only `init` and `decode` are known. Such
    a network computes as its own code does, in no other form or precision.
    """

    def __init__(self, file: NetworkFile, device: torch.device, load: Callable[[], NetworkFile] | None = None) -> None:
        """load: reads the file again, for another form once the weights went into one."""
        self.net: Any = file.net
        self.encoder, self.device = file.encoder, device
        self.source = file.source
        self.shape = (self.net.img_channels, self.net.img_resolution, self.net.img_resolution)
        self.image_size = self.net.img_resolution
        self.num_classes = self.net.label_dim
        self.class_names = file.class_names
        self.identity = {"sha256": file.sha256}
        self.precision = usual_precision(self.net, device)
        self._ours = type(self.net) in NETWORK_CLASSES.values()
        self.forms = FORMS if self._ours else (PLAIN,)
        self.supports = frozenset({"gradients", *(_INSIDE if self._ours else ())})
        self.layers = layers_of(self.net.unet) if self._ours else ()
        self.crop_multiple = self.shape[-1] // min((layer.size for layer in self.layers), default=self.shape[-1])
        self._cost = _cost_of(self.net, self.source) if self._ours else None
        self._load, self._taken = load, Inference(PLAIN, self.precision)
        self._denoise: Callable[..., Tensor] | None = None
        self.num_parameters = sum(weights.numel() for weights in self.net.parameters())
        if isinstance(self.encoder, StabilityVAEEncoder):
            self.decoder_batch = self.encoder.batch_size
        self.decodes_apart = isinstance(self.encoder, Encoder)

    def load_decoder(self, *, offline: bool = False) -> None:
        channels = _CHANNELS.get(type(self.encoder), self.shape[0])
        if channels != self.shape[0]:
            raise ValueError(
                f"{self.source} makes {self.shape[0]} channels, but its encoder, {type(self.encoder).__name__}, "
                f"decodes {channels}: the file does not belong together"
            )
        self.identity["encoder"] = self._opened_encoder(offline)

    def _opened_encoder(self, offline: bool) -> dict[str, Any]:
        """Load what the encoder needs; returns what tells apart encoders that decode differently."""
        ours = isinstance(self.encoder, Encoder)
        how = {"offline": offline} if ours else {}
        self.image_size = load_encoder(self.encoder, self.shape[-1], self.device, **how)
        return self.encoder.identity() if ours else {"class": type(self.encoder).__name__}

    @property
    def precisions(self) -> Sequence[str]:
        return [each for each in PRECISIONS if self._computes_in(each)] if self._ours else (self.precision,)

    def _computes_in(self, precision: str) -> bool:
        try:
            check_precision(precision, self.device)
        except ValueError:
            return False
        return True

    @cached_property
    def multiply_adds(self) -> int:
        return 0 if self._cost is None else self._cost().multiply_adds

    def take(self, inference: Inference) -> None:
        form, precision = inference.form or PLAIN, inference.precision or self.precision
        if form not in self.forms or precision not in self.precisions:
            raise ValueError(f"{self.source} has no form {form} in {precision}: it has {', '.join(self.forms)}")
        is_fixed = form == COMPILED or (form != PLAIN and self.device.type == "cuda")
        taken = Inference(form, precision, inference.batch if is_fixed else None)
        if isinstance(self.encoder, StabilityVAEEncoder):
            # Whether products in float32 may use TF32 is a setting of the process, which networks in float32 change.
            self.decodes_apart = self.device.type != "cpu" and precision not in ("float32", "tf32")
        if taken != self._taken:
            self._taken, self._denoise = taken, None

    def predict(self, x: Tensor, sigma: Tensor, y: Any, **how: Any) -> Prediction:
        unknown = how.keys() - ({"label_embedding", "perturbation"} if self._ours else ())
        if unknown:
            raise ValueError(f"{self.source}: EDM2's networks know no {', '.join(sorted(unknown))}")
        if self._denoise is None:
            self._denoise = self._prepared()
        return Prediction(self._denoise(x, sigma, y, **how).to(x.dtype))

    def _prepared(self) -> Callable[..., Tensor]:
        """What denoises in the form that was taken."""
        if not self._ours:
            denoise: Callable[..., Tensor] = self.net
            return denoise
        if self.net is None:
            self.net = self._loaded_again()
        taken = self._taken
        if taken.form == PLAIN:
            return prepare(self.net, PLAIN, str(taken.precision))
        net, self.net = self.net, None  # whose weights go into the new form
        denoise = prepare(net, str(taken.form), str(taken.precision), taken.batch)
        return self._timed(denoise, taken.batch) if taken.form == COMPILED else denoise

    def _loaded_again(self) -> Any:
        if self._load is None:
            raise ValueError(f"{self.source} was made ready for inference in another form: open it again")
        file = self._load()
        if file.sha256 != self.identity["sha256"]:
            raise ValueError(f"{self.source} is another file than when it was opened: run the command again")
        return file.net

    def _timed(self, denoise: Callable[..., Tensor], batch: int | None) -> Callable[..., Tensor]:
        """Keeps how long the first call takes for a number of images: it compiles. batch: as for `prepare`."""
        seen: set[int] = set()

        def call(x: Tensor, sigma: Tensor, y: Any, **how: Any) -> Tensor:
            size = filled_size(len(x), batch)
            if size in seen or how.get("perturbation") is not None:  # which is not compiled
                return denoise(x, sigma, y, **how)
            begun = time.perf_counter()
            made = denoise(x, sigma, y, **how)
            wait_for(self.device)
            measured.keep("compile_seconds", compile_key(self, size), time.perf_counter() - begun)
            seen.add(size)
            return made

        return call

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if not isinstance(self.encoder, Encoder):
            raise ValueError(f"{self.source} has an encoder of its own, {type(self.encoder).__name__}: it only decodes")
        return self.encoder.encode(pixels, generator)

    def decode(self, latents: Tensor) -> Tensor:
        if isinstance(self.encoder, StabilityVAEEncoder):
            self.encoder.batch_size = max(1, len(latents))
        return self.encoder.decode(latents)
