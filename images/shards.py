"""Many images into one ZIP, in shards: what was finished before an interruption is not done again.

    out.zip.shards/plan.json          what is being made: recipe, seeds, shard size, batch
    out.zip.shards/shard-00012.zip    a finished shard; it appears by a rename, hence whole or not at all
    out.zip                           all shards, merged; the folder is removed once this has its name

The plan depends on recipe and seeds alone, never on who works on it, and a shard is all that a worker needs to
own: workers share nothing but the folder, and every step that they see of each other is an atomic rename. A
shard is one file, so whatever else is computed from its images (statistics, say) belongs into it as a further
member, to be merged in shard order. Torch-free.
"""

import hashlib
import json
import operator
import os
import re
import secrets
import socket
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from dnnlib.util import replace_synced
from images.archive import open_zip, read_zip_member
from images.pool import OrderedPool
from images.sinks import image_name, pixels_of, png_bytes, seeds_of_batch
from images.zips import RECIPE_NAME, ZipWriter, dataset_json, json_bytes, read_json, read_recipe

if TYPE_CHECKING:
    from images.batch import ImageBatch

_FORMAT = 1
_ABSENT = object()
_PROCESS = secrets.token_hex(4)  # tells this process from an earlier one of the same number
_PLAN_NAME = "plan.json"
_SHARD_JSON = "shard.json"
_REPAIRS = 2  # shards that are damaged again and again mean a failing disk, not bad luck

#: What has to agree for work to be continued. A network file may have moved: its content is in the hash.
_IDENTITY = ("format", "recipe_hash", "seeds", "shard_size", "batch")


class ShardsMissing(RuntimeError):
    """A merge was asked for before every shard was there, or found some of them damaged.

    Attributes:
        indices: The shards to make (again).
    """

    def __init__(self, message: str, indices: list[int]) -> None:
        super().__init__(message)
        self.indices = indices


