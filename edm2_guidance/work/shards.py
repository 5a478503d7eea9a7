"""Long work in shards: what was finished before an interruption is not done again, and workers can share it.

    FOLDER/plan.json          what is being made: recipe, seeds, shard size, batch
    FOLDER/shard-00012.zip    a finished shard; it appears by a rename, hence whole or not at all
    FOLDER/shard-00012.0.claim     who is making that shard (work.lease)
    FOLDER/shard-00012.failed      why it could not be made, the last time
    FOLDER/worker-0-of-1.0.claim   which process is this worker
    FOLDER/device-ID.0.claim       which process uses this device
    FOLDER/join.0.claim            who is joining the shards, once all are there

The plan depends on recipe and seeds alone, never on who works on it, and a shard is all that a worker needs to
own: workers share nothing but the folder, and every step that they see of each other is atomic. What a shard holds
is up to a subclass of `ShardStore`: images (work.shards_zip), or features of images. Torch-free.
"""

import errno
import hashlib
import json
import operator
import os
import re
import secrets
import time
import warnings
import zipfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from dnnlib.atomic import replace_synced
from dnnlib.errors import Refused, naming
from dnnlib.urls import without_secrets
from dnnlib.workers import ALONE, Workers
from edm2_guidance.images.archive import open_zip
from edm2_guidance.images.zips import json_bytes, read_json, read_object
from edm2_guidance.recipe.recipe import FORMAT
from edm2_guidance.recipe.stored import upgraded
from edm2_guidance.work.lease import Claim, in_turn, is_gone, owner, read_claim

Result = TypeVar("Result")

_ABSENT = object()
PLAN_NAME = "plan.json"
SHARD_JSON = "shard.json"
_IS_GONE = (errno.ENOENT, errno.ESTALE)  # what NFS says of an open file that another machine removed
_POLL_SECONDS = 1.0
APPEARS_SECONDS = 60.0  # for how long an NFS client may take a file for missing that another machine made
_REPAIRS = 2  # shards that are damaged again and again mean a failing disk, not bad luck


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

    def batch_runs(self, batch: int) -> list[list[int]]:
        """Sizes of all batches in order, as runs [size, how often], if shards are made `batch` images at a time.

        An image's last bits depend on the size of its batch, and on nothing else of how seeds were cut.
        """
        sizes = [min(batch, len(shard) - start) for shard in self._shards() for start in range(0, len(shard), batch)]
        return [[size, len(list(run))] for size, run in groupby(sizes)]

    def _shards(self) -> Iterator[tuple[int, ...]]:
        return (self.shard(index) for index in range(len(self)))


