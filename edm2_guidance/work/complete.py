"""Long work by any number of processes. `complete` is the one place that knows in which order things happen, and why.

A work is a plan of seeds cut into parts, and a folder. Workers share that folder and nothing else; every step that
they see of each other is atomic. An output says what is made of the images: a ZIP, a folder of PNGs, a score. What has
no parts, one process makes at `once`.

1. Find the result: nothing is made twice. What is in its place, but another's, is refused before any work.
2. Open the folder: take this worker's place, so that no two processes are the same worker or compute on one device.
3. Find again: others may have been through before the folder was opened, which then was made anew.
4. Make the parts that are missing, each under its lease: this worker's own, or, for workers that steal, any that
   nobody is at; those of others come last, and are made here if their process ends. Stop if another joins the parts:
   what is missing then, it has removed already. While a thread decodes, encodes and finishes a part, the next one is
   sampled, under its own lease; what fails in either ends both.
5. Look again, up to `_REPAIRS` times: disks lose files. A worker looks into its own parts; those of others it takes by
   their names, since whoever joins looks into all. Nobody lists the folder once per part, nor asks for every part of
   others: what a part costs does not depend on how many parts and workers there are (benchmarks/coordination.py).
6. If no part is missing, join them, one process, under the lease "join". Damaged parts are made again. Who was silent
   for so long that another took over does not write.
7. Remove the parts. Whoever dies before leaves them to be swept by the next who finds the result.
8. If others have the result, find it: on another machine it may take a while to be seen.

What ends a process in the middle leaves every finished part, and says so. Torch-free.
"""

import errno
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dnnlib.errors import Refused
from dnnlib.inference import FORMS, FULL, NEVER_USUAL, PLAIN
from dnnlib.workers import ALONE, Workers
from edm2_guidance.work.follower import Follower
from edm2_guidance.work.lease import Lease, LeaseLost, sweep
from edm2_guidance.work.plan import ShardPlan, format_seeds

if TYPE_CHECKING:
    from edm2_guidance.images.batch import Begun, ImageSource, Sink

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)
SourceOf = Callable[[tuple[int, ...]], "ImageSource"]
#: Called once, when work begins, with the images that this worker may make and how many of them are there: what it
#: gives is called with the number of every few images that are finished, while parts are made apart in another thread,
#: and at any time in the caller's with 0, where it may end the work and draws nothing.
Progress = Callable[[int, int], AbstractContextManager[Callable[[int], None]]]

APPEARS_SECONDS = 60.0  # for how long an NFS client may take a file for missing that another machine made
_POLL_SECONDS = 1.0
_TURN_SECONDS = 2.0  # between two looks at what others have leased
_DOUBLINGS = 3  # of that time, while nothing changes
_PASSED = 4  # parts in a row that others have made or leased, after which a worker goes elsewhere
_IS_GONE = (errno.ENOENT, errno.ESTALE)  # what NFS says of an open file that another machine removed
_REPAIRS = 2  # parts that are damaged again and again mean a failing disk, not bad luck


