"""EDM (arXiv 2206.00364): its earlier networks of pixels, as denoisers D(x; sigma)."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from edm2_guidance.models.base import Model, Prediction
from edm2_guidance.models.edm2 import open_model as open_edm2
from edm2_guidance.models.edm_files import EdmFile, cost, inspect, load_edm, network_cost, recognises
from edm2_guidance.models.networks.edm import iDDPMPrecond, nearest

__all__ = ["EdmModel", "cost", "inspect", "open_model", "recognises"]


def open_model(source: str, device: torch.device, *, trust_pickle: bool, offline: bool) -> Model:
    """A network file, by path or URL; as `models.open_model`.

    trust_pickle: one that our classes do not reproduce is executed, as those of EDM2.
    """
    try:
        return EdmModel(load_edm(source, offline=offline), device)
    except ValueError:
        if not trust_pickle:
            raise
    return open_edm2(source, device, trust_pickle=True, offline=offline)


class EdmModel(Model):
    """A U-Net with its preconditioner.

    Without a class, a network that knows some gets labels of zeros, which it was not trained with: it is no guide.
    """

    supports = frozenset({"gradients", "attention"})

    def __init__(self, file: EdmFile, device: torch.device) -> None:
        self.source = file.source
        self.shape = (file.net.img_channels, file.net.img_resolution, file.net.img_resolution)
        self.image_size = file.net.img_resolution
        self.num_classes = file.net.label_dim
        self.class_names = file.class_names
        self.identity = {"sha256": file.sha256}
        self.num_parameters = sum(weights.numel() for weights in file.net.parameters())
        self.sigma_min, self.sigma_max = file.net.sigma_min, file.net.sigma_max
        self.rounds = isinstance(file.net, iDDPMPrecond)
        if isinstance(file.net, iDDPMPrecond):
            self._levels = file.net.u
        self.layers = file.net.model.layers
        self.net = file.net.to(device)
        if file.net.use_fp16 and device.type == "cuda":
            self.net.use_float16()
        self.precision = str(self.net.dtype).split(".")[-1]

    def round_sigma(self, levels: Sequence[float]) -> list[float]:
        asked = torch.tensor(levels, dtype=torch.float64)  # on the CPU: some devices have no float64
        if isinstance(self.net, iDDPMPrecond):
            asked = self._levels[nearest(asked, self._levels)].double()
        return [float(level) for level in asked]

    @cached_property
    def multiply_adds(self) -> int:
        return network_cost(self.net).multiply_adds

    def predict(self, x: Tensor, sigma: Tensor, y: Any, **how: Any) -> Prediction:
        unknown = how.keys() - {"perturbation"}
        if unknown:
            raise ValueError(f"{self.source}: EDM's networks know no {', '.join(sorted(unknown))}")
        return Prediction(self.net(x, sigma, y, **how).to(x.dtype))
