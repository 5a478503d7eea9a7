"""Which parts of an image move a Frechet distance: heat maps (Kynkaanniemi et al. 2023, arXiv 2203.06026, Sec. 2).

The distance L is of N images, one of which is looked at. With its feature f, and mean m and covariance C of the others,

    mu = (N - 1) / N m + f / N        S = (N - 2) / (N - 1) C + (f - m)(f - m)^T / N

which are mean and covariance of all N. So L is the distance of the set, and how it reacts to f is

    dL/df = 2 / N ((mu - mu_ref) + (I - T)(f - m)),        f - m = N / (N - 1) (f - mu)

with T of `gaussians`, the same for every image: set and reference are factored once, and an image costs a product. The
paper adds 1e-12 to the eigenvalues under the root; here those that are rounding are left out.

Where a detector has activations A that know places (`Extractor.last_map`), dL/df goes back to them. Each channel weighs
as the mean over places of the squared gradient, and the map is the weighted sum of the channels, without a ReLU, moved
and scaled to 0 to 1. Where it has none, each of 8x8 patches is given the mean colour of the image in turn, and the map
is by how much that changes L, up or down.
"""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edm2_guidance.metrics.catalog import Metric
from edm2_guidance.metrics.detectors import full_float32
from edm2_guidance.metrics.measures.gaussians import (
    FactoredMoments,
    distance_and_transport,
    factor_of,
    frechet_distance,
)
from edm2_guidance.metrics.moments import Moments

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.metrics.detectors import Detector

PATCHES = 8  # a side, as many as Inception has places


def check_frechet(metric: Metric) -> None:
    """ValueError for a metric that is no Frechet distance."""
    if not metric.measure.frechet:
        raise ValueError(f"{metric.name} is no Frechet distance, which this is of: give fid, fd_dinov2, fd_mnist, ...")


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """How a Frechet distance reacts to each image of a set. Features are float64 [D].

    images: of the set, all N. distance: of these. root: R [D, r] with T = R R^T.
    """

    images: Moments
    reference: FactoredMoments
    distance: float
    root: "NDArray[Any]"

    @classmethod
    def of(cls, images: Moments, reference: Moments) -> "Sensitivity":
        """ValueError for fewer than three images, or moments of an unknown number; else as `frechet_distance`."""
        if images.num_images is None or images.num_images < 3:
            raise ValueError(f"{images.num_images} images: leaving one out needs 3 or more, and their number")
        factored = factor_of(reference, "the reference")
        return cls(images, factored, *distance_and_transport(images, factored))

    def gradient(self, feature: "NDArray[Any]") -> "NDArray[Any]":
        """dL/df of an image of the set with this feature."""
        pushed = self._from_others(feature)
        pushed = pushed - self.root @ (self.root.T @ pushed)
        found: NDArray[Any] = 2 / self._count * (self.images.mean - self.reference.mean + pushed)
        return found

    def exchanged(self, feature: "NDArray[Any]", other: "NDArray[Any]") -> float:
        """L if the image with this feature had another one."""
        was = self._from_others(feature)
        now = was + other - feature
        cov = self.images.cov + (np.outer(now, now) - np.outer(was, was)) / self._count
        mean = self.images.mean + (other - feature) / self._count
        return frechet_distance(Moments(mean, (cov + cov.T) / 2, self._count), self.reference)

    @property
    def _count(self) -> int:
        assert self.images.num_images is not None  # by `of`
        return self.images.num_images

    def _from_others(self, feature: "NDArray[Any]") -> "NDArray[Any]":
        """f - m, the others' mean."""
        return (feature - self.images.mean) * (self._count / (self._count - 1))


def heat_map(image: Tensor, metric: Metric, detector: "Detector", found: Sensitivity) -> "NDArray[Any]":
    """Which parts of an image move the distance, float64 [h, w] from 0 to 1; all 0 if none does, or all do alike.

    image: uint8 [3, H, W], of the set. detector: gives the features of the metric.
    """
    extractor, images = metric.extractor, image[None].to(detector.device)
    with torch.no_grad(), full_float32():
        last_map = extractor.last_map(detector.net, images) if metric.features == "pool" else None
    if last_map is None:
        return from_0_to_1(occlusion(image, metric, detector, found))
    with torch.enable_grad(), full_float32():
        last_map = last_map.detach().requires_grad_()
        pooled = extractor.pooled(detector.net, last_map)
        towards = torch.from_numpy(found.gradient(pooled[0].detach().cpu().double().numpy()))
        (gradient,) = torch.autograd.grad(pooled, last_map, towards[None].to(pooled))
    return from_0_to_1(attention(last_map[0].detach(), gradient[0]))


def attention(last_map: Tensor, gradient: Tensor) -> "NDArray[Any]":
    """Activations and the gradient with respect to them, [C, h, w] -> their channels weighted, float64 [h, w]."""
    weights = gradient.cpu().double().square().mean(dim=(1, 2))
    found: NDArray[Any] = torch.einsum("c,chw->hw", weights, last_map.cpu().double()).numpy()
    return found


def occlusion(image: Tensor, metric: Metric, detector: "Detector", found: Sensitivity) -> "NDArray[Any]":
    """By how much L changes when a patch of the image has its mean colour, float64 [8, 8]; fewer of a smaller image."""
    hidden, shape = hidden_patches(image)
    features = detector(torch.cat([image[None], hidden]))[metric.stored_as].cpu().double().numpy()
    changed = [found.exchanged(features[0], each) - found.distance for each in features[1:]]
    return np.abs(changed).reshape(shape)


def hidden_patches(image: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """An image, uint8 [3, H, W], with each patch in turn in its mean colour, [h w, 3, H, W], row by row; and (h, w)."""
    colour = image.double().mean(dim=(1, 2), keepdim=True).round().to(torch.uint8)
    tops, lefts = (np.linspace(0, side, min(PATCHES, side) + 1).round().astype(int) for side in image.shape[1:])
    made = []
    for top, bottom in itertools.pairwise(tops):
        for left, right in itertools.pairwise(lefts):
            made.append(image.clone())
            made[-1][:, top:bottom, left:right] = colour
    return torch.stack(made), (len(tops) - 1, len(lefts) - 1)


def from_0_to_1(values: "NDArray[Any]") -> "NDArray[Any]":
    """Moved and scaled so that the least is 0 and the largest 1; all 0 if they are equal."""
    low, high = values.min(), values.max()
    found: NDArray[Any] = (values - low) / (high - low) if high > low else np.zeros_like(values, dtype=np.float64)
    return found
