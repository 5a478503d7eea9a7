"""Pipelines of diffusers that enlarge small images: DeepFloyd IF's second stage, and Stable Diffusion's upscaler.

The network sees the small image beside its own, with noise on it, and is told how much (arXiv 2106.15282). That noise
is drawn by the small image itself, so that a seed's image depends on nothing else.
"""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from edm2_guidance.models.diffusers_files import DiffusersFiles
from edm2_guidance.models.pipelines import DiffusersModel, noise_levels_of
from torch_utils.transfer import to_device
from training.encoders import StandardRGBEncoder

ENLARGED = 4  # times, by both


@dataclass(frozen=True)
class Noising:
    """Of small images: the component that says the schedule, at which of its timesteps, and whether they are enlarged.

    Timesteps are the defaults of the pipelines.
    """

    scheduler: str
    timestep: int
    resized: bool


NOISING = {
    "IFSuperResolutionPipeline": Noising("image_noising_scheduler", 250, resized=True),
    "StableDiffusionUpscalePipeline": Noising("low_res_scheduler", 20, resized=False),
}


class EnlargingModel(DiffusersModel):
    """The network of such a pipeline, for small images of any size; of the size that it was trained for, unless given.

    Experimental: how much noise there is on the small image is the pipelines' default.
    """

    beside = 3

    def __init__(self, files: DiffusersFiles, device: torch.device) -> None:
        noising = NOISING[files.pipeline]
        level = _level(noising, files)
        super().__init__(files, device)
        self._noising, self._level = noising, level
        self.low_res_size = self.image_size // ENLARGED

    def enlarging(self, size: int) -> Self:
        model = copy.copy(self)
        side = self.shape[-1] * size // self.low_res_size
        model.shape, model.image_size, model.low_res_size = (self.shape[0], side, side), ENLARGED * size, size
        return model

    def conditions(self, labels: Sequence[int] | None, device: torch.device, low_res: Tensor | None = None) -> Any:
        assert low_res is not None
        small = to_device(low_res, device)
        images = StandardRGBEncoder().encode(small)
        if self._noising.resized:
            size = self.shape[-2:]
            images = torch.nn.functional.interpolate(images, size, mode="bilinear", align_corners=True)
        noise = to_device(torch.stack([_noise(each, images.shape[1:]) for each in low_res.cpu()]), device)
        seen = (images + self._level * noise) / (1 + self._level**2) ** 0.5
        return super().conditions(labels, device), seen

    def ask(self, x: Tensor, timesteps: Tensor, y: Any) -> Tensor:
        told, seen = y
        level = timesteps.new_full((len(x),), self._noising.timestep)
        return self._told.ask(self.net, torch.cat([x, seen.to(x.dtype)], dim=1), timesteps, told, class_labels=level)


def _level(noising: Noising, files: DiffusersFiles) -> float:
    """Of the noise on small images. ValueError for a schedule that ends before the timestep."""
    said = f"{files.source}: component {noising.scheduler}"
    levels, _ = noise_levels_of(files.config(noising.scheduler), said)
    if noising.timestep >= len(levels):
        raise ValueError(f"{said} has {len(levels)} timesteps, and the small image is told timestep {noising.timestep}")
    return levels[noising.timestep]


def _noise(small: Tensor, shape: Sequence[int]) -> Tensor:
    """Unit normal, float32 of this shape, by the pixels of a small image, uint8 [3,h,w] on the CPU."""
    found = hashlib.sha256(small.contiguous().numpy().data).digest()
    return torch.randn(list(shape), generator=torch.Generator().manual_seed(int.from_bytes(found[:4])))