@dataclass(frozen=True)
class Run:
    """How this process makes images, and its place among all that share the work.

    What may change images is fixed in the plan as part of "the same work". Of it the precision alone is part of a
    score's key; the rest touches last bits, and is recorded beside the score. What nobody has said is as the plan says,
    whatever that is; whoever makes the plan chooses it.

    Attributes:
        batch: Images at a time, 1 or more.
        decoder_batch: The same of the decoder, if it is a network; None for others.
        deterministic: The form in which everything is computed: by kernels that give the same bits every time, or by
            the fastest ones.
        threads: Of the CPU that computes; None for other devices.
        precision: In which the networks compute. (That of the sampler's state is the recipe's, `Recipe.dtype`.)
        unusual: Whether that is another than these networks usually compute in here.
        form: In which they compute: one of `dnnlib.inference.FORMS`.
        auto: The attributes of which nobody has said anything, and what chooses each of them, in order, given this.
        workers: The place of this process.
        device: What identifies the device that it computes on, if no other worker should; None for any number on it.
    """

    batch: int
    decoder_batch: int | None = None
    deterministic: bool = False
    threads: int | None = None
    precision: str = FULL
    unusual: bool = False
    form: str = PLAIN
    workers: Workers = ALONE
    device: str | None = None
    auto: Mapping[str, Callable[["Run"], Any]] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if type(self.batch) is not int or self.batch < 1:
            raise ValueError(f"{self.batch} images per batch: need 1 or more")
        if self.form not in FORMS:
            raise ValueError(f"form {self.form!r} is none of {', '.join(FORMS)}")

    @property
    def fixed(self) -> dict[str, int | bool | str | None]:
        """What all workers must have alike, and who goes on later. What is usual is left out, as plans began."""
        names = ["batch", "decoder_batch", "deterministic", "threads"]
        if self.recorded_precision is not None:
            names.append("precision")
        if self.form != PLAIN:
            names.append("form")
        return {name: getattr(self, name) for name in names}

    @property
    def recorded_precision(self) -> str | None:
        """None for the usual float32."""
        return self.precision if self.precision != FULL or self.unusual else None

    def chosen(self) -> "Run":
        """The same, with a choice for everything that nobody has said."""
        run = self
        for name, choose in self.auto.items():
            run = replace(run, **{name: choose(run)})
        return run

    def as_in(self, plan: Mapping[str, Any], path: Path) -> "Run":
        """The same, with what nobody has said as a plan says, or what else holds `fixed`. ValueError for nonsense.

        path: of the file that says it.
        """
        said = {"form": PLAIN, **plan}
        try:
            return replace(self, **{name: said[name] for name in self.auto if name in said})
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}; move its folder away to start over") from error

    def same_precision(self, plan: Mapping[str, Any]) -> bool:
        """Whether the networks computed in this precision: the usual one, where a plan says nothing."""
        return plan["precision"] == self.recorded_precision if "precision" in plan else not self.unusual

    def may_be_of(self, precision: str) -> bool:
        """Whether finished images of this precision are those asked for: the usual one is not the same everywhere."""
        return precision == self.precision or not (self.unusual or precision in NEVER_USUAL)


class ShardsMissing(RuntimeError):
    """Parts were not there, or turned out to be damaged, when they were joined.

    Attributes:
        indices: The parts to make (again).
    """

    def __init__(self, message: str, indices: list[int]) -> None:
        super().__init__(message)
        self.indices = indices


@dataclass(frozen=True)
class Pending:
    """Other workers are still at it. left: of so many `parts`, those that are missing; 0: another joins them."""

    left: int
    parts: int


