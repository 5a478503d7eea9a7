"""Images as a folder of PNGs, with the recipe beside them, so that none holds images of two. Torch-free."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from dnnlib.atomic import atomic_path, check_destination
from dnnlib.errors import Refused
from dnnlib.inference import PLAIN
from dnnlib.workers import restarted
from edm2_guidance.images.members import RECIPE_NAME
from edm2_guidance.images.sinks import PNGFolder, seeds_of_batch
from edm2_guidance.images.zips import json_bytes, read_object
from edm2_guidance.recipe.recipe import FORMAT
from edm2_guidance.recipe.stored import upgraded
from edm2_guidance.work.complete import Run, Work
from edm2_guidance.work.identity import differences, inference_options
from edm2_guidance.work.lease import Lease
from edm2_guidance.work.plan import ShardPlan, format_seeds, is_in_runs, seed_runs
from edm2_guidance.work.shards import Recipe

if TYPE_CHECKING:
    from edm2_guidance.images.batch import ImageBatch

_IMAGE = re.compile(r"\d{6,}\.png", re.ASCII)
_LEASE = re.compile(r"batch-(\d{1,18})\.\d+\.claim", re.ASCII)


class PngOutput(Work):
    """PNGs of one recipe, which `recipe.json` beside them states: work and result in one.

    Each worker's result is its own. The parts are batches: batch number b of all is worker b mod count's to make, as in
    one process. Those of which something is missing are made whole, since last bits depend on the size of a batch;
    images that are there stay as they are. `recipe.json` appears with the first images; images that are to be made
    again are removed then. Of several workers the first one states it before any work, for what nobody has said of form
    and batch must be the same for all; images of another recipe that are to be made again are removed just before.

        {"format": 2, "recipe": {...}, "recipe_hash": "...", "asked": "0-15",
         "precision": "bfloat16",              (of the networks; only if it is not the usual float32)
         "form": "prepared",                   (of the networks; only if it is not plain)
         "batch": 64}                          (only if it was chosen for the device)

    The usual order: `check` (before any network opens), `state` (once the recipe's hashes are known), then `complete`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        seeds: Sequence[int],
        run: Run,
        *,
        subdirs: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Nothing is read or written yet. overwrite: make images again that are there."""
        super().__init__(Path(folder), ShardPlan(tuple(seeds), run.batch), run)
        self.images = PNGFolder(folder, subdirs)
        self._overwrite = overwrite
        self._mine = frozenset(self.order)
        self._done: set[int] = set()  # parts
        self._written: set[int] = set()  # seeds, by this object
        self._recipe: dict[str, Any] = {}  # for recipe.json
        self._is_stated = True  # unless `state` was called, and no image was written since
        self._chose_batch = False
        self._replaces: str | None = None  # the hash in the recipe.json that is there

    def check(self) -> None:
        """Refuse what can be before any network opens.

        Raises ValueError if the folder holds images without a recipe, which those to be made must not mix with, or in
        another layout of subfolders, or if workers that steal should overwrite; OSError if it cannot be written.
        """
        check_destination(self.folder / RECIPE_NAME)
        if self.run.workers.steal and self._overwrite:
            raise ValueError("--steal takes images that are there for made by others: empty the folder to --overwrite")
        if not (self.folder / RECIPE_NAME).exists() and (kept := self._others()):
            raise ValueError(f"{self.folder} holds images of unknown origin, such as {kept[0]}: take another folder")
        self._check_layout()

    def state(self, recipe: Recipe, run: Run | None = None) -> None:
        """State the recipe of the images to come. Refused, with the differences, if images of another one stay.

        run: where more of it is known by now. What nobody has said of it is settled here.
        """
        self.run = self.run if run is None else run
        self._chose_batch = "batch" in self.run.auto
        found = self._stated()
        self._replaces = None if found is None else found.get("recipe_hash")
        if restarted() and self._replaces == recipe.hash:
            self._overwrite = False  # what the job had made before Slurm started it again is not made anew
        self._recipe = {"format": FORMAT, "recipe": recipe.to_json(), "recipe_hash": recipe.hash}
        if found is not None and self._replaces != recipe.hash and self._others():
            self._refuse(found, self._recipe)
        same = found if self._replaces == recipe.hash else None
        if same is not None:
            self._agree(same)
        said = {} if same is None else {"form": PLAIN, **same}
        left = {name: choose for name, choose in self.run.auto.items() if name not in said}
        self._compute_as(replace(replace(self.run, auto=left).chosen(), auto=self.run.auto))
        removes = self._overwrite and same is None and self._images()
        if not left or not self.run.workers.shared:
            self.run = replace(self.run, auto={})
        elif not removes:  # else in `open`: they have to go before another recipe is stated
            self._settle(remove=False)
        self._is_stated = False

    def open(self) -> None:
        """Take this worker's place. Then images of another recipe are removed, if several workers have to agree."""
        super().open()
        if self.run.auto:
            self._settle(remove=True)

    def _settle(self, *, remove: bool) -> None:
        """Take what another worker has chosen, or let others take what this one has."""
        self._write_recipe(remove=remove)
        self.run = replace(self.run, auto={})

    def _agree(self, found: Mapping[str, Any]) -> None:
        """Compute as recipe.json says where nobody has said another thing. Refused if somebody has, and images stay."""
        run = self.run.as_in(found, self.folder / RECIPE_NAME)
        same = run.form == found.get("form", PLAIN) and run.same_precision(found)
        if not same and not (self._overwrite and not self._others()):
            now = {"form": run.form, **({} if run.same_precision(found) else {"precision": run.precision})}
            there = {"form": PLAIN, **{name: found[name] for name in now if name in found}}
            cure, lines = inference_options(found, run.fixed), differences(there, now)
            raise Refused(
                f"{self.folder} holds images that were computed in another way: {cure} goes on with them, or take "
                f"another folder. There | asked now: {'; '.join(lines)}"
            )
        self._compute_as(run)

    def _compute_as(self, run: Run) -> None:
        """run: with a batch, and so parts, that may be others than before."""
        self.run, self.plan = run, ShardPlan(self.plan.seeds, run.batch)
        self._mine, self._done = frozenset(self.order), set()

    def find(self) -> int | None:
        """How many images this worker may make, if all of them are there."""
        return sum(map(len, self._parts())) if all(map(self.has, self.order)) else None

    def has(self, part: int) -> bool:
        """Whether all images of a batch are there; if they are made again, only those that this object made count."""
        is_there = self._written.__contains__ if self._overwrite and part in self._mine else self.images.has
        if part not in self._done and all(map(is_there, self.plan.shard(part))):
            self._done.add(part)
        return part in self._done

    @property
    def own(self) -> range:
        """Nobody joins images and looks into all of them then: who may make one looks into it."""
        return range(len(self.plan)) if self.run.workers.steal else super().own

    def listed(self) -> tuple[set[int], set[int]]:
        """The batches all of whose images are there, and those that somebody has leased, by the names in the folder."""
        seeds, leased = set[int](), set[int]()
        for name in (name for _, _, names in os.walk(self.folder) for name in names):
            if _IMAGE.fullmatch(name):
                seeds.add(int(name[:-4]))
            elif found := _LEASE.fullmatch(name):
                leased.add(int(found[1]))
        return {part for part in range(len(self.plan)) if seeds.issuperset(self.plan.shard(part))}, leased

    @contextmanager
    def sink(self, part: int) -> Iterator[Self]:
        """Takes the images of a batch, as of any other."""
        with self.images:
            yield self

    def join(self) -> int:
        """Nothing is left to do when all images are there."""
        return sum(map(len, self._parts()))

    def kept(self) -> str:
        """In words, what an interruption leaves behind."""
        again = "the same command without --overwrite goes on" if self._overwrite else "the same command goes on"
        seeds = self.plan.seeds
        return f"{len(self.images.existing(seeds))} of {len(seeds)} images are in {self.folder}; {again}"

    @property
    def work(self) -> Self:
        """As `Output`."""
        return self

    @property
    def num_written(self) -> int:
        """How many images this object has written."""
        return len(self._written)

    @property
    def num_there(self) -> int:
        """How many of the images that this worker may make are there, and stay."""
        return 0 if self._overwrite else sum(len(self.images.existing(seeds)) for seeds in self._parts())

    def _parts(self) -> list[tuple[int, ...]]:
        """The seeds of the batches that this worker may make."""
        return list(map(self.plan.shard, self.order))

    def _check_layout(self) -> None:
        """ValueError if there are images in subfolders and they should not be, or the other way round."""
        subdirs = self.images.subdirs
        if not self.folder.is_dir():
            return
        other = PNGFolder(self.folder, subdirs=not subdirs)
        places = [self.folder] if subdirs else sorted(_subfolders(self.folder))  # not all images: they may be millions
        names = (path for place in places for path in sorted(place.glob("*.png")) if _IMAGE.fullmatch(path.name))
        wrong = next((path for path in names if path == other.path(int(path.stem))), None)
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

    def _refuse(self, found: dict[str, Any], wanted: dict[str, Any]) -> NoReturn:
        lines = "\n".join(differences({key: found[key] for key in wanted if key in found}, wanted))
        raise Refused(f"{self.folder} holds images of another recipe: take another folder. There | asked now:\n{lines}")

    def _images(self) -> list[Path]:
        """Images in the folder."""
        return [path for path in sorted(self.folder.rglob("*.png")) if _IMAGE.fullmatch(path.name)]

    def _others(self) -> list[Path]:
        """Images in the folder that stay."""
        mine = {self.images.path(seed) for seed in self.plan.seeds} if self._overwrite else set()
        return [path for path in self._images() if path not in mine]

    def write(self, batch: "ImageBatch") -> None:
        """Write those of a batch that are to be made; before the first one, the recipe."""
        if not self._is_stated:
            self._write_recipe(remove=self._overwrite)
            self._is_stated = True
        if not self._overwrite:
            there = list(map(self.images.has, seeds_of_batch(batch)))
            batch = batch.select([row for row, done in enumerate(there) if not done]) if any(there) else batch
        if len(batch) > 0:
            self.images.write(batch)
            self._written.update(seeds_of_batch(batch))

    def _write_recipe(self, *, remove: bool) -> None:
        """Make recipe.json say this, one process at a time. remove: the images that are to be made again.

        Refused if it says by now what it did not when this run stated its recipe: another run was faster.
        """
        content = self._recipe
        self.folder.mkdir(parents=True, exist_ok=True)
        with Lease(self.folder, "recipe"):
            found = self._stated()
            stated = None if found is None else found.get("recipe_hash")
            if found is not None and stated not in (self._replaces, content["recipe_hash"]):
                self._refuse(found, content)
            same = found if stated == content["recipe_hash"] else None
            if same is not None:
                self._agree(same)
            # Nobody has written an image of this recipe yet, or else those of others are not ours to remove.
            again = [self.plan.seeds] if same is None else self._parts()
            for path in self.images.existing(seed for seeds in again for seed in seeds) if remove else ():
                path.unlink(missing_ok=True)
            how = {key: value for key, value in self.run.fixed.items() if key in ("precision", "form")}
            how |= {"batch": self.run.batch} if self._chose_batch or "batch" in (same or {}) else {}
            with atomic_path(self.folder / RECIPE_NAME) as temporary:
                temporary.write_bytes(json_bytes({**content, **how, "asked": self._asked_by_all(same)}))

    def _asked_by_all(self, found: dict[str, Any] | None) -> str:
        """The seeds that were ever asked for, as text. found: what recipe.json says of the same recipe, if anything."""
        asked = self.plan.seeds
        before = "" if found is None else str(found.get("asked", ""))
        runs = seed_runs(before)
        if not runs:
            return format_seeds(asked)
        is_known = is_in_runs(runs)
        more = format_seeds(tuple(seed for seed in asked if not is_known(seed)))
        return f"{before},{more}" if more else before


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [folder / entry.name for entry in entries if entry.is_dir()]
