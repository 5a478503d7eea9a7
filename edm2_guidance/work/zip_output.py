"""Many images into one ZIP, in shards.

    out.zip.shards/                 plan, finished shards and leases: work.shards
    out.zip.diagnostics.npz         what guidance did to each image, if that is asked for; it is there before the ZIP
    out.zip                         all shards, merged; the folder is removed once this has its name

Torch-free.
"""

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnnlib.inference import FULL
from edm2_guidance.images.members import RECIPE_NAME
from edm2_guidance.images.pool import OrderedPool
from edm2_guidance.images.sinks import image_name, pixels_of, png_bytes
from edm2_guidance.images.unzip import read_zip_member
from edm2_guidance.images.zips import ZipWriter, dataset_json, json_bytes, read_recipe
from edm2_guidance.recipe.class_names import why_no_names
from edm2_guidance.recipe.stored import upgraded
from edm2_guidance.work.complete import Run
from edm2_guidance.work.diagnostics import Recorded, stored_diagnostics, write_joined
from edm2_guidance.work.identity import refuse
from edm2_guidance.work.plan import ShardPlan, merged_reductions
from edm2_guidance.work.shards import SHARD_JSON, Content, Recipe, ShardFolder

if TYPE_CHECKING:
    from edm2_guidance.images.batch import ImageBatch


