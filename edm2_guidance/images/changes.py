"""Changes made to a set of images on purpose, to see which measures notice (`metrics/perturb.py`).

A change is of pixels, each image by itself, or of the set: which of the images are in it. Both are the same in every
run: what is random depends on nothing but an image's place, or on how many images there are.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from edm2_guidance.images.batch import ImageBatch, ImageSource
from edm2_guidance.recipe.spec import Spec

SEED = 0

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Change(Spec):
    """Base of all changes."""

    axis = "change"


@dataclass(frozen=True)
class PixelChange(Change):
    """A change of every image."""

    @abstractmethod
    def of(self, image: Pixels, place: int) -> Pixels:
        """The image, uint8 [H, W, 3], changed, of the same shape. place: in the set, from 0."""


@dataclass(frozen=True)
class SetChange(Change):
    """A change of which images there are. needs_labels: whether classes decide."""

    needs_labels: ClassVar[bool] = False

    @abstractmethod
    def rows(self, count: int, labels: NDArray[Any]) -> NDArray[Any]:
        """The places, int64, of the images of the new set in the one of `count` images; some may come several times.

        labels: int64 [count]; empty if nobody knows them. ValueError if it cannot be made of these.
        """


class ChangedImages:
    """An `ImageSource` of which every image is changed on its way."""

    def __init__(self, source: ImageSource, change: PixelChange) -> None:
        self.num_images, self._source, self._change = source.num_images, source, change

    def __iter__(self) -> Iterator[ImageBatch]:
        import torch

        place = 0
        for batch in self._source:
            images = batch.images.permute(0, 2, 3, 1).numpy()
            changed = np.stack([self._change.of(image, place + index) for index, image in enumerate(images)])
            place += len(images)
            yield ImageBatch(torch.from_numpy(changed).permute(0, 3, 1, 2).contiguous(), batch.seeds, batch.labels)


class Labelled(Protocol):
    """Images of which the classes may be known, such as `StoredImages`."""

    num_images: int

    @property
    def labels(self) -> Sequence[int] | None:
        """The class of each; None if nobody knows."""


def rows_of(change: Change, images: Labelled) -> NDArray[Any]:
    """The places, int64, of the images that are there under a change; some may come several times.

    ValueError as `SetChange.rows`, without labels that it needs, and where fewer than 2 images are left.
    """
    count, labels = images.num_images, images.labels
    if not isinstance(change, SetChange):
        return np.arange(count)
    if change.needs_labels and labels is None:
        raise ValueError(
            f"{change} goes by the classes of the images, which these do not have: a dataset.json beside them gives "
            "them, of an .npz arr_1"
        )
    found = change.rows(count, np.asarray(() if labels is None else labels, dtype=np.int64))
    if len(found) < 2:
        raise ValueError(f"{change} leaves {len(found)} of {count} images: statistics need at least 2")
    return found


def with_controls(changes: Sequence[Change], images: Labelled) -> dict[Change, Change | None]:
    """Changes of a set, and what each is to be held against: None for the unchanged set.

    That is as many of the images, drawn at random, where a change leaves fewer of them: numbers of images move values,
    too. These draws are among the changes, each before the first that needs it. ValueError as `rows_of`.
    """
    found: dict[Change, Change | None] = {}
    for change in changes:
        left = len(rows_of(change, images))
        as_many = Change.parse(f"fewer:num={left}") if left < images.num_images else None
        if as_many is not None:
            found.setdefault(as_many, None)
        found.setdefault(change, as_many)
    return found
