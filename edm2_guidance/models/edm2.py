"""EDM2's network files (arXiv 2312.02696), pixels or latents: `training.network_io` reads them."""

from typing import Any

import torch
from torch import Tensor

from edm2_guidance.models.base import Model, Prediction
from training.encoders import Encoder, StabilityVAEEncoder, StandardRGBEncoder
from training.flops import file_cost as cost
from training.network_inspect import inspect_network as inspect
from training.network_io import NetworkFile, load_network
from training.networks_edm2 import compute_dtype

__all__ = ["Edm2Model", "cost", "inspect", "load_encoder", "open_model", "recognises"]

_CHANNELS = {StandardRGBEncoder: 3, StabilityVAEEncoder: 4}


def recognises(source: str, *, offline: bool) -> bool:
    """Whatever no other family recognises."""
    return True


def open_model(source: str, device: torch.device, *, trust_pickle: bool, offline: bool) -> "Edm2Model":
    """A network file, by path or URL; as `models.open_model`."""
    return Edm2Model(load_network(source, device=device, trust_pickle=trust_pickle, offline=offline), device)


def load_encoder(encoder: Any, resolution: int, device: torch.device | str, **how: Any) -> int:
    """Load what an encoder needs; the width and height of the images that it decodes to, in pixels.

    resolution: of what is denoised. how: arguments of its `init`, whose errors are raised.
    """
    encoder.init(device, **how)
    vae = getattr(encoder, "_vae", None)
    return resolution if vae is None else resolution * 2 ** (len(vae.config.block_out_channels) - 1)


class Edm2Model(Model):
    """A network called as net(x, sigma, one-hot labels), and the encoder that its file names.

    The encoder may be of a class of the file's own (--trust-pickle), of which only `init` and `decode` are known.
    """

    supports = frozenset({"gradients"})

    def __init__(self, file: NetworkFile, device: torch.device) -> None:
        self.net, self.encoder, self.device = file.net, file.encoder, device
        self.source = file.source
        self.shape = (self.net.img_channels, self.net.img_resolution, self.net.img_resolution)
        self.image_size = self.net.img_resolution
        self.num_classes = self.net.label_dim
        self.class_names = file.class_names
        self.identity = {"sha256": file.sha256}
        self.precision = str(compute_dtype(getattr(self.net, "use_fp16", False), False, device.type)).split(".")[-1]
        self.num_parameters = sum(weights.numel() for weights in self.net.parameters())
        if isinstance(self.encoder, StabilityVAEEncoder):
            self.decoder_batch = self.encoder.batch_size

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

    def predict(self, x: Tensor, sigma: Tensor, y: Any, **how: Any) -> Prediction:
        if how:
            raise ValueError(f"{self.source}: EDM2's networks know no {', '.join(how)}")
        denoised: Tensor = self.net(x, sigma, y)
        return Prediction(denoised.to(x.dtype))

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels, uint8 [N,3,image_size,image_size], to what is denoised: float32 [N,C,H,W]; latents are drawn."""
        return self.encoder.encode(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        if isinstance(self.encoder, StabilityVAEEncoder):
            self.encoder.batch_size = max(1, len(latents))
        return self.encoder.decode(latents)
