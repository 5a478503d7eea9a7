"""ADM (arXiv 2105.05233): networks of discrete time that predict noise, as denoisers D(x; sigma), and classifiers."""

from typing import Any

import torch
from torch import Tensor

from edm2_guidance.models.adm_files import AdmFile, cost, inspect, load_adm, recognises
from edm2_guidance.models.base import Classifier, Model, Prediction
from edm2_guidance.models.discrete import DENOISED, Clock, scaled
from edm2_guidance.models.networks import adm as networks
from edm2_guidance.recipe.timesteps import noise_levels

__all__ = ["AdmClassifier", "AdmModel", "cost", "inspect", "open_classifier", "open_model", "recognises"]

ENLARGED = 4  # times, by the published upsamplers


def open_model(source: str, device: torch.device, *, trust_pickle: bool, offline: bool) -> "AdmModel":
    """A network by path, URL or name; as `models.open_model`."""
    return AdmModel(load_adm(source, offline=offline), device)


def open_classifier(source: str, device: torch.device, *, trust_pickle: bool, offline: bool) -> "AdmClassifier":
    """A classifier by path, URL or name; as `models.open_classifier`."""
    return AdmClassifier(load_adm(source, offline=offline), device)


class AdmModel(Model):
    """A U-Net as a denoiser that knows the variance of a sampler's noise too.

    It has no way to be asked without a class, if it knows any. An upsampler enlarges images four times.
    """

    supports = frozenset({"gradients", "attention"})

    def __init__(self, file: AdmFile, device: torch.device) -> None:
        if not isinstance(file.net, networks.UNet):
            raise ValueError(f"{file.source} is a classifier, not a denoiser: give it as --classifier={file.source}")
        self.arch = file.net.arch
        self.source = file.source
        self.shape = (3, self.arch.image_size, self.arch.image_size)
        self.image_size = self.arch.image_size
        self.num_classes = self.arch.classes
        self.needs_classes = self.arch.classes > 0
        self.class_names = file.class_names
        self.identity = {"sha256": file.sha256}
        if self.arch.role == "upsampler":
            self.low_res_size = self.image_size // ENLARGED
        self.num_parameters = sum(weights.numel() for weights in file.net.parameters())
        self.layers = file.net.layers
        self.net = file.net.to(device)
        if self.arch.float16 and device.type == "cuda":
            self.net.use_float16()
        self.precision = str(self.net.dtype).split(".")[-1]
        self.betas = self.arch.betas
        self._clock = Clock(noise_levels(self.betas), device)

    def load_decoder(self, *, offline: bool = False) -> None:
        self.identity["encoder"] = {"class": "TruncatedRGB"}

    def predict(self, x: Tensor, sigma: Tensor, y: Any, **how: Any) -> Prediction:
        unknown = how.keys() - {"perturbation"}
        if unknown:
            raise ValueError(f"{self.source}: ADM's networks know no {', '.join(sorted(unknown))}")
        classes, low_res = y if self.low_res_size > 0 else (y, None)
        if classes is None and self.num_classes > 0:
            raise ValueError(f"{self.source} was trained with classes alone: it denoises no image without one")
        made = self.net(scaled(x, sigma), self._clock(sigma, len(x)), classes, low_res, **how)
        noise, code = made.to(x.dtype).chunk(2, dim=1)
        return Prediction(DENOISED["epsilon"](x, noise, sigma), (code + 1) / 2)

    def decode(self, latents: Tensor) -> Tensor:
        """(x + 1) * 127.5, clipped, fraction cut off, as published."""
        if bool(latents.isnan().any()):
            raise ValueError("images of a batch hold NaN and cannot be decoded")
        return ((latents.float() + 1) * 127.5).clamp(0, 255).to(torch.uint8)


class AdmClassifier(Classifier):
    """A classifier of noisy images; in float32 everywhere, as published."""

    def __init__(self, file: AdmFile, device: torch.device) -> None:
        if not isinstance(file.net, networks.Classifier):
            raise ValueError(f"{file.source} is a denoiser and classifies nothing: give it as --net={file.source}")
        arch = file.net.arch
        self.source = file.source
        self.shape = (3, arch.image_size, arch.image_size)
        self.num_classes = arch.classes
        self.class_names = file.class_names
        self.identity = {"sha256": file.sha256}
        self.num_parameters = sum(weights.numel() for weights in file.net.parameters())
        self.net = file.net.to(device)
        self._clock = Clock(noise_levels(arch.betas), device)

    def log_probs(self, x: Tensor, sigma: Tensor) -> Tensor:
        scores: Tensor = self.net(scaled(x, sigma), self._clock(sigma, len(x)))
        return scores.log_softmax(dim=1).to(x.dtype)
