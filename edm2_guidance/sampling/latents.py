"""What sampling makes before it is decoded, and a file of it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib.atomic import atomic_path
from edm2_guidance.images.diagnostics import Diagnostics
from edm2_guidance.images.members import RECIPE_NAME
from edm2_guidance.images.npz import add_arrays, npz_array
from edm2_guidance.images.unzip import open_zip, read_zip_member
from edm2_guidance.images.zips import ZipWriter, json_bytes, parse_object


@dataclass(frozen=True)
class Latents:
    """Samples that are not decoded, in order, with what is known about each; pixels in [-1, 1] for RGB networks.

    Attributes:
        values: [N, C, H, W] in the precision of the sampler's state.
        seeds: The seed of each.
        labels: The class index of each, or None for those without classes.
        reduced: As `ImageBatch.reduced`.
        recipe: Of what they are samples, as `Recipe.to_json` writes it; None if nobody knows.
        diagnostics: As `ImageBatch.diagnostics`, on the way to images: neither joined nor saved.
    """

    values: torch.Tensor = field(repr=False)
    seeds: tuple[int, ...]
    labels: tuple[int, ...] | None = None
    reduced: Mapping[str, int] = field(default_factory=dict)
    recipe: Mapping[str, Any] | None = field(default=None, repr=False)
    diagnostics: Diagnostics | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def joined(cls, parts: "Sequence[Latents]", recipe: Mapping[str, Any]) -> "Latents":
        """Those of one recipe as one, in their order, on the CPU."""
        labels = [part.labels for part in parts]
        return cls(
            torch.cat([part.values.cpu() for part in parts]),
            tuple(seed for part in parts for seed in part.seeds),
            None if None in labels else tuple(label for some in labels for label in some or ()),
            {work: limit for part in parts for work, limit in part.reduced.items()},
            recipe,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them as an `.npz` of latents, seeds and labels, with recipe.json. OSError if that fails."""
        arrays = {"latents": self.values.cpu().numpy(), "seeds": np.array(self.seeds, dtype=np.int64)}
        if self.labels is not None:
            arrays["labels"] = np.array(self.labels, dtype=np.int64)
        with atomic_path(path) as temporary, ZipWriter(temporary) as writer:
            add_arrays(writer, arrays)
            writer.add(RECIPE_NAME, json_bytes(self.recipe or {}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Latents":
        """Those of a file that `save` wrote. OSError if it cannot be had, ValueError for what is none."""
        path = Path(path)
        with open_zip(path) as file:
            values, seeds = (npz_array(path, file, name) for name in ("latents", "seeds"))
            labels = npz_array(path, file, "labels") if "labels.npy" in file.namelist() else None
            recipe = parse_object(read_zip_member(path, file, RECIPE_NAME), f"{RECIPE_NAME} of {path}")
        listed = [values, seeds] if labels is None else [values, seeds, labels]
        if values.ndim != 4 or {len(each) for each in listed} != {len(values)} or values.dtype.kind != "f":
            raise ValueError(f"{path} holds no latents: expected float [N, C, H, W], and as many seeds and labels")
        known = None if labels is None else tuple(labels.tolist())
        return cls(torch.from_numpy(values), tuple(seeds.tolist()), known, recipe=recipe or None)
