"""The recipe beside a folder of images, so that no folder holds images of two recipes. No torch here."""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from dnnlib.atomic import atomic_path, check_destination
from dnnlib.errors import Refused
from dnnlib.workers import ALONE, Workers
from edm2_guidance.images.sinks import PNGFolder, seeds_of_batch
from edm2_guidance.images.zips import RECIPE_NAME, json_bytes, read_object
from edm2_guidance.recipe.recipe import FORMAT, Recipe
from edm2_guidance.recipe.stored import upgraded
from edm2_guidance.work.lease import Claim, in_line, in_turn, sweep
from edm2_guidance.work.shards import differences, format_seeds, is_in_runs, join_workers, seed_runs

if TYPE_CHECKING:
    from edm2_guidance.images.batch import ImageBatch

_IMAGE = re.compile(r"\d{6,}\.png")


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
        self._asked: tuple[int, ...] = ()
        self._batches: dict[int, list[int]] = {}
        self._workers = ALONE
        self._places: list[Claim] = []
        self._again: list[Path] = []
        self._keeps = False
        self.num_written = 0  # by this object
        self.num_there = 0  # of those that this worker may make, before it made any

    def plan(
        self,
        seeds: Sequence[int],
        batch: int,
        workers: Workers = ALONE,
        *,
        overwrite: bool = False,
    ) -> list[list[int]]:
        """The seeds to make, in batches: batch number b of all is worker b mod count's to make, as in one process.

        Unless `overwrite`, batches of which nothing is missing are left out. The others are made whole, since last bits
        depend on the size of a batch; images that are there stay as they are. Raises ValueError if the folder holds
        images without a recipe, which those to be made must not mix with, or in another layout of subfolders, or if
        workers that steal should overwrite; OSError if the folder cannot be written.
        """
        check_destination(self.folder / RECIPE_NAME)
        if workers.steal and overwrite:
            raise ValueError("--steal takes images that are there for made by others: empty the folder to --overwrite")
        self._workers = workers
        cut = [list(seeds[start : start + batch]) for start in range(0, len(seeds), batch)]
        numbers = workers.order(len(cut))
        there = self.images.existing(seed for number in numbers for seed in cut[number])
        self._asked = tuple(seeds)
        self._seeds = seeds if overwrite else ()
        self._keeps = not overwrite
        kept = self._others(self._seeds)
        if kept and not (self.folder / RECIPE_NAME).exists():
            raise ValueError(f"{self.folder} holds images of unknown origin, such as {kept[0]}: take another folder")
        self._check_layout()
        self._again = there if overwrite else []
        done = set() if overwrite else set(there)
        self.num_there = len(done)
        self._batches = {
            number: cut[number] for number in numbers if any(self.images.path(seed) not in done for seed in cut[number])
        }
        return list(self._batches.values())

    def states(self, recipe: Recipe) -> bool:
        """Whether recipe.json says that the images are of this recipe. ValueError if it is not readable."""
        found = self._stated()
        return found is not None and found.get("recipe_hash") == recipe.hash

    def claim(self, recipe: Recipe, device: str | None = None) -> None:
        """State the recipe of the images to come, and take this worker's place.

        device: what identifies the device that it computes on, if no other worker should. ValueError, with the
        differences, if images of another recipe stay; if another process is this worker, or computes on this device.
        """
        self._content = {"format": FORMAT, "recipe": recipe.to_json(), "recipe_hash": recipe.hash}
        found = self._stated()
        self._replaces = None if found is None else found.get("recipe_hash")
        if found is not None and self._replaces != recipe.hash and self._others(self._seeds):
            self._refuse(found)
        if self._batches:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._places = join_workers(self.folder, self._workers, device)

    def share(self, make: Callable[[list[int]], object], others: Callable[[int], object]) -> None:
        """Call `make(seeds)`, which is to write them here, with every batch that is not there and that nobody is at.

        Batches of other workers are waited for, and made here if these die. others: called with the number of
        images of every batch that others made meanwhile.
        """
        batches = list(self._batches.items())

        def is_done(index: int) -> bool:
            return all(map(self.images.has, batches[index][1]))

        names = [f"batch-{number:05d}" for number, _ in batches]
        with closing(in_turn(self.folder, names, is_done)) as turns:
            for index, to_make in turns:
                seeds = batches[index][1]
                if to_make:
                    make(seeds)
                else:
                    others(len(seeds))

    def close(self) -> None:
        """Let others have this worker's place. When all images are there, claims of the dead are swept away."""
        for place in self._places:
            place.release()
        if self.folder.is_dir() and self.count() == len(self._asked):
            sweep(self.folder)

    def count(self) -> int:
        """How many of the images that were asked for are there by now, whoever made them."""
        return len(self.images.existing(self._asked))

    def _check_layout(self) -> None:
        """ValueError if there are images in subfolders and they should not be, or the other way round."""
        subdirs = self.images.subdirs
        other = PNGFolder(self.folder, subdirs=not subdirs)
        wrong = next((path for path in self._others(()) if path == other.path(int(path.stem))), None)
        if wrong is not None:
            advice = "leave out --subdirs" if subdirs else "add --subdirs"
            raise ValueError(f"{wrong} is there: {advice}, as the command that made it, or take another folder")

    def _stated(self) -> dict[str, Any] | None:
        """Content of the recipe.json that is there; ValueError if it is not readable."""
        path = self.folder / RECIPE_NAME
        try:
            return upgraded(read_object(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{error}: take another folder") from error

    def _refuse(self, found: dict[str, Any]) -> NoReturn:
        wanted = self._content or {}
        lines = "\n".join(differences({key: found[key] for key in wanted if key in found}, wanted))
        raise Refused(f"{self.folder} holds images of another recipe: take another folder. There | asked now:\n{lines}")

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
        missing = self._missing(batch) if self._keeps else batch
        if len(missing) > 0:
            self.images.write(missing)
        self.num_written += len(missing)

    def _missing(self, batch: "ImageBatch") -> "ImageBatch":
        """Those of a batch that are not there yet."""
        there = list(map(self.images.has, seeds_of_batch(batch)))
        return batch.select([index for index, done in enumerate(there) if not done]) if any(there) else batch

    def _state(self, content: dict[str, Any]) -> None:
        """Make recipe.json say this, one process at a time, and remove the images that are to be made again.

        ValueError if it says by now what it did not when this run claimed the folder: another run was faster.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with in_line(self.folder, "recipe"):
            found = self._stated()
            stated = None if found is None else found.get("recipe_hash")
            if found is not None and stated not in (self._replaces, content["recipe_hash"]):
                self._refuse(found)
            if stated != content["recipe_hash"]:  # so nobody has written an image of this recipe yet
                self._again = self.images.existing(self._seeds)
            for path in self._again:
                path.unlink(missing_ok=True)
            with atomic_path(self.folder / RECIPE_NAME) as temporary:
                asked = self._asked_by_all(found if stated == content["recipe_hash"] else None)
                temporary.write_bytes(json_bytes({**content, "asked": asked}))

    def _asked_by_all(self, found: dict[str, Any] | None) -> str:
        """The seeds that were ever asked for, as text. found: what recipe.json says of the same recipe, if anything."""
        before = "" if found is None else str(found.get("asked", ""))
        runs = seed_runs(before)
        if not runs:
            return format_seeds(self._asked)
        is_known = is_in_runs(runs)
        more = format_seeds(tuple(seed for seed in self._asked if not is_known(seed)))
        return f"{before},{more}" if more else before
