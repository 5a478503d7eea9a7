"""How far a denoiser is from the image, by noise level: what the entropy of images given x is made of."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch

from edm2_guidance.images.batch import ImageBatch
from edm2_guidance.models.base import Model
from edm2_guidance.sampling.seeds import SeededStreams
from torch_utils.transfer import to_device


def even_levels(sigma_min: float, sigma_max: float, count: int) -> list[float]:
    """Rising noise levels, even in ln sigma, with both ends; 2 at least."""
    return [sigma_min * (sigma_max / sigma_min) ** (index / (count - 1)) for index in range(count)]


@torch.no_grad()
def denoising_errors(
    model: Model,
    batches: Iterable[ImageBatch],
    sigmas: Sequence[float],
    advance: Callable[[int], None] = lambda count: None,
) -> list[float]:
    """The mean of |D(image + sigma noise; sigma) - image|^2, summed over all pixels or latents, at each noise level.

    Unguided, each image under its label. Image number i has the noise of seed i, the same at every level, so that the
    errors are a smooth curve. advance: is told how many images are done. ValueError for images that the network does
    not denoise.
    """
    totals, done = [0.0] * len(sigmas), 0
    for batch in batches:
        check_images(model, batch)
        seeds = range(done, done + len(batch))
        pixels = to_device(batch.images, model.device)
        drawn = [torch.Generator().manual_seed(seed) for seed in seeds]  # of latents
        image = torch.cat([model.encode(one[None], each) for one, each in zip(pixels, drawn, strict=True)])
        if image.shape[1:] != model.shape:
            raise ValueError(f"{model.source} denoises {list(model.shape)}, and images are {list(image.shape[1:])}")
        noise = to_device(SeededStreams(seeds).randn(model.shape), model.device)
        y = model.conditions(batch.labels, model.device)
        for index, sigma in enumerate(sigmas):
            denoised = model.predict(image + sigma * noise, noise.new_tensor(sigma), y).denoised
            totals[index] += float((denoised - image).double().square().sum())
        done += len(batch)
        advance(len(batch))
    if not all(0 < total < math.inf for total in totals):
        raise ValueError(f"the errors of {model.source} are not all finite and above 0: is the file damaged?")
    return [total / done for total in totals]


def check_images(model: Model, batch: ImageBatch) -> None:
    """ValueError for images of another size, or without the classes that the network needs."""
    if model.low_res_size > 0:
        raise ValueError(f"{model.source} enlarges images: measure a network that does not")
    if batch.images.shape[-1] != model.image_size or batch.images.shape[-2] != model.image_size:
        height, width = batch.images.shape[-2:]
        raise ValueError(f"the images are {width}x{height}, and those of {model.source} {model.image_size} wide")
    if model.num_classes > 0 and batch.labels is None:
        raise ValueError(f"the images have no classes, and {model.source} knows {model.num_classes}: take a set with")
    if model.num_classes > 0 and max(batch.labels or ()) >= model.num_classes:
        found = max(batch.labels or ())
        raise ValueError(f"an image is of class {found}, and {model.source} knows {model.num_classes}")