class Work(ABC):
    """Seeds in parts, made in a folder that stays, by workers of whom each makes its own parts or any that is free.

    plan: its shards are the parts. finished_apart: whether they are finished by a thread, while the next images are
    sampled; not where finishing takes what sampling needs.
    """

    part_name = "batch"
    finished_apart = True

    def __init__(self, folder: Path, plan: ShardPlan, run: Run) -> None:
        self.folder = folder
        self.plan = plan
        self.run = run
        self.lease = Lease(folder, "join")
        self.leases_parts = run.workers.steal  # two workers that steal may come upon the same part
        self._places: list[Lease] = []

    @property
    def order(self) -> list[int]:
        """The parts that this worker may make, in order."""
        return self.run.workers.order(len(self.plan))

    def name(self, part: int) -> str:
        """Of a part, in the names of its files."""
        return f"{self.part_name}-{part:05d}"

    def open(self) -> None:
        """Take this worker's place, until `close`. Refused if another process has it; OSError for a bad folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._places = _take_places(self.folder, self.run.workers, self.run.device)

    def close(self) -> None:
        """Let others have this worker's place."""
        for place in self._places:
            place.release()
        self._places = []

    @abstractmethod
    def has(self, part: int) -> bool:
        """Whether this part is there, as far as names tell."""

    def is_whole(self, part: int) -> bool:
        """Whether this part is there, and is what it should be. What is damaged is removed, with a warning."""
        return self.has(part)

    @abstractmethod
    def sink(self, part: int) -> "Sink":
        """Takes the images of this part, in the order of the plan."""

    @abstractmethod
    def listed(self) -> tuple[set[int], set[int]]:
        """The parts that are there, and those that somebody has leased, by the names in the folder, read once."""

    @abstractmethod
    def kept(self) -> str:
        """In words, what an interruption leaves behind."""

    @property
    def own(self) -> range:
        """The parts that this worker looks into; none if no number tells it from others."""
        workers = self.run.workers
        return workers.own(len(self.plan)) if workers.count > 1 or not workers.steal else range(0)

    def missing(self, parts: Sequence[int] | None = None) -> list[int]:
        """Which of these parts, or of all, are not there. Own ones are looked into, those of others taken by names."""
        parts, own = range(len(self.plan)) if parts is None else parts, self.own
        there = set[int]() if all(part in own for part in parts) else self.listed()[0]
        return [part for part in parts if not (self.is_whole(part) if part in own else part in there)]

    @contextmanager
    def making(self, part: int) -> Iterator[None]:
        """Around the making of a part."""
        yield

    def is_over(self) -> bool:
        """Whether whoever finished the work has removed what it no longer needs."""
        return False

    def another_ends_it(self) -> bool:
        """Whether there is nothing left to make: the work is over, or a living process joins the parts."""
        return False

    def remove(self) -> None:
        """Remove what was needed on the way only."""
        self.sweep()

    def sweep(self) -> None:
        """Remove what others left whose result is there, unless somebody is at it."""
        if self.folder.is_dir():
            sweep(self.folder)


class Output(Protocol[Result_co]):
    """What is made of the images of a work."""

    @property
    def work(self) -> Work: ...

    def find(self) -> Result_co | None:
        """The finished result, whoever made it; None if there is none.

        ValueError or OSError, before any work: something else is in its place, or it could not be written.
        """

    def join(self) -> Result_co:
        """The result, from all parts; called by one process, under the lease.

        Raises ShardsMissing if parts must be made again, and LeaseLost if others took this process for dead meanwhile.
        """


def complete(
    output: Output[Result],
    source_of: SourceOf,
    progress: Progress = lambda total, done: nullcontext(lambda count: None),
) -> Result | Pending:
    """The result of a work: found, or made by this process together with any others that are at it.

    Parts of other workers are left to them, or, by workers that steal, waited for, and made here if these die. Whoever
    is through last joins the parts. What ends this in the middle leaves every finished part to the next run.

    Args:
        output: What becomes of the images, and the work that makes them.
        source_of: Gives the images of these seeds, in order.
        progress: Called when everything that can be refused was, and there is something to make.

    Raises what `output.find` and `work.open` refuse, before `progress` is called; ShardsMissing if parts keep being
    damaged or removed; RuntimeError if the work was removed while it went on; and whatever sources and sinks raise.
    """
    work, found = output.work, output.find()
    if found is None:
        if not work.order:  # nor is a folder made again that others have removed
            return _pending(work)
        work.open()
        try:
            found = output.find()  # others may have been through before we opened the folder, and made it again
            if found is None:
                missing = work.missing(work.order)
                with progress(*_counts(work, missing)) as advance, _noting(work):
                    joined = _make_and_join(output, source_of, missing, advance)
                if joined is not None:
                    return joined
                found = _found_at_end(output)
        finally:
            work.close()
            if work.is_over():  # we were late, and may have made the folder again
                with suppress(OSError):
                    work.folder.rmdir()
    if found is None:
        return _pending(work)
    work.sweep()
    return found


def once(lease: Lease, find: Callable[[], Result | None], make: Callable[[], Result]) -> Result | Pending:
    """A result that has no parts: found, or made by one process under a lease, whose folder is made as needed."""
    found = find()
    if found is None:
        lease.folder.mkdir(parents=True, exist_ok=True)
        try:
            is_ours = lease.acquire(wait=True)
            found = find()
            if found is None and is_ours:
                found = make()
        except LeaseLost:
            found = find()
        finally:
            lease.release()
    return Pending(0, 0) if found is None else found


