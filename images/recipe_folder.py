"""The recipe beside a folder of images, so that no folder holds images of two recipes. No torch here."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dnnlib.util import atomic_path, check_destination
from images.recipe import Recipe
from images.shards import differences
from images.sinks import PNGFolder
from images.zips import RECIPE_NAME, json_bytes

if TYPE_CHECKING:
    from images.batch import ImageBatch

_IMAGE = re.compile(r"\d{6,}\.png")


class RecipeFolder:
    """A sink: a PNGFolder whose images all come from one recipe, which `recipe.json` beside them states.

    The usual order: `plan` (before any network opens), `claim` (once the recipe's hashes are known), then draining
    into it. `recipe.json` appears with the first images; images that are to be made again are removed then.
    """

    def __init__(self, folder: str | os.PathLike[str], subdirs: bool = False) -> None:
        self.images = PNGFolder(folder, subdirs)
        self.folder = Path(folder)
        self._content: dict[str, Any] | None = None
        self._again: list[Path] = []

    def plan(self, seeds: Sequence[int], *, resume: bool = False, overwrite: bool = False) -> list[int]:
        """The seeds to make: all, or with `resume` those whose image is not there.

        Raises ValueError if some are there and neither `resume` nor `overwrite` says what to do, or if the folder
        holds images without a recipe, which those to be made must not mix with; OSError if it cannot be written.
        """
        check_destination(self.folder / RECIPE_NAME)
        there = self.images.existing(seeds)
        if there and not resume and not overwrite:
            raise ValueError(
                f"{len(there)} of the {len(seeds)} images are in {self.folder} already: --resume makes the others "
                "only, --overwrite all again; or take another folder"
            )
        kept = self._others(seeds) if overwrite else self._others(())
        if kept and not (self.folder / RECIPE_NAME).exists():
            raise ValueError(f"{self.folder} holds images of unknown origin, such as {kept[0]}: take another folder")
        self._again = there if overwrite else []
        done = set() if overwrite else set(there)
        return [seed for seed in seeds if self.images.path(seed) not in done]

    def claim(self, recipe: Recipe, seeds: Sequence[int]) -> None:
        """State the recipe of the images to come. ValueError, with the differences, if images of another one stay."""
        self._content = {"format": 1, "recipe": recipe.to_json(), "recipe_hash": recipe.hash}
        path = self.folder / RECIPE_NAME
        if not path.exists():
            return
        try:
            found = dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not readable as a recipe ({error}): take another folder") from error
        same = found.get("recipe_hash") == recipe.hash
        if not same and self._others([seed for seed in seeds if self.images.path(seed) in self._again]):
            lines = "\n".join(differences(found, self._content))
            raise ValueError(
                f"{self.folder} holds images of another recipe: take another folder. There | asked now:\n{lines}"
            )

    def _others(self, seeds: Sequence[int]) -> list[Path]:
        """Images in the folder, except those of `seeds`."""
        mine = {self.images.path(seed) for seed in seeds}
        found = (path for path in sorted(self.folder.rglob("*.png")) if _IMAGE.fullmatch(path.name))
        return [path for path in found if path not in mine]

    def __enter__(self) -> Self:
        self.images.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.images.__exit__(kind, error, trace)

    def write(self, batch: "ImageBatch") -> None:
        if self._content is not None:
            for path in self._again:
                path.unlink(missing_ok=True)
            with atomic_path(self.folder / RECIPE_NAME) as temporary:
                temporary.write_bytes(json_bytes(self._content))
            self._content = None
        self.images.write(batch)
