"""Work whose parts are files of their own, shards, in a folder that is removed once the result is there.

    FOLDER/plan.json          what is being made: recipe, seeds, shard size, batch, form and precision
    FOLDER/shard-00012.zip    a finished shard; it appears by a rename, hence whole or not at all
    FOLDER/shard-00012.0.claim     who is making that shard (work.lease)
    FOLDER/shard-00012.begun       how many of its images are made, if it takes more than a moment
    FOLDER/shard-00012.failed      why it could not be made, the last time
    FOLDER/worker-0-of-1.0.claim   which process is this worker
    FOLDER/device-ID.0.claim       which process uses this device
    FOLDER/join.0.claim            who is joining the shards, once all are there
    FOLDER/plan.0.claim            who is replacing a plan of which nothing was finished

A shard holds PNGs, features (then alone as `.npz`), or both of the same images, and their diagnostics, so that one pass
makes all that is kept of them; `shard.json` ends it: {"plan": id, "index": i, ...}. Torch-free.
"""

import hashlib
import json
import os
import re
import secrets
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dnnlib.atomic import replace_synced
from dnnlib.errors import naming
from dnnlib.urls import without_secrets
from edm2_guidance.images.sinks import seeds_of_batch
from edm2_guidance.images.unzip import open_zip
from edm2_guidance.images.zips import ZipWriter, json_bytes, read_json, read_object
from edm2_guidance.recipe.recipe import FORMAT
from edm2_guidance.recipe.stored import upgraded
from edm2_guidance.work.complete import Run, ShardsMissing, Work
from edm2_guidance.work.identity import refuse
from edm2_guidance.work.lease import Lease, is_gone, owner, read_lease
from edm2_guidance.work.plan import ShardPlan, format_seeds, merged_reductions

if TYPE_CHECKING:
    from edm2_guidance.images.batch import ImageBatch

Read = TypeVar("Read")

PLAN_NAME = "plan.json"
SHARD_JSON = "shard.json"

_NAME = re.compile(r"shard-(\d{1,18})(\.zip|\.npz|\.\d+\.claim)", re.ASCII)
_NOTE_SECONDS = 2.0
_OPENINGS = 3  # how often the folder is made again while others finish the work and remove it


class Recipe(Protocol):
    """What a plan says of how images are made: `recipe.recipe.Recipe`. Equal hashes mean equal images."""

    @property
    def hash(self) -> str: ...

    def to_json(self) -> Mapping[str, Any]: ...


class Collector(Protocol):
    """Takes the images of one shard for one content."""

    def write(self, batch: "ImageBatch") -> None: ...

    def finish(self, labels: Sequence[int] | None) -> Mapping[str, Any]:
        """Add what is left; gives what shard.json is to say."""


class Content(Protocol):
    """Something that shards hold of their images.

    computes: whether networks make it, which need the device or the cores that sampling needs, and its memory.
    """

    @property
    def computes(self) -> bool: ...

    def check(self, path: Path, file: zipfile.ZipFile, seeds: tuple[int, ...], head: Mapping[str, Any]) -> None:
        """ValueError unless an open shard of these seeds holds it, as far as names tell. head: its shard.json."""

    def collect(self, seeds: tuple[int, ...], add: Callable[[str, bytes], None]) -> AbstractContextManager[Collector]:
        """For a shard of these seeds, to be written by `add(name, data)`."""