@dataclass(frozen=True)
class ShardPlan:
    """A list of seeds cut into shards of `shard_size`, the last one possibly smaller.

    Attributes:
        seeds: The seeds in the order of the final ZIP: 0 or more each, none twice, at least one.
        shard_size: Images per shard, 1 or more.

    Raises ValueError otherwise, naming the seed.
    """

    seeds: tuple[int, ...]
    shard_size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(operator.index(seed) for seed in self.seeds))
        object.__setattr__(self, "shard_size", operator.index(self.shard_size))
        if self.shard_size < 1:
            raise ValueError(f"{self.shard_size} images per shard: need 1 or more")
        if not self.seeds:
            raise ValueError("no seeds: give at least one")
        seen: set[int] = set()
        for seed in self.seeds:
            if seed < 0:
                raise ValueError(f"seed {seed} is negative: seeds are 0 or more")
            if seed in seen:
                raise ValueError(f"seed {seed} is listed twice: every image needs a seed of its own")
            seen.add(seed)

    def __len__(self) -> int:
        """Number of shards."""
        return -(-len(self.seeds) // self.shard_size)

    def shard(self, index: int) -> tuple[int, ...]:
        """The seeds of shard `index`, in order."""
        if not 0 <= index < len(self):
            raise ValueError(f"shard {index} of {len(self)}: shards count from 0 to {len(self) - 1}")
        return self.seeds[index * self.shard_size : (index + 1) * self.shard_size]

    def worker(self, index: int, count: int) -> range:
        """The shards of worker `index` (from 0) of `count`: index, index + count, ...; possibly none."""
        if not 0 <= index < count:
            raise ValueError(f"worker {index} of {count}: workers count from 0 to their number - 1")
        return range(index, len(self), count)

    def batch_runs(self, batch: int) -> list[list[int]]:
        """Sizes of all batches in order, as runs [size, how often], if shards are made `batch` images at a time.

        An image's last bits depend on the size of its batch, and on nothing else of how seeds were cut.
        """
        sizes = [min(batch, len(shard) - start) for shard in self._shards() for start in range(0, len(shard), batch)]
        return [[size, len(list(run))] for size, run in groupby(sizes)]

    def _shards(self) -> Iterator[tuple[int, ...]]:
        return (self.shard(index) for index in range(len(self)))


def format_seeds(seeds: tuple[int, ...]) -> str:
    """Seeds as text, in order, runs shortened: (0, 1, 2, 7) is "0-2,7"."""
    if not seeds:
        return ""
    breaks = [i for i, (a, b) in enumerate(pairwise(seeds), start=1) if b != a + 1]
    runs = [seeds[start:end] for start, end in pairwise([0, *breaks, len(seeds)])]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


class ShardFolder:
    """The unfinished ZIP `zip_path` as a folder of shards beside it.

    A run is: stop if `finished()`; `open()`; make every one of `missing()` with `write`; `merge()`. `complete`
    does the last two, and makes shards again that the merge finds damaged. Merging needs the room of the images
    twice. The final ZIP's bytes depend on plan, recipe, labels and pixels alone. It holds the images in plan
    order, then `dataset.json` and `recipe.json`:

        {"format": 1, "recipe": {...}, "recipe_hash": "...", "num_images": N, "seeds": "0-49999",
         "batches": [[64, 781], [16, 1]]}          (runs of [batch size, how many batches])
    """

    def __init__(
        self,
        zip_path: str | os.PathLike[str],
        plan: ShardPlan,
        recipe: Mapping[str, Any],
        recipe_hash: str,
        batch: int,
    ) -> None:
        """Nothing is read or written yet.

        Args:
            zip_path: Where the finished ZIP goes.
            plan: Seeds and shards.
            recipe: Plain data that says how the images are made; must be the same on every run.
            recipe_hash: Identifies the recipe: equal hashes mean equal images.
            batch: Images per batch inside a shard, 1 or more.
        """
        if batch < 1:
            raise ValueError(f"{batch} images per batch: need 1 or more")
        self.path = Path(os.path.realpath(zip_path))
        self.folder = self.path.with_name(self.path.name + ".shards")
        self.plan = plan
        self._content: dict[str, Any] = {
            "format": _FORMAT,
            "recipe": json.loads(json_bytes(recipe)),
            "recipe_hash": recipe_hash,
            "num_images": len(plan.seeds),
            "seeds": format_seeds(plan.seeds),
            "shard_size": plan.shard_size,
            "batch": batch,
        }
        identity = json_bytes({key: self._content[key] for key in _IDENTITY})
        self._plan_id = hashlib.sha256(identity).hexdigest()

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
        wanted = self._recipe_json()
        if any(found.get(key) != wanted[key] for key in ("format", "recipe_hash", "seeds")):
            _refuse(self.path, found, wanted)
        with suppress(ValueError):  # shards of another run are not ours to sweep
            self._check_plan()
            self._remove_folder()
        return True

    def open(self) -> None:
        """Make the folder, or continue in it; temporary files of dead runs on this machine are removed.

        Raises ValueError, with the differences, if it belongs to another run, and OSError if it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / _PLAN_NAME).exists():
            with self._becoming(self.folder / _PLAN_NAME, _rename_if_new) as temporary:
                temporary.write_bytes(json_bytes(self._content))
        self._check_plan()
        for temporary in self._temporaries():
            if _is_stale(temporary):
                temporary.unlink(missing_ok=True)

    def shard_path(self, index: int) -> Path:
        """Where a finished shard lies."""
        return self.folder / f"shard-{index:05d}.zip"

    def missing(self) -> list[int]:
        """The shards to be made. A shard file that is not what it should be is removed, with a warning.

        This looks at names and identity, quickly; the pixels are checked by their CRC when they are merged.
        """
        return [index for index in range(len(self.plan)) if not self._is_done(index)]

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
        self._remove_folder()
        return self.path

    def complete(self, make: Callable[[int], object]) -> Path:
        """Call `make(index)` for every missing shard, then merge; again for shards that the merge finds damaged.

        Raises ShardsMissing if shards keep being damaged or are not made, and whatever `make` raises.
        """
        for index in self.missing():
            make(index)
        for _ in range(_REPAIRS):
            try:
                return self.merge()
            except ShardsMissing as error:
                for index in error.indices:
                    make(index)
        return self.merge()

    def _is_done(self, index: int) -> bool:
        path = self.shard_path(index)
        if not path.exists():
            return False
        try:
            with open_zip(path) as file:
                self._read_head(index, file)
        except FileNotFoundError:  # removed by another worker since
            return False
        except ValueError as error:
            self._discard(index, error)
            return False
        return True

    def _read_head(self, index: int, file: zipfile.ZipFile) -> list[int] | None:
        """Labels of an open shard; ValueError if it is not this shard of this plan."""
        path = self.shard_path(index)
        names = list(map(image_name, self.plan.shard(index)))
        found = file.namelist()
        if found[: len(names)] != names or found[-1] != _SHARD_JSON:
            raise ValueError(f"{path} does not hold the images of this shard")
        head = read_json(path, file, _SHARD_JSON)
        labels = head.get("labels")
        if head.get("plan") != self._plan_id or head.get("index") != index:
            raise ValueError(f"{path} belongs to another run")
        if labels is not None and not (isinstance(labels, list) and len(labels) == len(names)):
            raise ValueError(f"{path} does not hold one label per image")
        return labels

    def _join(self, target: ZipWriter) -> None:
        """Copy all images, then labels and recipe. Goes on after a damaged shard, to find all of them at once."""
        labels: list[tuple[str, int] | None] = []
        damaged: list[int] = []
        for index in range(len(self.plan)):
            try:
                labels += self._copy(index, target)
            except (ValueError, FileNotFoundError) as error:
                self._discard(index, error)
                damaged.append(index)
        if damaged:
            raise ShardsMissing(f"damaged shards must be made again: {format_seeds(tuple(damaged))}", damaged)
        known = [pair for pair in labels if pair is not None]
        if known and len(known) != len(labels):
            raise RuntimeError(f"some shards of {self.path} have labels and some have none; they cannot be joined")
        target.add("dataset.json", dataset_json(known or None))
        target.add(RECIPE_NAME, json_bytes(self._recipe_json()))

    def _copy(self, index: int, target: ZipWriter) -> list[tuple[str, int] | None]:
        """Copy the images of a shard, by name; returns name and label (None = no label) of each."""
        path = self.shard_path(index)
        with open_zip(path) as file:
            labels = self._read_head(index, file)
            names = [image_name(seed) for seed in self.plan.shard(index)]
            for name in names:
                target.add(name, read_zip_member(path, file, name))
        return [None] * len(names) if labels is None else list(zip(names, labels, strict=True))

    def _discard(self, index: int, error: Exception) -> None:
        warnings.warn(f"shard {index} is unusable and will be made again: {error}", RuntimeWarning, stacklevel=3)
        self.shard_path(index).unlink(missing_ok=True)

    def _recipe_json(self) -> dict[str, Any]:
        content = {key: value for key, value in self._content.items() if key not in ("shard_size", "batch")}
        return {**content, "batches": self.plan.batch_runs(self._content["batch"])}

    def _check_plan(self) -> None:
        """Compare with the folder's plan, if there is one, and take over its spelling of the recipe."""
        path = self.folder / _PLAN_NAME
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            return
        except ValueError as error:
            raise ValueError(f"{path} is unreadable ({error}): remove {self.folder} to start over") from error
        if not isinstance(found, dict) or any(found.get(key) != self._content[key] for key in _IDENTITY):
            _refuse(self.folder, found if isinstance(found, dict) else {}, self._content)
        self._content = {**self._content, "recipe": found.get("recipe", self._content["recipe"])}

    @contextmanager
    def _becoming(self, path: Path, rename: Callable[[Path, Path], None] = replace_synced) -> Iterator[Path]:
        """A temporary name beside `path` that says whose it is, renamed to `path` if the block ends well."""
        owner = f"{_host()}.{os.getpid()}.{_PROCESS}{secrets.token_hex(4)}"
        temporary = path.with_name(f"{path.name}.{owner}.tmp")
        try:
            yield temporary
            rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _temporaries(self) -> list[Path]:
        beside = [path for path in self.path.parent.glob("*.tmp") if path.name.startswith(f"{self.path.name}.")]
        return beside + list(self.folder.glob("*.tmp"))

    def _remove_folder(self) -> None:
        """Remove what this class makes; the plan goes last, so that no shards are ever without one."""
        for path in [*self._temporaries(), *self.folder.glob("shard-*.zip"), self.folder / _PLAN_NAME]:
            path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            try:
                self.folder.rmdir()
            except FileNotFoundError:
                raise
            except OSError as error:
                warnings.warn(f"{self.folder} is kept: {error}", RuntimeWarning, stacklevel=2)


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
            head = {"plan": self._folder._plan_id, "index": self._index, "labels": self._labels}
            self._zip.add(_SHARD_JSON, json_bytes(head, indent=None))

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


def _host() -> str:
    """This machine's name, in characters that a file name can hold."""
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _is_stale(temporary: Path) -> bool:
    """Whether the process that the name tells is gone; False if that cannot be known from here."""
    owner = re.fullmatch(r".*\.([A-Za-z0-9-]+)\.(\d{1,9})\.([0-9a-f]{8})[0-9a-f]{8}\.tmp", temporary.name)
    if owner is None or owner[1] != _host() or os.name != "posix":
        return False
    pid = int(owner[2])
    if pid == os.getpid():  # this process, or an earlier one of the same number
        return owner[3] != _PROCESS
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _rename_if_new(temporary: Path, path: Path) -> None:
    """Give the finished file its name unless another worker's has it: then that one stays."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # a filesystem without hard links
        replace_synced(temporary, path)


def _refuse(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> NoReturn:
    lines = "\n".join(f"  {line}" for line in differences(found, wanted))
    raise ValueError(
        f"{path} belongs to another run: give another name, or remove it to start over. There | asked for now:\n{lines}"
    )


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], limit: int = 6) -> list[str]:
    """Readable lines, at most `limit` + 1, on where two records of a run differ.

    With equal recipe hashes the recipes are equal, whatever their files are called; with others, the hash itself
    is told only if nothing else is there to tell.
    """
    if found.get("recipe_hash") == wanted.get("recipe_hash"):
        found, wanted = ({k: v for k, v in record.items() if k != "recipe"} for record in (found, wanted))
    old, new = dict(_flatten("", found)), dict(_flatten("", wanted))
    names = [name for name in {**new, **old} if old.get(name, _ABSENT) != new.get(name, _ABSENT)]
    names = [name for name in names if name != "recipe_hash"] or names
    lines = [f"{name}: {_short(old.get(name, _ABSENT))} | {_short(new.get(name, _ABSENT))}" for name in names]
    return lines if len(lines) <= limit else [*lines[:limit], f"... and {len(lines) - limit} more"]


def _flatten(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of everything in nested dicts, and in lists of dicts."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, inner in items:
        yield from _flatten(f"{name}.{key}" if name else str(key), inner)


def _short(value: Any) -> str:
    """A value in few characters, of which long ones that differ end differently."""
    if value is _ABSENT:
        return "(none)"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({hashlib.sha256(text.encode()).hexdigest()[:8]})"
