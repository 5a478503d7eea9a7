"""Networks of diffusers' pipelines as denoisers D(x; sigma): of classes, such as DiT, or of text.

Of a pipeline, the network, its text encoders and its VAE are used, and the noise schedule and prediction type that the
scheduler's configuration says. How it steps, and its guidance, are ours.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dnnlib.inference import FULL, Inference
from edm2_guidance.models.base import Model, Prediction
from edm2_guidance.models.diffusers_files import DiffusersFiles, load
from edm2_guidance.models.discrete import DENOISED, Clock, scaled
from edm2_guidance.models.texts import KINDS, Texts, texts_of
from edm2_guidance.recipe.class_names import checked_names
from edm2_guidance.recipe.spec import digest
from edm2_guidance.recipe.timesteps import (
    Betas,
    alphas_bar,
    cosine_betas,
    kept_of,
    levels_of,
    linear_betas,
    scaled_linear_betas,
)
from torch_utils.transfer import to_device
from training.flops import Cost, cost_of
from training.inference_form import check_precision

_NAMED: tuple[Betas, ...] = ("linear", "cosine", "scaled-linear")
_PRECISIONS = ("float32", "bfloat16", "float16")


def network_of(files: DiffusersFiles) -> str:
    """The name of a pipeline's network among its components."""
    return "transformer" if "transformer" in files.index else "unet"


class Told:
    """How a network without text is asked: by the class of each image, if it knows some.

    DiT's know one class more, which stands for none: what labels were replaced by in part of their training.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._of_dit = "num_embeds_ada_norm" in config
        self.num_classes = config["num_embeds_ada_norm" if self._of_dit else "num_class_embeds"] or 0
        self.needs_classes = self.num_classes > 0 and not self._of_dit

    def conditions(self, labels: Sequence[Any] | None, device: torch.device) -> Any:
        """What `ask` takes as y. labels: class indices, or None."""
        return None if labels is None else to_device(torch.tensor(labels), device)

    def ask(self, net: Any, x: Tensor, timesteps: Tensor, y: Any, **more: Any) -> Tensor:
        """The network's output [N,C or 2C,H,W] for its own image x [N,C,H,W] at timesteps [N].

        more: of what the network is told beside.
        """
        if self._of_dit and y is None:
            y = timesteps.new_full((len(x),), self.num_classes)
        known = {} if y is None else {"class_labels": y}
        made: Tensor = net(x, timestep=timesteps, **known, **more).sample
        return made


class ToldTexts:
    """How a network of text is asked. SD-XL's is told sizes too: here those of images that were not cropped."""

    num_classes = 0
    needs_classes = False

    def __init__(self, texts: Texts, image_size: int) -> None:
        self._texts, self._size = texts, image_size

    def conditions(self, texts: Sequence[Any] | None, device: torch.device) -> Any:
        """What `ask` takes as y: of each text, or, of None, once for all images."""
        told = self._texts.embedded([None] if texts is None else texts, device)
        return tuple(torch.stack(each) for each in zip(*told, strict=True))

    def ask(self, net: Any, x: Tensor, timesteps: Tensor, y: Any, **more: Any) -> Tensor:
        """As of `Told`."""
        tokens, *for_all = (each.to(x.dtype).expand(len(x), *each.shape[1:]) for each in y)
        if for_all:
            sizes = x.new_tensor([self._size, self._size, 0, 0, self._size, self._size])
            more["added_cond_kwargs"] = {"text_embeds": for_all[0], "time_ids": sizes.expand(len(x), -1)}
        made: Tensor = net(x, timesteps, encoder_hidden_states=tokens, **more).sample
        return made