class ShardFolder(Work):
    """The folder of shards of one plan: whose it is, what is there, and what has to agree for work to be continued.

    The plan depends on recipe and seeds alone, never on who works on it: what is said of form and batch by the first
    one that finds no plan holds for all. A plan of which nothing was finished, and that nobody is at, is replaced.

        {"format": 2, "recipe": {...}, "recipe_hash": "...", "num_images": N, "seeds": "0-49999", "shard_size": 512,
         "batch": 64, "decoder_batch": 8, "deterministic": false, "threads": 2,
         "precision": "bfloat16",              (of the networks; only if it is not the usual float32)
         "form": "prepared",                   (of the networks; only if it is not plain)
         "title": "..."}
    """

    part_name = "shard"

    def __init__(
        self,
        folder: Path,
        plan: ShardPlan,
        recipe: Recipe,
        run: Run,
        contents: Sequence[Content],
        *,
        more: Mapping[str, Any] = MappingProxyType({}),
        zip_path: Path | None = None,
        title: str = "",
    ) -> None:
        """Nothing is read or written yet.

        Args:
            folder: Where the shards go.
            plan: Seeds and shards.
            recipe: How the images are made.
            run: How they are made here; what it fixes has to agree for work to be continued.
            contents: What shards hold.
            more: What else has to agree for work to be continued: plain data.
            zip_path: The ZIP that the shards become; None if they become none.
            title: What the work is for, in words of `work.status`; nothing else depends on it.
        """
        super().__init__(folder, plan, run)
        self.plan: ShardPlan = plan
        self.leases_parts = True
        self.contents = tuple(contents)
        self.finished_apart = not any(content.computes for content in self.contents)
        self.suffix = ".npz" if zip_path is None else ".zip"
        self.zip_path = zip_path
        self._kept: dict[str, Any] = {
            "format": FORMAT,
            **json.loads(json_bytes({"recipe": recipe.to_json(), "recipe_hash": recipe.hash, **more})),
            "num_images": len(plan.seeds),
            "seeds": format_seeds(plan.seeds),
            "shard_size": plan.shard_size,
        }
        self._more = tuple(more)
        self._title = {"title": title} if title else {}
        self.content = self._asked  # as the folder's plan spells it, once it is known
        self._identity = self._of_the_plan()
        self._making_since: float | None = None
        self._noted = 0.0  # when the number of images in a shard was last written down
        self._seen: dict[int, tuple[int, int, int]] = {}  # shards that are whole, as `_signature` tells them

    # As `Work`.

    def open(self) -> None:
        """Make the folder, or continue in it; temporary files of dead runs on this machine are removed.

        Refused, with the differences, if the folder belongs to another run of which anything is finished, or that is
        going on; else as `Work.open`.
        """
        for attempt in range(1, _OPENINGS + 1):
            try:
                self._make_plan()
                super().open()
                self.check()  # the plan may have been replaced until this worker had its place
                break
            except (FileNotFoundError, ValueError):
                if not self.is_over() or attempt == _OPENINGS:
                    raise  # else the work of others ended just now, and they removed the folder: begin again
        for temporary in self._temporaries():
            if _is_stale(temporary):
                temporary.unlink(missing_ok=True)

    @contextmanager
    def making(self, part: int) -> Iterator[None]:
        """What goes wrong is left in a file for `work.status`."""
        failure, begun = (self.folder / f"{self.name(part)}.{ending}" for ending in ("failed", "begun"))
        self._making_since = self._noted = time.monotonic()
        try:
            yield
            failure.unlink(missing_ok=True)
        except Exception as error:
            with suppress(OSError):
                failure.write_bytes(
                    json_bytes({"owner": owner(), "error": without_secrets(f"{type(error).__name__}: {error}")})
                )
            raise
        finally:
            if self._noted != self._making_since:
                begun.unlink(missing_ok=True)

    def is_over(self) -> bool:
        """Whether whoever finished the work has removed the plan."""
        return not (self.folder / PLAN_NAME).exists()

    def another_ends_it(self) -> bool:
        """Shards that are missing then are those that it has removed already, or makes again."""
        if self.lease.sign() is not None and not self.is_over():
            if not self.lease.acquire(wait=True):
                return True
            self.lease.release()  # whoever had it is gone
        return self.is_over()

    def remove(self) -> None:
        """Remove what this class makes; plan and leases go last, so that no shards are ever without them."""
        endings = (self.suffix, ".failed", ".begun")
        shards = [path for ending in endings for path in self.folder.glob(f"shard-*{ending}")]
        for path in [*self._temporaries(), *shards, self.folder / PLAN_NAME, *self.folder.glob("*.claim")]:
            path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            try:
                self.folder.rmdir()
            except FileNotFoundError:
                raise
            except OSError as error:
                if any(path.suffix not in (".claim", ".tmp") for path in self.folder.iterdir()):  # else: `complete`
                    warnings.warn(f"{self.folder} is kept: {error}", RuntimeWarning, stacklevel=2)

    def sweep(self) -> None:
        """Remove what work whose result is there has left, unless it is another's, or somebody is at it."""
        with suppress(ValueError, FileNotFoundError):
            is_ours = self.check()
            signs = [read_lease(path) for path in self.folder.glob("*.claim")]
            if is_ours and all(is_gone(sign) or sign.partition(" ")[0] == owner() for sign in signs):
                self.remove()

    # The plan.

    @property
    def _asked(self) -> dict[str, Any]:
        """What the plan is to say."""
        return {**self._kept, **self.run.fixed, **self._title}

    def _of_the_plan(self) -> tuple[str, ...]:
        """What of it tells it from others."""
        return ("format", "recipe_hash", *self._more, "seeds", "shard_size", *self.run.fixed)

    def _make_plan(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / PLAN_NAME).exists():
            self._write_plan(_rename_if_new)
        if not self.check():
            with Lease(self.folder, "plan"):
                if not self.check():  # another worker may have replaced it just now
                    self._write_plan(replace_synced)
            self.check()

    def _write_plan(self, rename: Callable[[Path, Path], None]) -> None:
        self.run = self.run.chosen()
        self.content = self._asked
        with self.becoming(self.folder / PLAN_NAME, rename) as temporary:
            temporary.write_bytes(json_bytes(self.content))

    def check(self) -> bool:
        """Refused, with the differences, if the folder belongs to another run; else takes over what its plan says.

        That is the spelling of the recipe, and what nobody has said of the run. Nothing is made. False: the plan is of
        another run, but nothing was finished, and nobody is at it, so that `open` replaces it.
        """
        found = self._found_plan()
        if found is None:
            return True
        asked_for, now = self.run, upgraded(found)
        self.run = self.run.as_in(found, self.folder / PLAN_NAME)
        asked, keys = self._asked, self._of_the_plan()
        if "precision" not in found:  # it is the usual one, whatever that is, as in plans of the version before
            keys = tuple(key for key in keys if key != "precision")
        different = [key for key in (*keys, "diagnostics", "form") if now.get(key) != asked.get(key)]
        if different or not self.run.same_precision(found):
            self.run = asked_for
            if self._is_untouched():
                return False
            if self._found_plan() != found:  # replaced just now, by whoever is at it
                return self.check()
            refuse(self.folder, now, asked)
        self._identity = keys
        kept: dict[str, Any] = {key: found[key] for key in ("format", "recipe", "recipe_hash") if key in found}
        self.content = {**asked, **kept}  # by which finished shards say whose they are
        self.__dict__.pop("_plan_id", None)
        return True

    def _found_plan(self) -> dict[str, Any] | None:
        """Content of the plan that is there; ValueError if it is not readable."""
        try:
            return read_object(self.folder / PLAN_NAME)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{error}: move {self.folder} away to start over") from error

    def _is_untouched(self) -> bool:
        """Whether no shard is there, nor anybody who makes one."""
        places = [path for path in self.folder.glob("*.claim") if not path.name.startswith("plan.")]
        with suppress(FileNotFoundError):  # who was at it went just now
            return not self.listed()[0] and all(is_gone(read_lease(path)) for path in places)
        return False

    @cached_property
    def _plan_id(self) -> str:
        """What shards of this run say that they belong to."""
        keys = json_bytes({key: self.content[key] for key in self._identity})
        return hashlib.sha256(keys).hexdigest()

    # Shards.

    def path(self, index: int) -> Path:
        """Where a finished shard lies."""
        return self.folder / f"{self.name(index)}{self.suffix}"

    def has(self, index: int) -> bool:
        """Whether a file of this name is there."""
        return self.path(index).exists()

    def is_whole(self, index: int) -> bool:
        """Whether the shard is there. One that is not what it should be is removed, with a warning.

        This looks at names and identity, quickly, and once; contents are checked by their CRC when shards are joined.
        """
        try:
            signature = self._signature(index)
            if self._seen.get(index) != signature:
                with open_zip(self.path(index)) as file:
                    self.head(index, file)
                self._seen[index] = signature
        except FileNotFoundError:  # or removed by another worker since
            return False
        except ValueError as error:
            self.discard(index, error)
            return False
        return True

    def _signature(self, index: int) -> tuple[int, int, int]:
        found = self.path(index).stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def listed(self) -> tuple[set[int], set[int]]:
        """The shards that are there, and those that somebody has leased, by the names in the folder, read once."""
        there, leased = set[int](), set[int]()
        with suppress(FileNotFoundError):
            for name in os.listdir(self.folder):
                if found := _NAME.fullmatch(name):
                    (leased if found[2].endswith(".claim") else there).add(int(found[1]))
        return there, leased

    @contextmanager
    def sink(self, index: int) -> Iterator["ShardWriter"]:
        """Takes the images of a shard, in order: it appears when the block ends, if every image is there."""
        seeds = self.plan.shard(index)
        with self.becoming(self.path(index)) as temporary, ZipWriter(temporary) as file, ExitStack() as stack:
            collectors = [stack.enter_context(content.collect(seeds, file.add)) for content in self.contents]
            writer = ShardWriter(index, seeds, collectors, partial(self._note, index))
            yield writer
            file.add(SHARD_JSON, self._head_bytes(index, writer.finish()))
        with suppress(FileNotFoundError):  # removed by whoever joined the shards meanwhile
            self._seen[index] = self._signature(index)

    def _note(self, index: int, images: int) -> None:
        """Write down every few seconds how many images of a shard are made; only `work.status` looks at it."""
        now = time.monotonic()
        if self._making_since is None or now - self._noted < _NOTE_SECONDS:
            return
        self._noted = now
        with suppress(OSError):
            path = self.folder / f"{self.name(index)}.begun"
            path.write_bytes(json_bytes({"images": images, "seconds": round(now - self._making_since, 3)}))

    def kept(self) -> str:
        """In words, what an interruption leaves behind."""
        done = len(self.plan) - len(self.missing())
        return f"{done} of {len(self.plan)} shards are kept in {self.folder}; the same command goes on"

    def head(self, index: int, file: zipfile.ZipFile) -> dict[str, Any]:
        """The shard.json of an open shard; ValueError if it is not this shard of this plan, or lacks a content."""
        path = self.path(index)
        if SHARD_JSON not in file.NameToInfo:
            raise ValueError(f"{path} is not a shard")
        if any(info.compress_type != zipfile.ZIP_STORED for info in file.infolist()):
            raise ValueError(f"{path} is not a shard: those are not compressed")
        head = read_json(path, file, SHARD_JSON)
        if head.get("plan") != self._plan_id or head.get("index") != index:
            raise ValueError(f"{path} belongs to another run")
        for content in self.contents:
            content.check(path, file, self.plan.shard(index), head)
        return head

    def each(self, read: Callable[[int, zipfile.ZipFile, dict[str, Any]], Read]) -> Iterator[Read]:
        """What `read` gives of every shard in order, by its number, the open file and its shard.json.

        Raises ShardsMissing after the last one if some are missing or damaged (they are removed, with a warning).
        """
        unusable = []
        for index in range(len(self.plan)):
            try:
                with open_zip(self.path(index)) as file:
                    found = read(index, file, self.head(index, file))
            except (ValueError, FileNotFoundError) as error:
                self.discard(index, error)
                unusable.append(index)
            else:
                yield found
        if unusable:
            raise ShardsMissing(f"damaged shards must be made again: {format_seeds(tuple(unusable))}", unusable)

    def _head_bytes(self, index: int, content: Mapping[str, Any]) -> bytes:
        seconds = {} if self._making_since is None else {"seconds": round(time.monotonic() - self._making_since, 3)}
        return json_bytes({"plan": self._plan_id, "index": index, **content, **seconds}, indent=None)

    def discard(self, index: int, error: Exception) -> None:
        """Remove a shard that cannot be used."""
        warnings.warn(f"shard {index} is unusable and will be made again: {error}", RuntimeWarning, stacklevel=3)
        self.path(index).unlink(missing_ok=True)

    @contextmanager
    def becoming(self, path: Path, rename: Callable[[Path, Path], None] = replace_synced) -> Iterator[Path]:
        """A temporary name beside `path` that says whose it is, renamed to `path` if the block ends well."""
        temporary = path.with_name(f"{path.name}.{owner()}{secrets.token_hex(4)}.tmp")
        try:
            with naming(path):
                yield temporary
                rename(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _temporaries(self) -> list[Path]:
        name = self.zip_path and f"{self.zip_path.name}."
        beside = self.zip_path.parent.glob("*.tmp") if self.zip_path else ()
        return [*(path for path in beside if name and path.name.startswith(name)), *self.folder.glob("*.tmp")]


class ShardWriter:
    """The images of one shard: in the order of the plan, in batches of any size, all with labels or all without."""

    def __init__(
        self, index: int, seeds: tuple[int, ...], collectors: Sequence[Collector], advance: Callable[[int], None]
    ) -> None:
        """advance: called with the number of images so far."""
        self._index = index
        self._seeds = seeds
        self._collectors = collectors
        self._advance = advance
        self._received = 0
        self._labels: list[int] | None = None
        self._reduced: dict[str, int] = {}

    def write(self, batch: "ImageBatch") -> None:
        """Take the next images of the shard.

        Raises ValueError if their seeds are not the next ones of the plan, or if only some images have labels.
        """
        seeds = seeds_of_batch(batch)
        expected = self._seeds[self._received : self._received + len(seeds)]
        if seeds != expected:
            got = format_seeds(seeds)
            due = format_seeds(expected) or "none"
            raise ValueError(f"shard {self._index}: the next seeds of the plan are {due}, but {got} came")
        if self._received == 0 and batch.labels is not None:
            self._labels = []
        if (batch.labels is None) != (self._labels is None):
            raise ValueError(f"some images of shard {self._index} have labels and some have none")
        if self._labels is not None:
            self._labels += batch.labels or ()
        self._received += len(seeds)
        self._reduced = merged_reductions([self._reduced, batch.reduced])
        for collector in self._collectors:
            collector.write(batch)
        self._advance(self._received)

    def finish(self) -> dict[str, Any]:
        """What shard.json is to say: `reduced`, as `ImageBatch.reduced`, is left out if memory held every batch.

        RuntimeError if images are missing.
        """
        if self._received != len(self._seeds):
            raise RuntimeError(f"shard {self._index} got {self._received} of its {len(self._seeds)} images")
        content: dict[str, Any] = {}
        for collector in self._collectors:
            content |= collector.finish(self._labels)
        reduced = merged_reductions([self._reduced, content.pop("reduced", {})])
        return {**content, "reduced": reduced} if reduced else content


def _is_stale(temporary: Path) -> bool:
    """Whether the process that the name tells is gone; False if that cannot be known from here."""
    found = re.fullmatch(r".*\.([A-Za-z0-9-]+\.\d{1,9}\.[0-9a-f]{8})[0-9a-f]{8}\.tmp", temporary.name)
    return found is not None and is_gone(found[1])


def _rename_if_new(temporary: Path, path: Path) -> None:
    """Give the finished file its name unless another worker's has it: then that one stays."""
    with open(temporary, "rb+") as file:  # Windows syncs only what may be written to
        os.fsync(file.fileno())
    try:
        with suppress(FileExistsError):
            os.link(temporary, path)
    except OSError:  # a filesystem without hard links
        replace_synced(temporary, path)
    else:
        temporary.unlink()
