"""python -m benchmarks.traps IMAGES: how far numbers go astray by what evaluators are known to have got wrong.

IMAGES are 16x16 digits with classes. Prints a Markdown table for each trap: the same images by the rule that the
toolkit goes by, and by others. Features are of the digit classifier that ships here; those of sFID, which Inception
alone has, of one with random weights: how large effects are beside one another counts there, and no number by itself.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from edm2_guidance.images.sources import StoredImages
from edm2_guidance.metrics.detectors import load_detector
from edm2_guidance.metrics.extractors.networks.inception import SPATIAL_CHANNELS, InceptionV3, resize_tf1
from edm2_guidance.metrics.measures.gaussians import frechet_distance
from edm2_guidance.metrics.measures.inception_score import InceptionScore, score
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.reference import open_statistics
from edm2_guidance.metrics.running import RunningMoments

LARGE = 40  # pixels: to which digits are enlarged, as if they came from larger pictures
PLACES = 17  # of sFID's features, in height and width
GAUSSIAN = 256  # features of which the true distance is 0
FEWEST = 20  # images
SEED = 0
Row = tuple[str, ...]


def moments_of(rows: Tensor) -> Moments:
    """Mean and covariance of features [N, D]."""
    running = RunningMoments(rows.shape[1])
    running.append(rows)
    return running.moments()


def by_pillow(resample: Image.Resampling, size: int) -> Callable[[Tensor], Tensor]:
    """Resizes uint8 [N, 3, H, W] by Pillow, which widens its filters where it makes images smaller."""

    def resize(images: Tensor) -> Tensor:
        pictures = (Image.fromarray(image) for image in images.permute(0, 2, 3, 1).numpy())
        resized = np.stack([np.asarray(picture.resize((size, size), resample)) for picture in pictures])
        return torch.from_numpy(resized).permute(0, 3, 1, 2)

    return resize


def by_torch(mode: str, size: int, **how: Any) -> Callable[[Tensor], Tensor]:
    """The same by torch, rounded to 8 bits."""

    def resize(images: Tensor) -> Tensor:
        resized = F.interpolate(images.float(), size, mode=mode, **how)
        return resized.round().clamp(0, 255).to(torch.uint8)

    return resize


def resizes(size: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Ways to make images smaller, by name."""
    return {
        "Pillow, Lanczos": by_pillow(Image.Resampling.LANCZOS, size),
        "Pillow, bicubic": by_pillow(Image.Resampling.BICUBIC, size),
        "Pillow, box": by_pillow(Image.Resampling.BOX, size),
        "torch, bilinear, antialias": by_torch("bilinear", size, antialias=True),
        "torch, bilinear": by_torch("bilinear", size),
        "torch, bicubic": by_torch("bicubic", size),
        "TensorFlow 1, bilinear": lambda images: resize_tf1(images.float(), size).round().to(torch.uint8),
        "torch, nearest": by_torch("nearest", size),
    }