class DiffusersModel(Model):
    """The network of a pipeline, in float32 unless another precision is asked for; its VAE always is.

    supports: "unconditional" for all that take text, and of those with classes for DiT's. beside: channels that the
    network sees beside the noisy ones.
    """

    beside: ClassVar[int] = 0

    def __init__(self, files: DiffusersFiles, device: torch.device) -> None:
        self._files, self._name, self.source, self.device = files, network_of(files), files.source, device
        config = files.config(self._name)
        self.shape = _shape(config, self.beside, files.source)
        self.image_size = self.shape[-1] * self._pixels_per_latent
        if "vae" in files.index:
            _check_latents(files.config("vae"), self.shape[0], files.source)
        self.takes_prompts = files.pipeline in KINDS
        texts = texts_of(files) if self.takes_prompts else None
        self._told = Told(config) if texts is None else ToldTexts(texts, self.image_size)
        self.num_classes, self.needs_classes = self._told.num_classes, self._told.needs_classes
        self.class_names = _class_names(files.index)
        self.supports = frozenset({"gradients"} if self.needs_classes else {"gradients", "unconditional"})
        levels, self.betas = noise_levels_of(files.scheduler, files.source)
        self.notes = files.notes
        self.sigma_min, self.sigma_max = levels[0], levels[-1]
        self._clock, self._denoised = Clock(levels, device), DENOISED[_prediction(files.scheduler, files.source)]
        components = (self._name, *(() if texts is None else texts.components))
        says = {"sha256": files.sha256(*components), "levels": levels, "prediction": _prediction(files.scheduler, "")}
        self.identity = {"sha256": digest(says)}
        self.decoder_batch = 4 if "vae" in files.index else None
        self.net = files.component(self._name).to(device)
        self.num_parameters = sum(weights.numel() for weights in self.net.parameters())

    @property
    def _pixels_per_latent(self) -> int:
        """Along each side."""
        return 2 ** (len(self._files.config("vae")["block_out_channels"]) - 1) if "vae" in self._files.index else 1

    @property
    def precisions(self) -> Sequence[str]:
        return [each for each in _PRECISIONS if each == FULL or _computes_in(each, self.device)]

    def take(self, inference: Inference) -> None:
        wanted = getattr(torch, inference.precision or FULL)
        if self.net.dtype not in (torch.float32, wanted):  # what was cast has lost digits
            self.net = load(self.source, offline=True).component(self._name).to(self.device)
        if self.net.dtype != wanted:
            nn.Module.to(self.net, wanted)  # that of diffusers warns of parts to be kept in float32, even of none

    @cached_property
    def multiply_adds(self) -> int:
        return self.cost().multiply_adds

    def cost(self) -> Cost:
        """Of one evaluation, without the text encoders."""
        image = torch.zeros([1, *self.shape], dtype=self.net.dtype, device=self.device)
        side = self.low_res_size
        small = torch.zeros([1, 3, side, side], dtype=torch.uint8) if side > 0 else None
        y = self.conditions([0] if self.needs_classes else None, self.device, small)
        return cost_of(_Asked(self.net, self.ask, y), image, torch.ones([1], dtype=torch.int64, device=self.device))

    def conditions(self, labels: Sequence[int] | None, device: torch.device, low_res: Tensor | None = None) -> Any:
        return self._told.conditions(self.texts(labels) if self.takes_prompts else labels, device)

    def predict(self, x: Tensor, sigma: Tensor, y: Any, **how: Any) -> Prediction:
        if how:
            raise ValueError(f"{self.source}: networks of diffusers know no {', '.join(sorted(how))}")
        own = scaled(x, sigma).to(self.net.dtype)
        made = self.ask(own, self._clock(sigma, len(x)), y).to(x.dtype)
        output, *code = made.split(x.shape[1], dim=1)
        return Prediction(self._denoised(x, output, sigma), (code[0] + 1) / 2 if code else None)

    def ask(self, x: Tensor, timesteps: Tensor, y: Any) -> Tensor:
        """The network's output [N,C or 2C,H,W] for its own image x [N,C,H,W] at timesteps [N]."""
        return self._told.ask(self.net, x, timesteps, y)

    def load_decoder(self, *, offline: bool = False) -> None:
        if "vae" not in self._files.index:
            return super().load_decoder(offline=offline)
        self._files.component("vae").to(self.device)
        self.identity["encoder"] = {"class": "AutoencoderKL", "sha256": self._files.sha256("vae")}
        return None

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        images = super().encode(pixels, generator)
        if "vae" not in self._files.index:
            return images
        posterior = self._files.component("vae").encode(images).latent_dist
        place = images.device if generator is None else generator.device
        noise = torch.randn(posterior.mean.shape, generator=generator, device=place).to(images.device)
        mean, scale = self._latents_from(images)
        latents: Tensor = (posterior.mean + posterior.std * noise - mean) * scale
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        if "vae" in self._files.index:
            latents = latents.float()
            mean, scale = self._latents_from(latents)
            latents = self._files.component("vae").decode(latents / scale + mean).sample
        return super().decode(latents)

    def _latents_from(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Mean and scale, by which what the VAE makes becomes what is denoised."""
        config = self._files.config("vae")
        factor, shift = config.get("scaling_factor") or 0.18215, config.get("shift_factor") or 0.0
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is None or std is None:
            return shift, factor
        means, stds = (torch.tensor(each, device=like.device).view(1, -1, 1, 1) for each in (mean, std))
        return means, factor / stds


class _Asked(nn.Module):
    """A network with its conditions, for one that counts what it costs."""

    def __init__(self, net: nn.Module, ask: Callable[[Tensor, Tensor, Any], Tensor], y: Any) -> None:
        super().__init__()
        self.net, self._ask, self._y = net, ask, y

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return self._ask(x, timesteps, self._y)


def noise_levels_of(scheduler: Mapping[str, Any], source: str) -> tuple[tuple[float, ...], Betas | None]:
    """The noise level of each timestep, by a scheduler's configuration; and the name of its betas, if they have one.

    ValueError for schedules of other kinds, such as those of flows.
    """
    kind, count = str(scheduler.get("beta_schedule")), scheduler.get("num_train_timesteps", 1000)
    first, last = scheduler.get("beta_start", 1e-4), scheduler.get("beta_end", 0.02)
    made: Mapping[str, Callable[[], list[float]]] = {
        "linear": lambda: linear_betas(first, last, count),
        "scaled_linear": lambda: scaled_linear_betas(first, last, count),
        "squaredcos_cap_v2": lambda: cosine_betas(count),
    }
    others = [name for name in ("trained_betas", "rescale_betas_zero_snr") if scheduler.get(name)]
    if kind not in made or others:
        said = f"with {others[0]}" if others else f"of {scheduler.get('_class_name', 'a scheduler')}"
        raise ValueError(f"{source}: a noise schedule {said} is not known; beta_schedule may be {', '.join(made)}")
    numbers = type(count) is int and all(type(each) in (int, float) for each in (first, last))
    if not numbers or not 2 <= count <= 10_000 or not 0 < first <= last < 1:
        raise ValueError(f"{source}: {count} timesteps with betas from {first} to {last} are no noise schedule")
    shares = kept_of(made[kind]())
    named = next((name for name in _NAMED if alphas_bar(name) == shares), None)
    return levels_of(shares), named


def _prediction(scheduler: Mapping[str, Any], source: str) -> str:
    kind = scheduler.get("prediction_type", "epsilon")
    if kind not in DENOISED:
        raise ValueError(f"{source}: the network predicts '{kind}'; known are {', '.join(DENOISED)}")
    return str(kind)


def _shape(config: Mapping[str, Any], beside: int, source: str) -> tuple[int, int, int]:
    """Of what is denoised. ValueError for networks of other inputs, such as those that inpaint."""
    channels, size, out = config["in_channels"] - beside, config["sample_size"], config["out_channels"]
    if type(size) is not int or out not in (channels, 2 * channels):
        raise ValueError(
            f"{source}: a network of {channels} channels to {out}, of size {size}: it should make as many as it takes, "
            "or twice as many, of squares"
        )
    return channels, size, size


def _check_latents(vae: Mapping[str, Any], channels: int, source: str) -> None:
    """ValueError for a VAE's configuration that does not say how its latents are scaled."""
    means, stds = ([1.0] if vae.get(name) is None else vae[name] for name in ("latents_mean", "latents_std"))
    lists = all(isinstance(each, list) and len(each) in (1, channels) for each in (means, stds))
    factors = [vae.get(name) or 1.0 for name in ("scaling_factor", "shift_factor")]
    numbers = [*means, *stds, *factors] if lists else [None]
    if any(type(each) not in (int, float) for each in numbers) or 0 in stds:
        names = "scaling_factor, shift_factor, latents_mean and latents_std"
        raise ValueError(f"{source}: component vae: {names} in it do not scale {channels} channels")


def _class_names(index: Mapping[str, Any]) -> tuple[str, ...] | None:
    """DiT's, by the pipeline's id2label."""
    named = index.get("id2label")
    if not isinstance(named, Mapping) or {*named} != {str(number) for number in range(len(named))}:
        return None
    return checked_names([str(named[str(number)]) for number in range(len(named))])


def _computes_in(precision: str, device: torch.device) -> bool:
    try:
        check_precision(precision, device)
    except ValueError:
        return False
    return True
