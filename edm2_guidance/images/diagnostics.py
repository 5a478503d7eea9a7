"""What guidance did to each of many images, step by step. Torch-free."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edm2_guidance.images.npz import npz_array

_TEXTS = ("guides", "networks")
_BY_IMAGE = ("seeds", "labels", "difference", "weight", "evaluations")
_DTYPES = {"seeds": np.int64, "labels": np.int64, "evaluations": np.uint8}  # of the others: float32


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """What guidance did to each of N images, at every step.

    D_ref + w (D_main - D_ref) is what a guide asks for. It is looked at where a step first evaluates D: not again in
    Heun's corrector, and before rules other than the linear one and clipping change what comes of it.

    Attributes:
        seeds: int64 [N].
        labels: int64 [N], the classes; None for images without.
        sigma: float32 [steps], the noise level of that evaluation: the step's own, above the schedule's under churn.
        difference: float32 [N, steps, guides], the root mean square of D_main - D_ref over C, H, W, in the units of x
            (EDM2's latents and pixels have a standard deviation of 0.5). Of a classifier: of its push,
            sigma^2 grad log p. NaN where the guide is off, and so is not evaluated.
        weight: float32 [N, steps, guides], the w of that evaluation; 1 where the guide is off. Of a classifier: 1 plus
            the scale that multiplies its push. The mean over C, H, W, where a weight differs there.
        evaluations: uint8 [N, steps, networks], how often each network ran, in all of the step.
        guides: What each guide is called, "guide 1" or "classifier 2", in the order of the recipe.
        networks: The same of each network: "main", then those of the guides that have one of their own.

    Raises ValueError for arrays of other dtypes or shapes.
    """

    seeds: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    sigma: NDArray[np.float32]
    difference: NDArray[np.float32]
    weight: NDArray[np.float32]
    evaluations: NDArray[np.uint8]
    guides: tuple[str, ...]
    networks: tuple[str, ...]

    def __post_init__(self) -> None:
        images, steps = self.seeds.size, self.sigma.size
        shapes: dict[str, tuple[int, ...]] = {"seeds": (images,), "labels": (images,), "sigma": (steps,)}
        shapes |= dict.fromkeys(("difference", "weight"), (images, steps, len(self.guides)))
        shapes["evaluations"] = (images, steps, len(self.networks))
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array is not None and (array.dtype != _DTYPES.get(name, np.float32) or array.shape != shape):
                raise ValueError(f"diagnostics whose {name} is {array.dtype} {list(array.shape)}: make them again")

    def __len__(self) -> int:
        return self.seeds.size

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Those of several batches of one recipe, in their order."""
        first, *_ = parts
        names = first.arrays().keys() & _BY_IMAGE
        whole: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return replace(first, **whole)

    def select(self, rows: Sequence[int]) -> Self:
        """Those of the images of these rows."""
        chosen: dict[str, Any] = {name: getattr(self, name)[list(rows)] for name in self.arrays().keys() & _BY_IMAGE}
        return replace(self, **chosen)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays that there are, by name."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _TEXTS}
        return {name: array for name, array in values.items() if array is not None}

    def texts(self) -> dict[str, tuple[str, ...]]:
        """What guides and networks are called."""
        return {name: getattr(self, name) for name in _TEXTS}

    @classmethod
    def read(cls, path: Path, file: zipfile.ZipFile, texts: Mapping[str, Any], prefix: str = "") -> Self:
        """Of the arrays in the open ZIP `file` at `path`, whose names begin so, and of these texts.

        ValueError if it is damaged, or anything does not fit.
        """
        names = [each.name for each in fields(cls) if each.name not in _TEXTS]
        there = [name for name in names if name != "labels" or f"{prefix}labels.npy" in file.NameToInfo]
        found: dict[str, Any] = {name: npz_array(path, file, prefix + name) for name in there}
        for name in _TEXTS:
            given = texts.get(name)
            found[name] = tuple(map(str, given if isinstance(given, list) else ()))
        try:
            return cls(**{"labels": None, **found})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