def _make_and_join(
    output: Output[Result], source_of: SourceOf, missing: list[int], advance: Callable[[int], None]
) -> Result | None:
    """The result, joined by this process; None if other workers have parts to make, or have the result.

    missing: the parts that this worker may make and that are not there.
    """
    work, mine = output.work, set(output.work.order)
    try:
        for _ in range(_REPAIRS + 1):
            _make_missing(work, source_of, missing, advance)
            left = work.missing()
            missing = [part for part in left if part in mine]
            if not missing or work.another_ends_it():
                break
        else:
            raise ShardsMissing(f"shards of {work.folder} keep vanishing: {format_seeds(tuple(missing))}", missing)
        if not all(map(work.has, left)) or not work.lease.acquire(wait=True):  # a listing may be of a while ago
            return None
        result = output.find()  # somebody who died before the parts were removed
        if result is None:
            result = _join_and_repair(output, source_of)
        work.close()
        work.remove()
        return result
    except LeaseLost:
        return None
    except OSError as error:
        if error.errno in _IS_GONE and work.is_over():
            return None  # somebody took this worker for dead, and has finished everything
        raise
    finally:
        work.lease.release()


def _make_missing(work: Work, source_of: SourceOf, parts: Sequence[int], advance: Callable[[int], None]) -> None:
    """Make these parts; if they are `finished_apart`, each while the next one is sampled already."""
    leased: list[Lease] = []  # by now, also those that were released since
    apart = Follower["Begun"]() if work.finished_apart else nullcontext()
    try:
        with apart as follower, apart:  # twice: see Follower
            tell = advance if follower is None else _behind(follower, advance)
            for part, lease in _turns(work, parts, tell):
                leased.append(lease)
                if work.another_ends_it():
                    return
                if work.has(part):
                    tell(len(work.plan.shard(part)))  # made by others meanwhile
                    lease.release()
                else:
                    _make_leased(work, part, lease, source_of, advance, follower)
    finally:
        for lease in leased:
            lease.release()


def _behind(follower: Follower["Begun"], advance: Callable[[int], None]) -> Callable[[int], None]:
    """The same for the thread that must not draw."""

    def tell(count: int) -> None:
        advance(0)
        follower.run(lambda none: advance(count), ())

    return tell


def _turns(work: Work, parts: Sequence[int], advance: Callable[[int], None]) -> Iterator[tuple[int, Lease]]:
    """The parts that others do not make, one after the other, each with its lease, which the caller releases.

    What others have leased comes last: when it is there, or when its owner turns out to be dead. After a few of others
    in a row the folder is read, and this worker goes elsewhere.
    """
    left, idle = list(parts), 0
    if not work.leases_parts:  # workers have their own
        yield from ((part, Lease(work.folder, work.name(part))) for part in left)
        return
    while left and work.folder.exists():
        before, passed = len(left), 0
        for part in tuple(left):
            lease = Lease(work.folder, work.name(part))
            passed += 1
            if work.has(part):
                advance(len(work.plan.shard(part)))
                left.remove(part)
            elif lease.acquire():
                yield part, lease
                left.remove(part)
                passed = 0
            if passed == _PASSED:
                break
        idle = 0 if len(left) < before else idle + 1
        left = _look_around(work, left, idle, advance) if left else []


def _look_around(work: Work, parts: list[int], idle: int, advance: Callable[[int], None]) -> list[int]:
    """Those of the parts that are not there, from a random free one on: so workers that steal spread over them.

    What others have leased comes last, after a while if nothing is free. idle: how often in a row nothing was done.
    """
    there, leased = work.listed()
    left = [part for part in parts if part not in there]
    for part in there.intersection(parts):
        advance(len(work.plan.shard(part)))
    free = [part for part in left if part not in leased]
    if left and (not free or idle > 1):
        time.sleep(_TURN_SECONDS * 2 ** min(idle, _DOUBLINGS))
    start = left.index(secrets.choice(free)) if free else 0
    return sorted(left[start:] + left[:start], key=leased.__contains__)


