"""The recipe beside a folder of images, so that no folder holds images of two recipes. No torch here."""

import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from dnnlib.util import atomic_path, check_destination
from images.claims import Claim
from images.recipe import Recipe
from images.shards import differences
from images.sinks import PNGFolder
from images.zips import RECIPE_NAME, json_bytes

if TYPE_CHECKING:
    from images.batch import ImageBatch

_IMAGE = re.compile(r"\d{6,}\.png")
_POLL_SECONDS = 0.02


class RecipeFolder:
    """A sink: a PNGFolder whose images all come from one recipe, which `recipe.json` beside them states.

    The usual order: `plan` (before any network opens), `claim` (once the recipe's hashes are known), then draining
    into it. `recipe.json` appears with the first images; images that are to be made again are removed then. Several
    workers may each do this at the same time, with the same arguments but for their number.
    """

    def __init__(self, folder: str | os.PathLike[str], subdirs: bool = False) -> None:
        self.images = PNGFolder(folder, subdirs)
        self.folder = Path(folder)
        self._content: dict[str, Any] | None = None
        self._replaces: str | None = None
        self._seeds: Sequence[int] = ()
        self._again: list[Path] = []

    def plan(
        self,
        seeds: Sequence[int],
        batch: int,
        *,
        worker: int = 0,
        workers: int = 1,
        resume: bool = False,
        overwrite: bool = False,
    ) -> list[list[int]]:
        """The seeds to make, in batches: batch number b of all is worker b mod workers' to make, as in one process.

        With `resume`, what is there is left out of its batch. Raises ValueError if some are there and neither
        `resume` nor `overwrite` says what to do, or if the folder holds images without a recipe, which those to be
        made must not mix with; OSError if it cannot be written.
        """
        check_destination(self.folder / RECIPE_NAME)
        starts = range(worker * batch, len(seeds), workers * batch)
        batches = [list(seeds[start : start + batch]) for start in starts]
        mine = [seed for part in batches for seed in part]
        there = self.images.existing(mine)
        if there and not resume and not overwrite:
            raise ValueError(
                f"{len(there)} of the {len(mine)} images are in {self.folder} already: --resume makes the others "
                "only, --overwrite all again; or take another folder"
            )
        self._seeds = seeds if overwrite else ()
        kept = self._others(self._seeds)
        if kept and not (self.folder / RECIPE_NAME).exists():
            raise ValueError(f"{self.folder} holds images of unknown origin, such as {kept[0]}: take another folder")
        self._again = there if overwrite else []
        done = set() if overwrite else set(there)
        left = ([seed for seed in part if self.images.path(seed) not in done] for part in batches)
        return [part for part in left if part]

    def claim(self, recipe: Recipe) -> None:
        """State the recipe of the images to come. ValueError, with the differences, if images of another one stay."""
        self._content = {"format": 1, "recipe": recipe.to_json(), "recipe_hash": recipe.hash}
        found = self._stated()
        self._replaces = None if found is None else found.get("recipe_hash")
        if found is not None and self._replaces != recipe.hash and self._others(self._seeds):
            self._refuse(found)

    def _stated(self) -> dict[str, Any] | None:
        """Content of the recipe.json that is there; ValueError if it is not readable."""
        path = self.folder / RECIPE_NAME
        try:
            return dict(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not readable as a recipe ({error}): take another folder") from error

    def _refuse(self, found: dict[str, Any]) -> NoReturn:
        lines = "\n".join(differences(found, self._content or {}))
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
            self._state(self._content)
            self._content = None
        self.images.write(batch)

    def _state(self, content: dict[str, Any]) -> None:
        """Make recipe.json say this, one process at a time, and remove the images that are to be made again.

        ValueError if it says by now what it did not when this run claimed the folder: another run was faster.
        """
        claim = Claim(self.folder, "recipe")
        while not claim.take():
            time.sleep(_POLL_SECONDS)
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            found = self._stated()
            stated = None if found is None else found.get("recipe_hash")
            if found is not None and stated not in (self._replaces, content["recipe_hash"]):
                self._refuse(found)
            if stated != content["recipe_hash"]:  # so nobody has written an image of this recipe yet
                self._again = self.images.existing(self._seeds)
            for path in self._again:
                path.unlink(missing_ok=True)
            with atomic_path(self.folder / RECIPE_NAME) as temporary:
                temporary.write_bytes(json_bytes(content))
        finally:
            claim.release()
