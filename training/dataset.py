"""Training sets: images or latents in a ZIP or folder, with labels, and the endless order they are visited in."""

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edm2_guidance.images import npy
from edm2_guidance.images.archive import Archive, open_archive, select_subset
from edm2_guidance.images.sources import decode_rgb

Float32 = NDArray[np.float32]

#: More classes than this are taken for a mistake (an id in place of a class index).
MAX_CLASSES = 1 << 17


class ImageFolderDataset:
    """Pixels or latents of one size, in sorted order of their names, with labels from `dataset.json`.

    PNG (or other image files) are read as pixels and must be 8-bit RGB, uint8 [3,H,W]. NPY files are read as latents,
    float32 [C,H,W]; eight channels are the means and standard deviations of a VAE.

    Attributes:
        path: Where the set is.
        image_shape: [C, H, W] of every item.
        label_dim: Number of classes, or length of the label vectors; 0 without labels.
        class_names: Names of classes 0, 1, ...; None without labels, for label vectors, or if the set does not say.
        notes: What of the set is not read, as a sentence each, for the user.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        use_labels: bool = True,
        max_size: int | None = None,  # None = all
        random_seed: int = 0,  # which items are taken when there are more than max_size
    ) -> None:
        """Opens the set and reads one item.

        Raises:
            FileNotFoundError: Nothing is at `path`.
            ValueError: It holds no images, mixes images and NPY files, has bad labels, labels were asked for and
                there are none, or the first item is not square pixels or latents.
        """
        self.path = path
        self._archive = open_archive(path)
        names = self._archive.names
        self._latents = names[0].lower().endswith(".npy")
        if any(name.lower().endswith(".npy") != self._latents for name in names):
            raise ValueError(f"{path} mixes image files and .npy latents; keep one kind")
        self._names = [names[i] for i in select_subset(len(names), max_size, random_seed)]
        self._labels = _load_labels(self._archive, self._names) if use_labels else None
        if use_labels and self._labels is None:
            raise ValueError(f"{path} has no labels (dataset.json): give --cond=False to train without classes")
        self.class_names, notes = self._archive.class_names(self.label_dim) if self._has_classes else (None, ())
        self.notes = (*self._archive.notes, *notes)
        self.image_shape: tuple[int, ...] = _decode(self._archive, self._names[0], self._latents).shape
        _, height, width = self.image_shape
        if height != width:
            raise ValueError(f"{path} holds {width}x{height} images: networks are trained on square ones")
        self._items: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self._names)

    @property
    def _has_classes(self) -> bool:
        return self._labels is not None and self._labels.ndim == 1

    @property
    def label_dim(self) -> int:
        """Number of classes (largest index + 1), or length of the label vectors; 0 without labels."""
        if self._labels is None:
            return 0
        return int(self._labels.max()) + 1 if self._labels.ndim == 1 else self._labels.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory that all items take when decoded."""
        return len(self) * int(np.prod(self.image_shape)) * (4 if self._latents else 1)

    def cache(self) -> None:
        """Decode all items now, and keep them in memory. Raises ValueError, naming the file, as `items` does."""
        if self._items is None:
            self._items = self._read(range(len(self)))

    def items(self, indices: Sequence[int]) -> NDArray[Any]:
        """Pixels uint8 or latents float32 [N,C,H,W] of the given items.

        Raises ValueError, naming the file, for one that is damaged or unlike the first in size or kind.
        """
        if self._items is not None:
            chosen: NDArray[Any] = self._items[np.asarray(indices)]
            return chosen
        return self._read(indices)

    def labels(self, indices: Sequence[int]) -> Float32 | None:
        """One-hot rows or label vectors, float32 [N, label_dim]; None without labels."""
        if self._labels is None:
            return None
        chosen = self._labels[np.asarray(indices)]
        if chosen.ndim == 2:
            result: Float32 = chosen.astype(np.float32)
            return result
        onehot = np.zeros([len(chosen), self.label_dim], dtype=np.float32)
        onehot[np.arange(len(chosen)), chosen] = 1
        return onehot

    def fingerprint(self) -> dict[str, object]:
        """What tells this set from another one when a run is resumed: plain data, without the set's path or name.

        Hashes tell names, sizes and CRCs of the images (see `Archive.content_hash`), and the labels' values.
        """
        labels = None if self._labels is None else hashlib.sha256(self._labels.tobytes()).hexdigest()[:16]
        return {
            "items": len(self),
            "shape": list(self.image_shape),
            "label_dim": self.label_dim,
            "images (hash)": self._archive.content_hash(self._names)[:16],
            "labels (hash)": labels,
        }

    def _read(self, indices: Sequence[int]) -> NDArray[Any]:
        out: NDArray[Any] = np.empty((len(indices), *self.image_shape), dtype=np.float32 if self._latents else np.uint8)
        for row, index in enumerate(indices):
            name = self._names[index]
            item = _decode(self._archive, name, self._latents)
            if item.shape != self.image_shape:
                raise ValueError(
                    f"{name!r} in {self.path} has shape {list(item.shape)}, the first one {list(self.image_shape)}: "
                    "all must be alike (see dataset_tool.py convert)"
                )
            out[row] = item
        return out


def _decode(archive: Archive, name: str, latents: bool) -> NDArray[Any]:
    """One item as [C,H,W]; ValueError, naming it, for what is not 8-bit RGB or a finite float32 array."""
    where = archive.where(name)
    if not latents:
        return decode_rgb(archive.read(name), where).transpose(2, 0, 1)
    data = archive.read(name)
    try:
        array: NDArray[Any] = npy.from_bytes(data)
    except ValueError as error:
        raise ValueError(f"{where} is no readable array ({error})") from error
    if array.ndim != 3 or array.dtype != np.float32 or not np.isfinite(array).all():
        raise ValueError(f"{where} is {array.dtype} {list(array.shape)}: expected finite float32 latents [C,H,W]")
    return array


def _load_labels(archive: Archive, names: list[str]) -> NDArray[np.int64] | Float32 | None:
    """Classes int64 [N] or vectors float32 [N, D]; ValueError for class indices that no one-hot row can hold."""
    listed = archive.labels()
    if listed is None:
        return None
    chosen = [listed[name] for name in names]
    if isinstance(chosen[0], list):
        return np.array(chosen, dtype=np.float32)
    labels = np.array(chosen, dtype=np.int64)
    if labels.max() >= MAX_CLASSES:
        raise ValueError(f"{archive.path} has class {labels.max()}: number the classes from 0")
    return labels


class ShuffledOrder:
    """Endless order of items: position p in it is item `permutation(p // n)[p % n]`, a function of the seed alone.

    Every pass visits each item once, each time in a new order. Workers share one order: of a batch that starts at
    position p, worker r of W takes positions p + r, p + r + W, ... So what is trained on depends on the seed and
    the number of images seen, not on how many workers there are or how often they were restarted.
    """

    def __init__(self, num_items: int, seed: int) -> None:
        if num_items < 1:
            raise ValueError("an order of 0 items was asked for")
        self.num_items = num_items
        self.seed = seed
        # A batch touches one pass, at its end two; larger batches than passes go through in order.
        self._permutation = lru_cache(maxsize=2)(self._make_permutation)

    def __getitem__(self, position: int) -> int:
        """Item at a position >= 0."""
        return int(self._permutation(position // self.num_items)[position % self.num_items])

    def _make_permutation(self, epoch: int) -> NDArray[np.int64]:
        entropy = np.random.SeedSequence([self.seed % (1 << 64), epoch])
        return np.random.Generator(np.random.PCG64(entropy)).permutation(self.num_items)
