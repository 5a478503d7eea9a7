"""Many images into one ZIP, in shards.

    out.zip.shards/     plan, finished shards and claims: work.shards
    out.zip             all shards, merged; the folder is removed once this has its name

A shard is one file, so whatever else is computed from its images belongs into it as a further member, to be merged
in shard order. Torch-free.
"""

import os
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from edm2_guidance.images.archive import open_zip, read_zip_member
from edm2_guidance.images.pool import OrderedPool
from edm2_guidance.images.sinks import image_name, pixels_of, png_bytes, seeds_of_batch
from edm2_guidance.images.zips import RECIPE_NAME, ZipWriter, dataset_json, json_bytes, read_recipe
from edm2_guidance.recipe.stored import upgraded
from edm2_guidance.work.shards import (
    SHARD_JSON,
    ShardPlan,
    ShardsMissing,
    ShardStore,
    format_seeds,
    merged_reductions,
    refuse,
)

if TYPE_CHECKING:
    from edm2_guidance.images.batch import ImageBatch


class ShardFolder(ShardStore):
    """The unfinished ZIP `zip_path` as a folder of shards beside it.

    A run is: stop if `finished()`; `open()`; make every one of `missing()` with `write`; `merge()`. `complete`
    does the last two, and makes shards again that the merge finds damaged. Merging needs the room of the images
    twice. The final ZIP's bytes depend on plan, recipe, labels and pixels alone. It holds the images in plan
    order, then `dataset.json` and `recipe.json`:

        {"format": 2, "recipe": {...}, "recipe_hash": "...", "num_images": N, "seeds": "0-49999",
         "batches": [[64, 781], [16, 1]],          (runs of [batch size, how many batches])
         "reduced": {"sampling": 32}}              (only if memory did not hold them: the most that it held at a time;
                                                    last bits may then differ from those of another run)
    """

    def __init__(
        self,
        zip_path: str | os.PathLike[str],
        plan: ShardPlan,
        recipe: Mapping[str, Any],
        recipe_hash: str,
        batch: int,
        numerics: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Nothing is read or written yet.

        Args:
            zip_path: Where the finished ZIP goes.
            plan: Seeds and shards.
            recipe: Plain data that says how the images are made; must be the same on every run.
            recipe_hash: Identifies the recipe: equal hashes mean equal images.
            batch: Images per batch inside a shard, 1 or more.
            numerics: What else may change last bits, so that all workers must have it alike.
        """
        self.path = Path(os.path.realpath(zip_path))
        content = {"recipe": recipe, "recipe_hash": recipe_hash}
        super().__init__(
            self.path.with_name(self.path.name + ".shards"), plan, content, ("recipe_hash",), batch, numerics
        )

    def finished(self) -> bool:
        """Whether the final ZIP is there already. Sweeps away what a merge killed after its last step left.

        Raises ValueError, with the differences, if a ZIP of this name was made by another recipe or from other
        seeds, or if there is none, but shards of another run.
        """
        if self.path.is_dir():
            raise ValueError(f"{self.path} is a folder; give the name of a ZIP file")
        if not self.path.exists():
            self._check_plan()
            return False
        found = read_recipe(self.path)
        if found is None:
            raise ValueError(f"{self.path} exists and holds no {RECIPE_NAME}: give another name, or move it away")
        found, wanted = upgraded(found), upgraded(self._recipe_json())
        if any(found.get(key) != wanted[key] for key in ("recipe_hash", "seeds")):
            refuse(self.path, found, wanted)
        self.sweep()
        return True

    def write(self, index: int) -> "ShardWriter":
        """A sink for the images of one shard, in order."""
        return ShardWriter(self, index)

    def merge(self) -> Path:
        """Join all shards into the final ZIP, which appears at once; then remove them. Returns its path.

        Raises ShardsMissing if shards are missing, or turn out to be damaged (they are removed, with a warning).
        """
        if self.finished():
            return self.path
        missing = self.missing()
        if missing:
            numbers = format_seeds(tuple(missing))
            raise ShardsMissing(f"{len(missing)} of {len(self.plan)} shards are not made yet: {numbers}", missing)
        with self._becoming(self.path) as temporary, ZipWriter(temporary) as target:
            self._join(target)
        self.remove()
        return self.path

    def complete(
        self, make: Callable[[int], object], others: Callable[[int], object] = lambda count: None
    ) -> Path | None:
        """Call `make(index)` for the missing shards of this worker, then merge if no other worker has any to make.

        Returns the path of the ZIP, or None if others are still at it; more on this in `finish`.
        """
        made = self.path if self.finished() else self.finish(make, self.merge, others)
        if made is None and self.is_over() and not self.appears(self.finished, self.path.parent):
            raise self.lost()
        return self.path if made is None and self.path.exists() else made

    def _check_shard(self, index: int, file: zipfile.ZipFile) -> None:
        self._read_labels(index, file)

    def _read_labels(self, index: int, file: zipfile.ZipFile) -> list[int] | None:
        """Labels of an open shard; ValueError if it is not this shard of this plan."""
        path = self.shard_path(index)
        names = list(map(image_name, self.plan.shard(index)))
        found = file.namelist()
        if found[: len(names)] != names or found[-1] != SHARD_JSON:
            raise ValueError(f"{path} does not hold the images of this shard")
        labels = self._read_head(index, file).get("labels")
        if labels is not None and not (isinstance(labels, list) and len(labels) == len(names)):
            raise ValueError(f"{path} does not hold one label per image")
        return labels

    def _join(self, target: ZipWriter) -> None:
        """Copy all images, then labels and recipe. Goes on after a damaged shard, to find all of them at once."""
        labels: list[tuple[str, int] | None] = []
        reductions: list[Mapping[str, int]] = []
        damaged: list[int] = []
        for index in range(len(self.plan)):
            try:
                labels += self._copy(index, target)
                reductions.append(self._reduced(index))
            except (ValueError, FileNotFoundError) as error:
                self._discard(index, error)
                damaged.append(index)
        if damaged:
            raise ShardsMissing(f"damaged shards must be made again: {format_seeds(tuple(damaged))}", damaged)
        known = [pair for pair in labels if pair is not None]
        if known and len(known) != len(labels):
            raise ValueError(f"some shards in {self.folder} have labels and some have none: move it away to start over")
        target.add("dataset.json", dataset_json(known or None))
        reduced = merged_reductions(reductions)
        target.add(RECIPE_NAME, json_bytes({**self._recipe_json(), **({"reduced": reduced} if reduced else {})}))

    def _copy(self, index: int, target: ZipWriter) -> list[tuple[str, int] | None]:
        """Copy the images of a shard, by name; returns name and label (None = no label) of each."""
        path = self.shard_path(index)
        with open_zip(path) as file:
            labels = self._read_labels(index, file)
            names = [image_name(seed) for seed in self.plan.shard(index)]
            for name in names:
                target.add(name, read_zip_member(path, file, name))
        return [None] * len(names) if labels is None else list(zip(names, labels, strict=True))

    def _recipe_json(self) -> dict[str, Any]:
        left_out = {"shard_size", "batch", *self._numerics}
        content = {key: value for key, value in self._content.items() if key not in left_out}
        return {**content, "batches": self.plan.batch_runs(self._content["batch"])}

    def _temporaries(self) -> list[Path]:
        beside = [path for path in self.path.parent.glob("*.tmp") if path.name.startswith(f"{self.path.name}.")]
        return beside + super()._temporaries()


class ShardWriter:
    """A sink for the images of one shard; made by `ShardFolder.write`.

    Images come in the order of the plan, in batches of any size, all with labels or all without. Encoding runs in
    threads, at most about two batches behind. The shard gets its name when the block ends without an error and
    every image is there.
    """

    def __init__(self, folder: ShardFolder, index: int) -> None:
        self.seeds = folder.plan.shard(index)
        self._folder = folder
        self._index = index
        self._stack: ExitStack | None = None

    def __enter__(self) -> Self:
        self._received = 0
        self._stored = 0
        self._labels: list[int] | None = []
        self._reduced: dict[str, int] = {}
        with ExitStack() as stack:
            path = self._folder.shard_path(self._index)
            temporary = stack.enter_context(self._folder._becoming(path))
            self._zip = stack.enter_context(ZipWriter(temporary))
            self._pool = stack.enter_context(OrderedPool[bytes]())
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is None:
            return
        if error is not None:
            stack.__exit__(kind, error, trace)
            return
        with stack:
            self._store(0)
            if self._stored != len(self.seeds):
                raise RuntimeError(f"shard {self._index} got {self._stored} of its {len(self.seeds)} images")
            self._zip.add(SHARD_JSON, self._folder._head(self._index, self._reduced, labels=self._labels))

    def write(self, batch: "ImageBatch") -> None:
        """Take the next images of the shard.

        Raises ValueError if their seeds are not the next ones of the plan, or if only some images have labels.
        """
        if self._stack is None:
            raise RuntimeError("a shard takes images inside its with block only")
        seeds = seeds_of_batch(batch)
        expected = self.seeds[self._received : self._received + len(seeds)]
        if seeds != expected:
            got = format_seeds(seeds)
            due = format_seeds(expected) or "none"
            raise ValueError(f"shard {self._index}: the next seeds of the plan are {due}, but {got} came")
        self._add_labels(batch.labels)
        self._received += len(seeds)
        self._reduced = merged_reductions([self._reduced, batch.reduced])
        for pixels in pixels_of(batch):
            self._pool.submit(png_bytes, pixels)
        self._store(len(batch))

    def _add_labels(self, labels: tuple[int, ...] | None) -> None:
        if self._received == 0 and labels is None:
            self._labels = None
        if (labels is None) != (self._labels is None):
            raise ValueError(f"some images of shard {self._index} have labels and some have none")
        if labels is not None and self._labels is not None:
            self._labels += labels

    def _store(self, waiting: int) -> None:
        """Write encoded images until at most `waiting` are left in the threads."""
        while len(self._pool) > waiting:
            self._zip.add(image_name(self.seeds[self._stored]), self._pool.pop())
            self._stored += 1
