"""The kinds of changes: of pixels, by Pillow where it can, and of which images there are."""

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from edm2_guidance.images.changes import SEED, PixelChange, Pixels, SetChange
from edm2_guidance.images.decode import opened_image
from edm2_guidance.recipe.spec import option


@dataclass(frozen=True)
class Blur(PixelChange):
    """Blurred by Pillow's Gaussian, which three box filters stand for."""

    kind = "blur"

    sigma: float = option(1.0, "Standard deviation", unit="pixels", above=0, high=1000)

    def of(self, image: Pixels, place: int) -> Pixels:
        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(self.sigma)))


@dataclass(frozen=True)
class Noise(PixelChange):
    """Gaussian noise in each pixel and channel, rounded and clipped to 8 bits."""

    kind = "noise"

    sigma: float = option(10.0, "Standard deviation", unit="levels of 255", above=0, high=1000)

    def of(self, image: Pixels, place: int) -> Pixels:
        noise = np.random.RandomState([SEED, place]).standard_normal(image.shape)
        return np.clip(np.rint(image + self.sigma * noise), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Jpeg(PixelChange):
    """Written as JPEG by Pillow, colours at half the resolution, and read again."""

    kind = "jpeg"

    quality: int = option(75, "Of Pillow's scale", low=1, high=100)

    def of(self, image: Pixels, place: int) -> Pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=self.quality, subsampling="4:2:0")
        with opened_image(file.getvalue(), "what Pillow wrote") as read:
            return np.asarray(read)


@dataclass(frozen=True)
class Resize(PixelChange):
    """Resized by Pillow to a share of its size, and back, both by one filter."""

    kind = "resize"

    scale: float = option(0.5, "Share of width and height", above=0, high=8)
    filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = option("bicubic", "Pillow's name")

    def of(self, image: Pixels, place: int) -> Pixels:
        height, width = image.shape[:2]
        size = max(1, round(width * self.scale)), max(1, round(height * self.scale))
        resample = Image.Resampling[self.filter.upper()]
        return np.asarray(Image.fromarray(image).resize(size, resample).resize((width, height), resample))


@dataclass(frozen=True)
class Shift(PixelChange):
    """Moved to the right; the left edge is repeated."""

    kind = "shift"

    by: int = option(1, "How far", unit="pixels", low=1)

    def of(self, image: Pixels, place: int) -> Pixels:
        return image[:, np.maximum(np.arange(image.shape[1]) - self.by, 0)]


@dataclass(frozen=True)
class Quantise(PixelChange):
    """The nearest of a few levels in place of 256, equally far apart."""

    kind = "quantise"

    levels: int = option(16, "How many", low=2, high=256)

    def of(self, image: Pixels, place: int) -> Pixels:
        steps = self.levels - 1
        return np.rint(np.rint(image / 255 * steps) / steps * 255).astype(np.uint8)


@dataclass(frozen=True)
class Fewer(SetChange):
    """So many of the images, drawn at random."""

    kind = "fewer"

    num: int = option(1000, "How many are left", unit="images", low=2)

    def rows(self, count: int, labels: NDArray[Any]) -> NDArray[Any]:
        if self.num > count:
            raise ValueError(f"{self}: there are {count} images")
        return np.sort(np.random.RandomState(SEED).choice(count, self.num, replace=False))


@dataclass(frozen=True)
class Drop(SetChange):
    """Without the images of some classes."""

    kind = "drop"
    needs_labels = True

    classes: tuple[int, ...] = option((), "Which; none for the last ones", low=0)
    last: int = option(1, "Or the last so many, by number", low=1)

    def check(self) -> None:
        if self.classes and self.last != 1:
            raise ValueError(f"{self}: give classes or last, not both")

    def rows(self, count: int, labels: NDArray[Any]) -> NDArray[Any]:
        there = np.unique(labels)
        gone = self.classes or there[-self.last :]
        if lacking := sorted(set(gone) - set(there.tolist())):
            raise ValueError(f"{self}: no image is of class {lacking[0]}")
        return np.flatnonzero(~np.isin(labels, gone))


@dataclass(frozen=True)
class Duplicate(SetChange):
    """Some of the images replaced by copies of others."""

    kind = "duplicate"

    share: float = option(0.5, "Of the images that are replaced", above=0, high=1)

    def rows(self, count: int, labels: NDArray[Any]) -> NDArray[Any]:
        draws = np.random.RandomState(SEED)
        order = draws.permutation(count)
        kept = max(1, count - round(self.share * count))
        found = np.arange(count)
        found[order[kept:]] = order[draws.randint(kept, size=count - kept)]
        return found


@dataclass(frozen=True)
class Balanced(SetChange):
    """As many images of each class as of the rarest, drawn at random."""

    kind = "balance"
    needs_labels = True

    def rows(self, count: int, labels: NDArray[Any]) -> NDArray[Any]:
        draws, least = np.random.RandomState(SEED), np.unique(labels, return_counts=True)[1].min()
        of_each = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        return np.sort(np.concatenate([draws.choice(places, least, replace=False) for places in of_each]))