class ZipOutput:
    """A ZIP of the images of a plan, whose bytes depend on plan, recipe, labels and pixels alone.

    It holds the images in plan order, then `dataset.json` and `recipe.json`:

        {"format": 2, "recipe": {...}, "recipe_hash": "...", "num_images": N, "seeds": "0-49999",
         "batches": [[64, 781], [16, 1]],          (runs of [batch size, how many batches])
         "precision": "float16",                   (of the networks; only if it is not the usual float32)
         "form": "prepared",                       (of the networks; only if it is not plain)
         "reduced": {"sampling": 32}}              (only if memory did not hold them: the most that it held at a time;
                                                    last bits may then differ from those of another run)

    Joining needs the room of the images twice. Diagnostics leave the ZIP as it is; what is begun with them goes on with
    them, and without them without.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        plan: ShardPlan,
        recipe: Recipe,
        run: Run,
        contents: Sequence[Content] = (),
        *,
        diagnostics: bool = False,
    ) -> None:
        """Nothing is read or written yet.

        path: of the finished ZIP. contents: what else shards are to hold. diagnostics: whether the images come with
        them, which go to a file beside the ZIP.
        """
        self.path = Path(os.path.realpath(path))
        self._diagnostics = diagnostics
        self.work = ShardFolder(
            self.path.with_name(self.path.name + ".shards"),
            plan,
            recipe,
            run,
            [Pngs(), *([Recorded()] if diagnostics else []), *contents],
            more={"diagnostics": True} if diagnostics else {},
            zip_path=self.path,
        )

    def find(self) -> Path | None:
        """The path of the finished ZIP, or None.

        Raises ValueError, with the differences, if a ZIP of this name was made by another recipe, from other
        seeds or in another precision, or without the diagnostics that are asked for, or if there is none, but shards
        of another run.
        """
        if self.path.is_dir():
            raise ValueError(f"{self.path} is a folder; give the name of a ZIP file")
        if not self.path.exists():
            self.work.check()
            return None
        found = read_recipe(self.path)
        if found is None:
            raise ValueError(f"{self.path} exists and holds no {RECIPE_NAME}: give another name, or move it away")
        found, wanted = upgraded(found), upgraded(self._recipe_json())
        other = not self.work.run.may_be_of(found.get("precision", FULL))
        if other or any(found.get(key) != wanted[key] for key in ("recipe_hash", "seeds")):
            unsaid = {"batches" if name == "batch" else name for name in self.work.run.auto}  # nobody has chosen it yet
            refuse(self.path, *({key: each[key] for key in each if key not in unsaid} for each in (found, wanted)))
        if self._diagnostics:
            stored_diagnostics(self.path)
        return self.path

    def join(self) -> Path:
        """All shards as the final ZIP, which appears at once, after the diagnostics. Returns its path.

        Raises ShardsMissing if shards are missing or turn out to be damaged: they are removed, with a warning, all of
        them at once.
        """
        if self._diagnostics:
            write_joined(self.work, self.path)
        with self.work.becoming(self.path) as temporary, ZipWriter(temporary) as target:
            heads = list(self.work.each(partial(self._copy, target)))
            target.add("dataset.json", dataset_json(self._labels(heads), self._class_names()))
            reduced = merged_reductions(head.get("reduced") or {} for head in heads)
            target.add(RECIPE_NAME, json_bytes({**self._recipe_json(), **({"reduced": reduced} if reduced else {})}))
        return self.path

    def _copy(self, target: ZipWriter, index: int, file: zipfile.ZipFile, head: dict[str, Any]) -> dict[str, Any]:
        """Copy the images of a shard, by name; returns its shard.json."""
        for name in map(image_name, self.work.plan.shard(index)):
            target.add(name, read_zip_member(self.work.path(index), file, name))
        return head

    def _labels(self, heads: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]] | None:
        """Name and class of every image; None for images without. ValueError if some only have classes."""
        listed = [head.get("labels") for head in heads]
        known = [labels for labels in listed if labels is not None]
        if known and len(known) != len(listed):
            folder = self.work.folder
            raise ValueError(f"some shards in {folder} have labels and some have none: move it away to start over")
        return list(zip(map(image_name, self.work.plan.seeds), chain(*known), strict=True)) if known else None

    def _class_names(self) -> list[str] | None:
        """The prompts, where they can be names of classes to readers of such files."""
        prompts: list[str] | None = self.work.content["recipe"].get("prompts")
        return None if why_no_names(prompts) else prompts

    def _recipe_json(self) -> dict[str, Any]:
        work = self.work
        of_the_way = {"shard_size", "diagnostics", *work.run.fixed} - {"precision", "form"}
        content = {key: value for key, value in work.content.items() if key not in of_the_way}
        return {**content, "batches": work.plan.batch_runs(work.run.batch)}


class Pngs:
    """The images themselves, as what a shard holds of them; labels are in shard.json."""

    computes = False

    def check(self, path: Path, file: zipfile.ZipFile, seeds: tuple[int, ...], head: Mapping[str, Any]) -> None:
        """ValueError unless they begin the shard, in order, with a label each or none."""
        names, found = list(map(image_name, seeds)), file.namelist()
        if found[: len(names)] != names or found[-1] != SHARD_JSON:
            raise ValueError(f"{path} does not hold the images of this shard")
        labels = head.get("labels")
        if labels is not None and not (isinstance(labels, list) and len(labels) == len(names)):
            raise ValueError(f"{path} does not hold one label per image")

    @contextmanager
    def collect(self, seeds: tuple[int, ...], add: Callable[[str, bytes], None]) -> Iterator["_PngCollector"]:
        """Encodes in threads, at most about two batches behind."""
        with OrderedPool[bytes]() as pool:
            yield _PngCollector(map(image_name, seeds), pool, add)


class _PngCollector:
    def __init__(self, names: Iterator[str], pool: OrderedPool[bytes], add: Callable[[str, bytes], None]) -> None:
        self._names = names
        self._pool = pool
        self._add = add

    def write(self, batch: "ImageBatch") -> None:
        for pixels in pixels_of(batch):
            self._pool.submit(png_bytes, pixels)
        self._store(len(batch))

    def finish(self, labels: Sequence[int] | None) -> dict[str, Any]:
        self._store(0)
        return {"labels": labels}

    def _store(self, waiting: int) -> None:
        """Write encoded images until at most `waiting` are left in the threads."""
        while len(self._pool) > waiting:
            self._add(next(self._names), self._pool.pop())