def merged_reductions(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """What memory did not hold in any of the parts (`ImageBatch.reduced`): the smallest number per kind of work."""
    result: dict[str, int] = {}
    for part in parts:
        for work, size in part.items():
            result[work] = min(size, result.get(work, size))
    return result


def format_seeds(seeds: tuple[int, ...]) -> str:
    """Seeds as text, in order, runs shortened: (0, 1, 2, 7) is "0-2,7"."""
    if not seeds:
        return ""
    breaks = [i for i, (a, b) in enumerate(pairwise(seeds), start=1) if b != a + 1]
    runs = [seeds[start:end] for start, end in pairwise([0, *breaks, len(seeds)])]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def seed_runs(text: str) -> list[range]:
    """The runs of seeds that a text of `format_seeds` stands for; none for any other text."""
    runs, end = [], 0
    for run in _RUN.finditer(text):  # one after the other: texts may have millions
        if run.start() != end:
            return []
        runs.append(range(int(run[1]), int(run[2] or run[1]) + 1))
        end = run.end()
    return runs if end == len(text) and not text.endswith(",") else []


def is_in_runs(runs: Sequence[range]) -> Callable[[int], bool]:
    """A function that tells whether a seed is in one of the runs, which do not overlap; of any number and length."""
    runs = sorted(runs, key=lambda run: run.start)

    def is_in(seed: int) -> bool:
        below = bisect_right(runs, seed, key=lambda run: run.start)
        return below > 0 and seed in runs[below - 1]

    return is_in


_RUN = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?(?:,|\Z)", re.ASCII)


class ShardStore:
    """A folder of shards of one plan: whose it is, what is there, what is missing, and who joins it.

    A shard file is a ZIP that ends with a member `shard.json`: {"plan": id, "index": i, ...}.
    """

    suffix = ".zip"

    def __init__(
        self,
        folder: Path,
        plan: ShardPlan,
        content: Mapping[str, Any],
        identity: Sequence[str],
        batch: int,
        numerics: Mapping[str, Any],
    ) -> None:
        """Nothing is read or written yet.

        Args:
            folder: Where the shards go.
            plan: Seeds and shards.
            content: What plan.json says beside the seeds: plain data, the same on every run.
            identity: The keys of `content` that have to agree for work to be continued, beside those of the plan.
            batch: Images per batch inside a shard, 1 or more.
            numerics: What else may change last bits, so that all workers must have it alike: plain data.
        """
        if batch < 1:
            raise ValueError(f"{batch} images per batch: need 1 or more")
        self.folder = folder
        self.plan = plan
        self.claim = Claim(folder, "join")
        self._workers = ALONE
        self._places: list[Claim] = []
        self._making_since: float | None = None
        self._content: dict[str, Any] = {
            "format": FORMAT,
            **json.loads(json_bytes(content)),
            "num_images": len(plan.seeds),
            "seeds": format_seeds(plan.seeds),
            "shard_size": plan.shard_size,
            "batch": batch,
            **numerics,
        }
        self._identity = ("format", *identity, "seeds", "shard_size", "batch", *numerics)
        self._numerics = frozenset(numerics)

    def open(self, workers: Workers = ALONE, device: str | None = None) -> None:
        """Make the folder, or continue in it, as one of these workers, until `finish` ends.

        Temporary files of dead runs on this machine are removed. device: what identifies the device that this worker
        computes on, if no other should; None for any number of workers on it.

        Raises ValueError, with the differences, if the folder belongs to another run; if another process is this
        worker already, or computes on this device; and OSError if it cannot be written.
        """
        self._workers = workers
        for attempt in range(_REPAIRS + 1):
            try:
                self._make_plan()
                self._places = join_workers(self.folder, workers, device)
                break
            except (FileNotFoundError, ValueError):
                if not self.is_over() or attempt == _REPAIRS:
                    raise  # else the work of others ended just now, and they removed the folder: begin again
        for temporary in self._temporaries():
            if _is_stale(temporary):
                temporary.unlink(missing_ok=True)

    def _make_plan(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / PLAN_NAME).exists():
            with self._becoming(self.folder / PLAN_NAME, _rename_if_new) as temporary:
                temporary.write_bytes(json_bytes(self._content))
        self._check_plan()

    def check(self) -> None:
        """Refused, with the differences, if the folder belongs to another run. Nothing is made."""
        self._check_plan()

    @property
    def _plan_id(self) -> str:
        """What shards of this run say that they belong to."""
        keys = json_bytes({key: self._content[key] for key in self._identity})
        return hashlib.sha256(keys).hexdigest()

    def shard_path(self, index: int) -> Path:
        """Where a finished shard lies."""
        return self.folder / f"{_shard_name(index)}{self.suffix}"

    def missing(self) -> list[int]:
        """The shards to be made. A shard file that is not what it should be is removed, with a warning.

        This looks at names and identity, quickly; contents are checked by their CRC when shards are joined.
        """
        return [index for index in range(len(self.plan)) if not self._is_done(index)]

    def began(self) -> float | None:
        """When the work was begun, in seconds since 1970; None if it was not."""
        try:
            return (self.folder / PLAN_NAME).stat().st_mtime
        except FileNotFoundError:
            return None

    @property
    def images(self) -> tuple[str, str]:
        """(hash of the recipe, seeds as `format_seeds`), which together say which images these are."""
        return self._content["recipe_hash"], self._content["seeds"]

    def progress(self) -> tuple[int, int]:
        """(images of the shards that this worker may make, how many of them are there already)."""
        missing = set(self.missing())
        sizes = {index: len(self.plan.shard(index)) for index in self._workers.order(len(self.plan))}
        return sum(sizes.values()), sum(size for index, size in sizes.items() if index not in missing)

    def finish(
        self,
        make: Callable[[int], object],
        join: Callable[[], Result],
        others: Callable[[int], object] = lambda count: None,
    ) -> Result | None:
        """Call `make(index)` for every missing shard of this worker, then `join`, if nothing is missing any more.

        A shard that another process is making is waited for, and made here if that one dies. Shards that `join` finds
        damaged, by raising ShardsMissing, are made again. others: called with the number of images of every shard
        that was missing at first and then made by somebody else.

        None: other workers have shards to make, or one of them is joining or has joined: then the folder is gone
        (`is_over`). Else this process holds the claim, until `remove` or `claim.release`; it has lost it if
        `claim.is_held()` says so.

        Raises ShardsMissing if shards keep being damaged or removed, and whatever `make` and `join` raise.
        """
        try:
            for _ in range(_REPAIRS + 1):
                self._make_missing(make, others)
                gone = sorted(set(self.missing()) & set(self._workers.order(len(self.plan))))
                if not gone or self._another_ends_it():
                    break
            else:
                raise ShardsMissing(f"shards of {self.folder} keep vanishing: {format_seeds(tuple(gone))}", gone)
            if self.missing() or not self.claim.take_or_see_life():
                return None
            return self._join_and_repair(make, join)
        except BaseException as error:
            self.claim.release()
            if isinstance(error, OSError) and error.errno in _IS_GONE and self.is_over():
                return None  # somebody took this worker for dead, and has finished everything
            raise
        finally:
            self._leave()
            if self.is_over():  # we were late, and may have made the folder again
                with suppress(OSError):
                    self.folder.rmdir()

    def _make_missing(self, make: Callable[[int], object], others: Callable[[int], object]) -> None:
        missing = set(self.missing())
        mine = [index for index in self._workers.order(len(self.plan)) if index in missing]
        names = [_shard_name(index) for index in mine]
        with closing(in_turn(self.folder, names, lambda number: self._is_done(mine[number]))) as turns:
            for number, to_make in turns:
                if self._another_ends_it():
                    return
                if to_make:
                    self._make(mine[number], make)
                else:
                    others(len(self.plan.shard(mine[number])))

    def _make(self, index: int, make: Callable[[int], object]) -> None:
        """Make one shard; what goes wrong is left in a file for `work.status`."""
        failure = self.folder / f"{_shard_name(index)}.failed"
        self._making_since = time.monotonic()
        try:
            make(index)
            failure.unlink(missing_ok=True)
        except Exception as error:
            with suppress(OSError):
                failure.write_bytes(
                    json_bytes({"owner": owner(), "error": without_secrets(f"{type(error).__name__}: {error}")})
                )
            raise
        if not self._is_done(index) and not self.is_over():
            raise RuntimeError(f"shard {index} was not made, or was gone at once: is {self.folder} on a healthy disk?")

    def is_over(self) -> bool:
        """Whether nothing is left to do here: whoever finished the work has removed the plan."""
        return not (self.folder / PLAN_NAME).exists()

    def _another_ends_it(self) -> bool:
        """Whether there is nothing left to make: the work is over, or a living process joins the shards.

        Shards that are missing then are those that it has removed already, or makes again.
        """
        if not self.is_over() and self.claim.sign() is not None:
            if not self.claim.take_or_see_life():
                return True
            self.claim.release()  # whoever had it is gone
        return self.is_over()

    def left_to_others(self) -> int:
        """How many shards are missing, none of which is this worker's to make."""
        return 0 if self.is_over() else len(self.missing())

    def appears(self, is_there: Callable[[], bool], folder: Path) -> bool:
        """Whether the result of work that is over is there; it may take a while until other machines see it."""
        deadline = time.monotonic() + APPEARS_SECONDS
        while not (there := is_there()) and time.monotonic() < deadline:
            with suppress(OSError):
                os.listdir(folder)  # makes NFS ask anew
            time.sleep(_POLL_SECONDS)
        return there

    def lost(self) -> RuntimeError:
        """The error to raise if the work is over, but its result is not there."""
        return RuntimeError(f"{self.folder} was removed while work was going on: run the same command again")

    def sweep(self) -> None:
        """Remove what work whose result is there has left, unless it is another's, or somebody is at it."""
        with suppress(ValueError, FileNotFoundError):
            self._check_plan()
            signs = [read_claim(path) for path in self.folder.glob("*.claim")]
            if all(is_gone(sign) or sign.partition(" ")[0] == owner() for sign in signs):
                self.remove()

    def _leave(self) -> None:
        for place in self._places:
            place.release()
        self._places = []

    def remove(self) -> None:
        """Remove what this class makes; plan and claims go last, so that no shards are ever without them."""
        self._leave()
        shards = [*self.folder.glob(f"shard-*{self.suffix}"), *self.folder.glob("shard-*.failed")]
        for path in [*self._temporaries(), *shards, self.folder / PLAN_NAME, *self.folder.glob("*.claim")]:
            path.unlink(missing_ok=True)
        self.claim.release()
        with suppress(FileNotFoundError):
            try:
                self.folder.rmdir()
            except FileNotFoundError:
                raise
            except OSError as error:
                if any(path.suffix not in (".claim", ".tmp") for path in self.folder.iterdir()):  # else: `finish`
                    warnings.warn(f"{self.folder} is kept: {error}", RuntimeWarning, stacklevel=2)

    def _join_and_repair(self, make: Callable[[int], object], join: Callable[[], Result]) -> Result:
        for _ in range(_REPAIRS):
            try:
                return join()
            except ShardsMissing as error:
                for index in error.indices:
                    make(index)
        return join()

    def _check_shard(self, index: int, file: zipfile.ZipFile) -> None:
        """ValueError if an open shard does not hold what a shard of this number should."""
        raise NotImplementedError

    def _is_done(self, index: int) -> bool:
        path = self.shard_path(index)
        if not path.exists():
            return False
        try:
            with open_zip(path) as file:
                self._check_shard(index, file)
        except FileNotFoundError:  # removed by another worker since
            return False
        except ValueError as error:
            self._discard(index, error)
            return False
        return True

    def _read_head(self, index: int, file: zipfile.ZipFile) -> dict[str, Any]:
        """The shard.json of an open shard; ValueError if it is not this shard of this plan."""
        path = self.shard_path(index)
        if SHARD_JSON not in file.NameToInfo:
            raise ValueError(f"{path} is not a shard")
        if any(info.compress_type != zipfile.ZIP_STORED for info in file.infolist()):
            raise ValueError(f"{path} is not a shard: those are not compressed")
        head = read_json(path, file, SHARD_JSON)
        if head.get("plan") != self._plan_id or head.get("index") != index:
            raise ValueError(f"{path} belongs to another run")
        return head

    def _head(self, index: int, reduced: Mapping[str, int], **content: Any) -> bytes:
        """The shard.json of a shard. reduced: as `ImageBatch.reduced`; left out if memory held every batch."""
        extra: dict[str, Any] = {"reduced": dict(reduced)} if reduced else {}
        if self._making_since is not None:
            extra["seconds"] = round(time.monotonic() - self._making_since, 3)  # for images.status
        return json_bytes({"plan": self._plan_id, "index": index, **content, **extra}, indent=None)

    def _reduced(self, index: int) -> dict[str, int]:
        """What memory did not hold when this shard was made, as `ImageBatch.reduced`."""
        with open_zip(self.shard_path(index)) as file:
            return dict(self._read_head(index, file).get("reduced") or {})

    def _discard(self, index: int, error: Exception) -> None:
        warnings.warn(f"shard {index} is unusable and will be made again: {error}", RuntimeWarning, stacklevel=3)
        self.shard_path(index).unlink(missing_ok=True)

    def _check_plan(self) -> None:
        """Compare with the folder's plan, if there is one, and take over its spelling of the recipe."""
        path = self.folder / PLAN_NAME
        try:
            found = read_object(path)
        except FileNotFoundError:
            return
        except ValueError as error:
            raise ValueError(f"{error}: move {self.folder} away to start over") from error
        now = upgraded(found)
        if any(now.get(key) != self._content[key] for key in self._identity):
            refuse(self.folder, now, self._content)
        kept: dict[str, Any] = {key: found[key] for key in ("format", "recipe", "recipe_hash") if key in found}
        self._content = {**self._content, **kept}  # by which finished shards say whose they are

    @contextmanager
    def _becoming(self, path: Path, rename: Callable[[Path, Path], None] = replace_synced) -> Iterator[Path]:
        """A temporary name beside `path` that says whose it is, renamed to `path` if the block ends well."""
        temporary = path.with_name(f"{path.name}.{owner()}{secrets.token_hex(4)}.tmp")
        try:
            with naming(path):
                yield temporary
                rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _temporaries(self) -> list[Path]:
        return list(self.folder.glob("*.tmp"))


def _shard_name(index: int) -> str:
    return f"shard-{index:05d}"


def join_workers(folder: Path, workers: Workers, device: str | None) -> list[Claim]:
    """Claims on a worker's place, and on its device, for work in `folder`: each can be one process's only.

    Workers that steal have no place of their own. Raises Refused, saying who is there, if a claim is another's.
    """
    places: list[tuple[str, str]] = []
    if not workers.steal:
        cure = "let it end, give each its own number (--worker=0/2, --worker=1/2), or --steal"
        places.append((f"worker-{workers.index}-of-{workers.count}", f"is this worker already, in {folder}: {cure}"))
    if device is not None and not workers.share_device:
        cure = "give each its own (--device=cuda:1, CUDA_VISIBLE_DEVICES, --gpus-per-task=1), or --share-device"
        places.append((f"device-{device}", f"computes on this device already, in {folder}: {cure}"))
    claims: list[Claim] = []
    for name, trouble in places:
        claim = Claim(folder, name)
        if not claim.take_or_see_life():
            holder = claim.holder()
            for taken in claims:
                taken.release()
            if not folder.exists():
                raise FileNotFoundError(errno.ENOENT, "removed by others", os.fspath(folder))
            raise Refused(f"another process ({holder}) {trouble}")
        claims.append(claim)
    return claims


def _is_stale(temporary: Path) -> bool:
    """Whether the process that the name tells is gone; False if that cannot be known from here."""
    found = re.fullmatch(r".*\.([A-Za-z0-9-]+\.\d{1,9}\.[0-9a-f]{8})[0-9a-f]{8}\.tmp", temporary.name)
    return found is not None and is_gone(found[1])


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


def refuse(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> NoReturn:
    lines = "\n".join(f"  {line}" for line in differences(found, wanted))
    cure = "give another name, or move it away to start over"
    threads = found.get("threads")
    to_choose = ("batch", "shard_size", *(("threads",) if type(threads) is int else ()))
    ours = {key: value for key, value in wanted.items() if key not in to_choose}
    if all(found.get(key) == value for key, value in ours.items()):
        batch, size = (_short(found.get(key)) for key in ("batch", "shard_size"))
        options = f"--batch={batch} --shard-size={size}"
        if "threads" in to_choose and threads != wanted.get("threads"):
            options = f"OMP_NUM_THREADS={threads} in the environment with {options}"
        cure = f"{options} goes on with it, or {cure}"
    raise Refused(f"{path} belongs to another run: {cure}. There | asked for now:\n{lines}")


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], limit: int = 6) -> list[str]:
    """Readable lines, at most `limit` + 1, on where two records of a run differ.

    With equal recipe hashes the recipes are equal, whatever their files are called; with others, the hash itself
    is told only if nothing else is there to tell, and so is that of a file if it has another name.
    """
    if found.get("recipe_hash") == wanted.get("recipe_hash"):
        found, wanted = ({k: v for k, v in record.items() if k != "recipe"} for record in (found, wanted))
    old, new = dict(_flatten("", found)), dict(_flatten("", wanted))
    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    obvious = {"recipe_hash", *(f"{name.removesuffix('source')}sha256" for name in names if name.endswith("source"))}
    names = [name for name in names if name not in obvious] or names
    lines = [f"{name}: {_short(old.get(name, _ABSENT))} | {_short(new.get(name, _ABSENT))}" for name in names]
    return lines if len(lines) <= limit else [*lines[:limit], f"... and {len(lines) - limit} more"]


def _flatten(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of everything in nested dicts, and in lists of dicts. An empty list has nothing in it."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
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