def another_resize(images: Tensor, features: Callable[[Tensor], Tensor]) -> Iterator[Row]:
    """fd_mnist of one half of the images to the other, both from larger pictures: the other made small by Lanczos."""
    large = by_pillow(Image.Resampling.LANCZOS, LARGE)(images)
    ours, theirs = large[: len(large) // 2], large[len(large) // 2 :]
    ways = resizes(images.shape[-1])
    reference = moments_of(features(next(iter(ways.values()))(theirs)))
    for name, resize in ways.items():
        yield name, f"{frechet_distance(moments_of(features(resize(ours))), reference):.4f}"


def sorted_inception_score(logits: Tensor, labels: Tensor) -> Iterator[Row]:
    """Inception Scores of images in the order they come in, and class by class."""
    in_order = logits[labels.argsort(stable=True)]
    ways = {"10 parts, shuffled": "is", "10 parts, as they come": "is:order=given", "one part": "is:parts=1"}
    for name, text in ways.items():
        measure = InceptionScore.parse(text)
        means = [np.mean([score(rows[which]) for which in measure.split(len(rows))]) for rows in (logits, in_order)]
        yield name, *(f"{mean:.4f}" for mean in means)


def spatial_features(images: Tensor, channels: slice) -> Tensor:
    """Channels of the layer of sFID [N, 17, 17, C], by an Inception of random weights."""
    torch.manual_seed(SEED)
    net = InceptionV3().eval().requires_grad_(False)
    for each in net.modules():
        if isinstance(each, torch.nn.Conv2d):
            torch.nn.init.normal_(each.weight, std=math.sqrt(2 / each.weight[0].numel()))
    found: list[Tensor] = []
    branch = net.Mixed_6d.get_submodule("branch1x1")
    branch.register_forward_hook(lambda module, given, out: found.append(out[:, channels].permute(0, 2, 3, 1)))
    with torch.inference_mode():
        for part in images.split(16):
            net.taps(part)
    return torch.cat(found)


def channel_order(images: Tensor) -> Iterator[Row]:
    """sFID of one half of the images to the other, whose features are taken in other orders."""
    found = spatial_features(images, slice(0, 2 * SPATIAL_CHANNELS))
    ours, theirs = found[: len(found) // 2], found[len(found) // 2 :]
    first, next_ones = slice(0, SPATIAL_CHANNELS), slice(SPATIAL_CHANNELS, None)
    reference = moments_of(theirs[..., first].flatten(1))
    ways = {
        "places first, as guided-diffusion: index = (17 h + w) 7 + c": ours[..., first],
        "channels first: index = 289 c + 17 h + w": ours[..., first].permute(0, 3, 1, 2),
        "places first, w before h": ours[..., first].transpose(1, 2),
        "the next 7 channels": ours[..., next_ones],
    }
    for name, rows in ways.items():
        yield name, f"{frechet_distance(moments_of(rows.flatten(1)), reference):.4g}"


def by_roots(a: Moments, b: Moments, offset: float = 0.0) -> complex:
    """The distance by SciPy's square root of the product, with what is added to the diagonals, as most code has it."""
    from scipy.linalg import sqrtm

    ours, theirs = (each.cov + offset * np.eye(each.dim) for each in (a, b))
    root = complex(np.trace(np.asarray(sqrtm(ours @ theirs), dtype=complex)))
    return float(np.square(a.mean - b.mean).sum() + np.trace(a.cov + b.cov)) - 2 * root


def few_images(rows: Tensor, reference: Moments, dim: int = GAUSSIAN) -> Iterator[Row]:
    """Distances of few images to the reference, and of `dim` Gaussian features to as many of the same Gaussian.

    Of either how far the roots of others are from it, plain and with 1e-6 on the diagonals.
    """
    gaussian = torch.randn(2, 5000, dim, generator=torch.Generator().manual_seed(SEED))
    for num in (FEWEST, 50, 100, 200, 500, 1000, 5000):
        if num > len(rows):
            return
        pairs = (moments_of(rows[:num]), reference), (moments_of(gaussian[0, :num]), moments_of(gaussian[1, :num]))
        cells = []
        for a, b in pairs:
            ours = frechet_distance(a, b)
            cells += [f"{ours:.4f}", *(_shown(by_roots(a, b, offset) - ours) for offset in (0, 1e-6))]
        yield str(num), *cells


def _shown(difference: complex) -> str:
    imaginary = "" if abs(difference.imag) < 1e-12 else f", imaginary {abs(difference.imag):.1g}"
    return f"{difference.real:+.1g}{imaginary}"


def tables(source: StoredImages) -> Iterator[tuple[str, Row, Iterator[Row]]]:
    """A title, the names of columns, and rows, of each trap."""
    images, labels = torch.cat([batch.images for batch in source]), torch.tensor(source.labels)
    detector = load_detector("fd_mnist", features=("pool", "logits"))
    reference = open_statistics("mnist16-refs", ["fd_mnist"]).moments["fd_mnist"]

    def features(images: Tensor) -> Tensor:
        return torch.cat([detector(part)["fd_mnist"] for part in images.split(256)])

    logits = torch.cat([detector(part)["fd_mnist_logits"] for part in images.split(256)])
    yield "another resize", ("made smaller by", "fd_mnist"), another_resize(images, features)
    columns: Row = ("parts", "as stored", "class by class")
    yield "Inception Score, not shuffled", columns, sorted_inception_score(logits, labels)
    some = min(100, len(images))
    yield f"sFID's order, {some} images, random weights", ("features", "sFID"), channel_order(images[:some])
    beside = ("square root", "the same, with 1e-6")
    columns = ("images", "fd_mnist", *beside, f"{GAUSSIAN} Gaussian features", *beside)
    yield "few images", columns, few_images(features(images), reference)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.traps", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("images", help="folder, ZIP or .npz")
    parser.add_argument("--num-images", type=int, default=5000, help="of these  [default: 5000]")
    asked = parser.parse_args(arguments)
    try:
        source = StoredImages(asked.images, max_images=asked.num_images)
    except (OSError, ValueError) as err:
        parser.error(str(err))
    if source.labels is None or source.image_size != (16, 16) or source.num_images < FEWEST:
        parser.error(f"{asked.images}: {FEWEST} or more 16x16 digits with classes are needed")
    for title, names, rows in tables(source):
        print(f"\n{title}\n\n| {' | '.join(names)} |\n|{'---|' * len(names)}")
        for row in rows:
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