def _make_leased(
    work: Work,
    part: int,
    lease: Lease,
    source_of: SourceOf,
    advance: Callable[[int], None],
    follower: Follower["Begun"] | None,
) -> None:
    """Make a part, then release its lease; if there is a follower, what is begun here is finished there."""
    from edm2_guidance.images.batch import Finished, begun

    if follower is None:
        _make(work, part, source_of, advance)
        return lease.release()
    seeds = work.plan.shard(part)

    def begin() -> "Generator[Begun]":
        for batch in begun(source_of(seeds)):
            advance(0)  # which ends the work if a signal came whose exception was swallowed
            yield batch

    def finish(batches: "Iterator[Begun]") -> None:
        _make(work, part, lambda seeds: Finished(len(seeds), batches), advance)
        lease.release()

    with closing(begin()) as batches:
        return follower.run(finish, batches)


def _make(work: Work, part: int, source_of: SourceOf, advance: Callable[[int], None] | None = None) -> None:
    from edm2_guidance.images.batch import drain

    with work.making(part):
        drain(source_of(work.plan.shard(part)), work.sink(part), progress=advance)
    if not work.has(part) and not work.is_over():
        raise RuntimeError(f"{work.name(part)} was not made, or was gone at once: is {work.folder} on a healthy disk?")


def _join_and_repair(output: Output[Result], source_of: SourceOf) -> Result:
    for _ in range(_REPAIRS):
        try:
            return output.join()
        except ShardsMissing as error:
            for part in error.indices:
                _make(output.work, part, source_of)
    return output.join()


def _found_at_end(output: Output[Result]) -> Result | None:
    """The result that another process wrote; it may take a while until other machines see it.

    RuntimeError if the work is over, and no result is there.
    """
    work, found = output.work, output.find()
    if found is not None or not work.is_over():
        return found
    deadline = time.monotonic() + APPEARS_SECONDS
    while found is None and time.monotonic() < deadline:
        with suppress(OSError):
            os.listdir(work.folder.parent)  # makes NFS ask anew
        time.sleep(_POLL_SECONDS)
        found = output.find()
    if found is None:
        raise RuntimeError(f"{work.folder} was removed while work was going on: run the same command again")
    return found


def _pending(work: Work) -> Pending:
    return Pending(0 if work.is_over() else len(work.missing()), len(work.plan))


def _counts(work: Work, missing: Sequence[int]) -> tuple[int, int]:
    """(images of the parts that this worker may make, how many of them are there already)."""
    total, left = (sum(len(work.plan.shard(part)) for part in parts) for parts in (work.order, missing))
    return total, total - left


@contextmanager
def _noting(work: Work) -> Iterator[None]:
    """What ends the work in the middle carries a note of what it leaves behind, which an interrupt tells."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):
            error.add_note(work.kept())
        raise


def _take_places(folder: Path, workers: Workers, device: str | None) -> list[Lease]:
    """Leases on a worker's place, and on its device, for work in `folder`: each can be one process's only.

    Workers that steal have no place of their own. Raises Refused, saying who is there, if a lease is another's.
    """
    places: list[tuple[str, str]] = []
    if not workers.steal:
        cure = "let it end, give each its own number (--worker=0/2, --worker=1/2), or --steal"
        places.append((f"worker-{workers.index}-of-{workers.count}", f"is this worker already, in {folder}: {cure}"))
    if device is not None and not workers.share_device:
        cure = "give each its own (--device=cuda:1, CUDA_VISIBLE_DEVICES, --gpus-per-task=1), or --share-device"
        places.append((f"device-{device}", f"computes on this device already, in {folder}: {cure}"))
    leases: list[Lease] = []
    for name, trouble in places:
        place = Lease(folder, name)
        if not place.acquire(wait=True):
            holder = place.holder()
            for taken in leases:
                taken.release()
            if not folder.exists():
                raise FileNotFoundError(errno.ENOENT, "removed by others", os.fspath(folder))
            raise Refused(f"another process ({holder}) {trouble}")
        leases.append(place)
    return leases
