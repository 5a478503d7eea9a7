import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dnnlib.workers import Workers
from edm2_guidance.images.batch import ImageBatch, drain
from edm2_guidance.images.sources import StoredImages
from edm2_guidance.images.zips import ZipWriter, read_recipe
from edm2_guidance.work import complete as protocol
from edm2_guidance.work import identity
from edm2_guidance.work import lease as claims
from edm2_guidance.work.complete import Run, ShardsMissing, complete
from edm2_guidance.work.lease import owner
from edm2_guidance.work.plan import ShardPlan, format_seeds
from edm2_guidance.work.zip_output import ZipOutput
from tests.works import ELSEWHERE, SEEDS, Generated, Stated, held, left, pixels

RECIPE = {"net": {"source": "main", "sha256": "ab" * 32}, "guides": [{"weight": 1.5, "steps": [3, 9]}]}


def folder_at(
    path: Path,
    seeds: tuple[int, ...] = SEEDS,
    size: int = 3,
    recipe: dict[str, Any] = RECIPE,
    recipe_hash: str = "c0ffee",
    batch: int = 2,
    **place: Any,
) -> ZipOutput:
    return ZipOutput(path, ShardPlan(seeds, size), Stated(recipe_hash, recipe), Run(batch, **place))


def make(folder: ZipOutput, index: int, labels: bool = True) -> None:
    drain(Generated(folder.work.plan.shard(index), 2, labels), folder.work.sink(index))


def missing(folder: ZipOutput) -> list[int]:
    return folder.work.missing()


def completed(
    folder: ZipOutput, after: Callable[[int], object] = lambda index: None, labels: bool = True, **more: Any
) -> Any:
    """What the command does. after: called with the number of each shard that was made here."""
    plain = folder.work.making

    @contextmanager
    def making(index: int) -> Iterator[None]:
        with plain(index):
            yield
        after(index)

    with patch.object(folder.work, "making", making):
        return complete(folder, lambda seeds: Generated(seeds, 2, labels), **more)


def run(path: Path, made: list[int] | None = None, **changes: Any) -> bytes:
    """What the command does. made: gets the shards that are made. Returns the ZIP's bytes."""
    completed(folder_at(path, **changes), ([] if made is None else made).append)
    return path.read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return run(tmp_path_factory.mktemp("undisturbed") / "out.zip")


# Plans.

SEED_LISTS = st.lists(st.integers(0, 10**7), min_size=1, max_size=200, unique=True).map(tuple)


@given(seeds=SEED_LISTS, size=st.integers(1, 250), workers=st.integers(1, 20))
def test_workers_together_do_each_seed_once_and_in_order(seeds: tuple[int, ...], size: int, workers: int) -> None:
    plan = ShardPlan(seeds, size)
    taken = [Workers(job=worker, jobs=workers).order(len(plan)) for worker in range(workers)]
    assert sorted(index for indices in taken for index in indices) == list(range(len(plan)))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1
    assert sum((plan.shard(index) for index in range(len(plan))), ()) == seeds
    assert all(1 <= len(plan.shard(index)) <= size for index in range(len(plan)))


@given(seeds=SEED_LISTS, size=st.integers(1, 250), batch=st.integers(1, 70))
def test_batch_runs_count_every_batch(seeds: tuple[int, ...], size: int, batch: int) -> None:
    plan = ShardPlan(seeds, size)
    sizes = []
    for index in range(len(plan)):
        seeds = plan.shard(index)
        while seeds:
            sizes.append(len(seeds[:batch]))
            seeds = seeds[batch:]
    runs = plan.batch_runs(batch)
    assert [size for size, count in runs for _ in range(count)] == sizes
    assert all(a[0] != b[0] for a, b in pairwise(runs))


@given(seeds=SEED_LISTS)
def test_seed_text_is_exact(seeds: tuple[int, ...]) -> None:
    parts = [part.split("-") for part in format_seeds(seeds).split(",")]
    read = [seed for part in parts for seed in range(int(part[0]), int(part[-1]) + 1)]
    assert tuple(read) == seeds


def test_seed_text() -> None:
    assert format_seeds((0, 1, 2, 7, 5, 6)) == "0-2,7,5-6"
    assert format_seeds(tuple(range(50_000))) == "0-49999"
    assert format_seeds(()) == ""


def test_plans_are_checked() -> None:
    with pytest.raises(ValueError, match="seed 7 is listed twice"):
        ShardPlan((7, 0, 7), 2)
    with pytest.raises(ValueError, match="seed -1 is negative"):
        ShardPlan((0, -1), 2)
    with pytest.raises(ValueError, match="no seeds"):
        ShardPlan((), 2)
    with pytest.raises(ValueError, match="0 images per shard"):
        ShardPlan((0,), 0)
    with pytest.raises(TypeError):
        ShardPlan((0.5,), 1)  # type: ignore[arg-type]
    plan = ShardPlan((0, 1, 2), 2)
    for index in (-1, 2):
        with pytest.raises(ValueError, match=f"shard {index} of 2"):
            plan.shard(index)
    numpy_plan = ShardPlan(tuple(np.arange(3)), np.int64(2))  # type: ignore[arg-type]
    assert numpy_plan == plan
    assert type(numpy_plan.seeds[0]) is int


# The whole run.


def test_the_zip_holds_images_labels_and_recipe(tmp_path: Path, undisturbed: bytes) -> None:
    path = tmp_path / "deep" / "out.zip"
    assert run(path) == undisturbed
    with zipfile.ZipFile(path) as file:
        names = [f"{seed:06d}.png" for seed in SEEDS]
        assert file.namelist() == [*names, "dataset.json", "recipe.json"]
        expected = {"labels": [[name, seed % 7] for name, seed in zip(names, SEEDS, strict=True)]}
        assert json.loads(file.read("dataset.json")) == expected
        assert json.loads(file.read("recipe.json")) == {
            "format": 2,
            "recipe": RECIPE,
            "recipe_hash": "c0ffee",
            "num_images": 10,
            "seeds": "4-7,0-2,9,8,30",
            "batches": [[2, 1], [1, 1], [2, 1], [1, 1], [2, 1], [1, 2]],
        }
    images = next(iter(StoredImages(path)))
    assert images.seeds == tuple(sorted(SEEDS))
    assert images.labels == tuple(seed % 7 for seed in sorted(SEEDS))
    assert torch.equal(images.images, torch.stack([pixels(seed) for seed in sorted(SEEDS)]))
    assert sorted(p.name for p in path.parent.iterdir()) == ["out.zip"]


def test_bytes_do_not_depend_on_shard_size_order_or_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With shards that cut no batch short, that is: the sizes of batches are on record."""
    results = []
    for number, size in enumerate((2, 4, 100)):
        monkeypatch.setattr(time, "time", lambda number=number: 1e9 * (number + 1))
        folder = folder_at(tmp_path / f"{number}.zip", size=size)
        folder.work.open()
        for index in reversed(missing(folder)):
            make(folder, index)
        results.append(completed(folder).read_bytes())
    assert results[0] == results[1] == results[2]


def test_what_memory_did_not_hold_is_on_record(tmp_path: Path, undisturbed: bytes) -> None:
    """Then last bits may differ from those of another run; otherwise the record says nothing of it."""
    folder = folder_at(tmp_path / "out.zip")
    folder.work.open()
    reductions: dict[int, list[dict[str, int]]] = {1: [{"sampling": 4}, {"sampling": 2, "decoding": 1}], 2: [{}, {}]}

    class Reduced(Generated):
        def __iter__(self) -> Iterator[ImageBatch]:
            found = reductions.get(SEEDS.index(self.seeds[0]) // 3, [{}, {}])
            return (replace(batch, reduced=found[number]) for number, batch in enumerate(super().__iter__()))

    complete(folder, lambda seeds: Reduced(seeds, 2))
    with zipfile.ZipFile(folder.path) as file:
        recipe = json.loads(file.read("recipe.json"))
    assert recipe.pop("reduced") == {"sampling": 2, "decoding": 1}
    with zipfile.ZipFile(io.BytesIO(undisturbed)) as file:
        assert json.loads(file.read("recipe.json")) == recipe
    assert folder_at(folder.path).find()


def test_images_without_labels(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "out.zip")
    completed(folder, labels=False)
    with zipfile.ZipFile(folder.path) as file:
        assert file.read("dataset.json") == b'{"labels": null}\n'


def test_a_finished_zip_is_recognised(tmp_path: Path) -> None:
    made: list[int] = []
    path = tmp_path / "out.zip"
    first = run(path, made)
    assert run(path, made) == first
    assert made == [0, 1, 2, 3]
    assert folder_at(path).find()
    assert folder_at(path, batch=5, size=4).find()  # the same images, as far as recipe and seeds say
    assert folder_at(path).find() == path
    assert not folder_at(tmp_path / "other.zip").find()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.zip"]


def test_a_linked_output_file_stays_a_link(tmp_path: Path, undisturbed: bytes) -> None:
    (tmp_path / "scratch").mkdir()
    link = tmp_path / "out.zip"
    link.symlink_to(tmp_path / "scratch" / "real.zip")
    assert run(link) == undisturbed
    assert link.is_symlink()
    assert [p.name for p in (tmp_path / "scratch").iterdir()] == ["real.zip"]


# Another run in the same place.


def test_another_run_is_refused_with_the_differences(tmp_path: Path) -> None:
    path = tmp_path / "out.zip"
    folder = folder_at(path)
    folder.work.open()
    make(folder, 0)
    before = {p.name: p.read_bytes() for p in folder.work.folder.iterdir()}
    stronger = {**RECIPE, "guides": [{"weight": 2.0, "steps": [3, 10]}]}
    cases = {
        r"recipe\.guides\.0\.steps: \[3, 9\] \| \[3, 10\]\n  recipe\.guides\.0\.weight: 1\.5 \| 2\.0$": {
            "recipe": stronger,
            "recipe_hash": "beef",
        },
        r"now:\n  recipe\.guides\.0\.\w+: .*\n  recipe\.guides\.0\.weight: 1\.5 \| \(none\)$": {
            "recipe": {**RECIPE, "guides": [], "class": None},
            "recipe_hash": "beef",
        },
        r"recipe_hash: c0ffee \| beef$": {"recipe_hash": "beef"},
        r"batch: 2 \| 4$": {"batch": 4},
        r"shard_size: 3 \| 4$": {"size": 4},
        r"num_images: 10 \| 2\n  seeds: 4-7,0-2,9,8,30 \| 0-1$": {"seeds": (0, 1)},
    }
    for message, changes in cases.items():
        other = folder_at(path, **changes)
        for step in (other.find, other.work.open):
            with pytest.raises(ValueError, match=message) as caught:
                step()
            assert "out.zip.shards belongs to another run" in str(caught.value)
    assert {p.name: p.read_bytes() for p in folder.work.folder.iterdir()} == before
    assert not path.exists()


def test_another_finished_zip_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.zip"
    before = run(path)
    other = folder_at(path, seeds=(0, 1))
    for step in (other.find, lambda: completed(other)):
        with pytest.raises(ValueError, match=r"seeds: 4-7,0-2,9,8,30 \| 0-1"):
            step()
    with ZipWriter(tmp_path / "foreign.zip") as file:
        file.add("000000.png", b"")
    with pytest.raises(ValueError, match=r"foreign\.zip exists and holds no recipe\.json"):
        folder_at(tmp_path / "foreign.zip").find()
    (tmp_path / "text.zip").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"text\.zip is not a ZIP file"):
        folder_at(tmp_path / "text.zip").find()
    (tmp_path / "folder.zip").mkdir()
    with pytest.raises(ValueError, match=r"folder\.zip is a folder"):
        folder_at(tmp_path / "folder.zip").find()
    path.write_bytes(before[:-10])
    with pytest.raises(ValueError, match="truncated"):
        folder_at(path).find()


def test_a_network_file_may_be_called_otherwise(tmp_path: Path, undisturbed: bytes) -> None:
    """Equal recipe hashes mean equal images; the ZIP tells the first name, on whichever run it is finished."""
    path = tmp_path / "out.zip"
    folder = folder_at(path)
    folder.work.open()
    make(folder, 0)
    moved = folder_at(path, recipe={**RECIPE, "net": {"source": "copy-of-main", "sha256": "ab" * 32}})
    assert missing(moved) == [1, 2, 3]
    assert completed(moved).read_bytes() == undisturbed
    assert moved.find()
    with pytest.raises(ValueError, match=r"asked for now:\n  num_images: 10 \| 1\n  seeds: .* \| 0\n  batches"):
        folder_at(path, seeds=(0,), recipe={**RECIPE, "net": {}}).find()


def test_of_two_runs_that_start_together_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.zip"
    folder_at(path).work.open()
    plan = (tmp_path / "out.zip.shards" / "plan.json").read_bytes()
    late = folder_at(path, recipe_hash="beef")
    monkeypatch.setattr(Path, "exists", lambda path: False)  # as if both had looked before either wrote
    with pytest.raises(ValueError, match="recipe_hash: c0ffee"):
        late.work.open()
    monkeypatch.undo()
    assert (tmp_path / "out.zip.shards" / "plan.json").read_bytes() == plan


def test_only_what_differs_is_told() -> None:
    """Neither what is not there beside null, nor the hash of a file that has another name as well."""
    net = {"source": "a", "sha256": "ab"}
    a = {"recipe": {"net": net, "guides": []}, "recipe_hash": "c0ffee"}
    b = {"recipe": {"net": net, "guides": [{"net": net, "steps": None}]}, "recipe_hash": "beef"}
    assert identity.differences(a, b) == ["recipe.guides.0.net.source: (none) | a"]
    c = {"recipe": {"net": {**net, "sha256": "cd"}, "guides": []}, "recipe_hash": "beef"}
    assert identity.differences(a, c) == ["recipe.net.sha256: ab | cd"]


def test_long_values_that_differ_look_different() -> None:
    a, b = {"seeds": "0," * 100}, {"seeds": "0," * 100 + "1"}
    (line,) = identity.differences(a, b)
    assert len(line) < 130
    assert line.split(" | ")[0] != "seeds: " + line.split(" | ")[1]
    many = identity.differences({str(i): 0 for i in range(20)}, {str(i): 1 for i in range(20)})
    assert (len(many), many[-1]) == (7, "... and 14 more")


def test_what_is_synced_was_opened_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows knows no other: there, os.fsync of what was opened for reading alone is an error."""
    fcntl = pytest.importorskip("fcntl")
    plain = os.fsync

    def as_windows(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", as_windows)
    run(tmp_path / "out.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["out.zip"]


def test_an_unreadable_plan(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "out.zip")
    folder.work.open()
    for text in ("", "{", "[]"):
        (folder.work.folder / "plan.json").write_text(text)
        with pytest.raises(ValueError, match=r"plan\.json (is not valid JSON|holds a list).*: move"):
            folder_at(tmp_path / "out.zip").work.open()


# Shards as sinks.


def test_a_shard_takes_its_seeds_in_order(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "out.zip")
    folder.work.open()
    for seeds, message in [((5, 4), "are 4-5, but 5,4 came"), ((4, 5, 6, 7), "are 4-6, but 4-7 came")]:
        with pytest.raises(ValueError, match=message):
            drain(Generated(seeds, 9), folder.work.sink(0))
    with pytest.raises(RuntimeError, match="got 2 of its 3 images"):
        drain(Generated((4, 5), 1), folder.work.sink(0))
    with pytest.raises(ValueError, match="without seeds"), folder.work.sink(0) as sink:
        sink.write(ImageBatch(pixels(0)[None]))
    for first, second in (((1,), None), (None, (1,))):
        with folder.work.sink(0) as sink:
            sink.write(ImageBatch(pixels(4)[None], (4,), first))
            with pytest.raises(ValueError, match="some have none"):
                sink.write(ImageBatch(pixels(5)[None], (5,), second))
            for batch in Generated((5, 6), 9, labels=first is not None):
                sink.write(batch)
    with pytest.raises(ValueError, match="shard 4 of 4"), folder.work.sink(4):
        pass
    found = sorted(p.name for p in folder.work.folder.iterdir())
    assert found == ["plan.json", "shard-00000.zip", "worker-0-of-1.0.claim"]
    assert missing(folder) == [1, 2, 3]


def test_batches_of_any_size_make_the_same_shard(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "out.zip", size=10)
    folder.work.open()
    contents = []
    for batch in (1, 3, 10):
        drain(Generated(SEEDS, batch), folder.work.sink(0))
        contents.append(folder.work.path(0).read_bytes())
    assert contents[0] == contents[1] == contents[2]


def test_few_images_wait_to_be_stored(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "out.zip", seeds=tuple(range(60)), size=60)
    folder.work.open()
    with folder.work.sink(0) as sink:
        for batch in Generated(folder.work.plan.seeds, 4):
            sink.write(batch)
            assert len(sink._collectors[0]._pool) <= 4


def test_joining_before_the_end_says_what_is_missing(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "out.zip")
    folder.work.open()
    make(folder, 1)
    with pytest.warns(RuntimeWarning), pytest.raises(ShardsMissing, match="made again: 0,2-3") as caught:
        folder.join()
    assert caught.value.indices == [0, 2, 3]
    for index in (0, 2):
        make(folder, index)
    make(folder, 3, labels=False)
    with pytest.raises(ValueError, match="some have none: move it away"):
        completed(folder)
    assert not folder.path.exists()
    assert list(tmp_path.glob("*.tmp")) == []


# Damage.


def flip(data: bytes) -> bytes:
    where = data.index(b"IDAT") + 20
    return data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "bit flip in an image": flip,
    "truncated": lambda data: data[:-40],
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "no zip": lambda data: b"hello" * 100,
    "label changed": lambda data: data.replace(b'"labels": [4', b'"labels": [3'),
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("kind", sorted(DAMAGE))
def test_damaged_shards_are_made_again(tmp_path: Path, undisturbed: bytes, kind: str) -> None:
    path = tmp_path / "out.zip"
    folder = folder_at(path)
    folder.work.open()
    for index in range(4):
        make(folder, index)
    for index in (0, 2):
        data = folder.work.path(index).read_bytes()
        if index == 0 or kind != "label changed":
            assert DAMAGE[kind](data) != data
        folder.work.path(index).write_bytes(DAMAGE[kind](data))
    made: list[int] = []
    with pytest.warns(RuntimeWarning, match="shard [02] is unusable and will be made again"):
        assert run(path, made) == undisturbed
    assert made == ([0] if kind == "label changed" else [0, 2])


def test_shards_of_other_places_are_not_taken(tmp_path: Path, undisturbed: bytes) -> None:
    """Neither a shard of this plan under another number, nor one of another recipe with the same names."""
    path = tmp_path / "out.zip"
    folder, other = folder_at(path), folder_at(tmp_path / "other.zip", recipe_hash="beef")
    for place in (folder, other):
        place.work.open()
    make(other, 0)
    make(folder, 1)
    folder.work.path(1).rename(folder.work.path(2))
    other.work.path(0).rename(folder.work.path(0))
    with pytest.warns(RuntimeWarning, match=r"belongs to another run|does not hold the images"):
        assert missing(folder) == [0, 1, 2, 3]
    assert run(path) == undisturbed


def test_a_disk_that_keeps_damaging_ends_in_an_error(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "out.zip")

    def damage(index: int) -> None:
        if index == 2:
            folder.work.path(2).write_bytes(flip(folder.work.path(2).read_bytes()))

    with pytest.warns(RuntimeWarning), pytest.raises(ShardsMissing, match="must be made again: 2"):
        completed(folder, damage)
    assert not folder.path.exists()


@pytest.mark.parametrize("where", ["shard", "merge"])
def test_a_full_disk_leaves_nothing_half_made(
    tmp_path: Path, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "out.zip"
    original = ZipWriter.add

    def full(writer: ZipWriter, name: str, data: bytes) -> None:
        if name == "000001.png" and ("shard" in writer.path.name) == (where == "shard"):
            raise OSError(28, "No space left on device")
        original(writer, name, data)

    monkeypatch.setattr(ZipWriter, "add", full)
    with pytest.raises(OSError, match="No space left"):
        run(path)
    monkeypatch.undo()
    assert not path.exists()
    assert list(tmp_path.rglob("*.tmp")) == []
    made: list[int] = []
    assert run(path, made) == undisturbed
    assert made == ([1, 2, 3] if where == "shard" else [])


# Kills.

FEW: dict[str, Any] = {"seeds": (2, 0, 1), "size": 2}  # two shards: one run for every step adds up


def run_and_die(path: Path, monkeypatch: pytest.MonkeyPatch, at: int, after: bool) -> bool:
    """Run in a child that SIGKILLs itself at its call number `at` to the file system. False: it got to the end."""
    pid = os.fork()
    if pid == 0:
        calls = 0

        def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                now = calls == at  # the calls inside this one count on
                if now and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    return function(*args, **kwargs)
                finally:
                    if now and after:
                        os.kill(os.getpid(), signal.SIGKILL)

            return call

        try:
            for name in ("replace", "link", "unlink", "rmdir", "mkdir", "fsync"):
                setattr(os, name, deadly(getattr(os, name)))
            for name in ("add", "__enter__", "__exit__"):
                setattr(ZipWriter, name, deadly(getattr(ZipWriter, name)))
            run(path, **FEW)
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


@pytest.mark.parametrize(
    ("after", "stride"),
    [pytest.param(False, 1, marks=pytest.mark.slow), pytest.param(True, 1, marks=pytest.mark.slow), (True, 3)],
)
def test_killed_at_every_single_step_it_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool, stride: int
) -> None:
    """One run per file-system call: killed there, run again, compared; nothing is left over."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # a kill of the process loses no written byte
    undisturbed = run(tmp_path / "out.zip", **FEW)
    at = 1
    while True:
        path = tmp_path / str(at) / "out.zip"
        path.parent.mkdir()
        if not run_and_die(path, monkeypatch, at, after):
            break
        if path.exists():
            assert path.read_bytes() == undisturbed
        done = sum(1 for _ in path.parent.glob("out.zip.shards/shard-*.zip"))
        merged = path.exists()
        made: list[int] = []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert run(path, made, **FEW) == undisturbed
        assert len(made) == (0 if merged else 2 - done)
        assert [p.name for p in path.parent.iterdir()] == ["out.zip"]
        at += stride
    assert at > 30


def test_temporaries_of_dead_runs_are_removed_and_of_living_ones_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.zip"
    folder = folder_at(path)
    folder.work.open()
    host = claims._host()
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    dead = [
        folder.work.folder / f"shard-00001.zip.{host}.{child.pid}.0123abcd0123abcd.tmp",
        folder.work.folder / f"shard-00001.zip.{host}.{os.getpid()}.0123abcd0123abcd.tmp",
        tmp_path / f"out.zip.{host}.{child.pid}.0123abcd0123abcd.tmp",
    ]
    kept = [
        folder.work.folder / f"shard-00001.zip.{host}.{os.getpid()}.{claims._PROCESS}0123abcd.tmp",
        folder.work.folder / f"shard-00001.zip.{host}.{os.getppid()}.0123abcd0123abcd.tmp",
        folder.work.folder / f"shard-00001.zip.another-{host}.{child.pid}.0123abcd0123abcd.tmp",
        tmp_path / f"other.zip.{host}.{child.pid}.0123abcd0123abcd.tmp",
        tmp_path / "out.zip.tmp",
    ]
    for temporary in dead + kept:
        temporary.write_bytes(b"x")
    folder_at(path).work.open()
    assert [p.exists() for p in dead + kept] == [False] * len(dead) + [True] * len(kept)
    completed(folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["out.zip", kept[3].name])


def test_files_of_others_in_the_folder_are_not_removed(tmp_path: Path, undisturbed: bytes) -> None:
    path = tmp_path / "out.zip"
    folder = folder_at(path)
    folder.work.open()
    (folder.work.folder / "notes.txt").write_text("mine")
    with pytest.warns(RuntimeWarning, match=r"out\.zip\.shards is kept"):
        assert run(path) == undisturbed
    assert [p.name for p in folder.work.folder.iterdir()] == ["notes.txt"]


def test_two_processes_are_never_the_same_worker(tmp_path: Path) -> None:
    """The second is refused before it makes anything, and told who is at it; the first goes on undisturbed."""
    path = tmp_path / "again.zip"
    with held(folder_at(path).work.folder, "worker-0-of-1") as other:
        with pytest.raises(ValueError, match=rf"another process .*{other}.* is this worker already.*--steal"):
            completed(folder_at(path))
        for workers in (Workers(job=0, jobs=2), Workers(steal=True)):
            folder_at(path, workers=workers).work.open()
    assert completed(folder_at(path)) == path  # now that it is gone, this process takes over
    assert [p.name for p in tmp_path.iterdir()] == ["again.zip"]


def test_two_processes_share_a_device_if_asked_only(tmp_path: Path) -> None:
    path = tmp_path / "out.zip"
    with held(folder_at(path).work.folder, "device-cuda-GPU-1") as other:
        second = folder_at(path, workers=Workers(job=1, jobs=2), device="cuda-GPU-1")
        with pytest.raises(ValueError, match=rf"{other}.* computes on this device already.*--share-device"):
            second.work.open()
        assert not list(second.work.folder.glob("worker-*"))
        folder_at(path, workers=Workers(job=1, jobs=2), device="cuda-GPU-2").work.open()
        folder_at(path, workers=Workers(job=1, jobs=2, share_device=True), device="cuda-GPU-1").work.open()


def test_who_steals_does_what_others_left(tmp_path: Path, undisturbed: bytes) -> None:
    """Shards of a worker that died, and none of a worker that lives: that one is waited for."""
    path = tmp_path / "out.zip"
    folder = folder_at(path, workers=Workers(steal=True))
    made: list[int] = []
    counts: list[int] = []
    left(folder.work.folder, "shard-00002")

    def after(index: int) -> None:
        made.append(index)
        if index == 3:
            make(folder_at(path), 1)  # as the other process would

    with held(folder.work.folder, "shard-00001"):
        assert completed(folder, after, progress=lambda total, done: nullcontext(counts.append)) == path
    assert (made, list(filter(None, counts))) == (
        [0, 2, 3],
        [2, 1, 2, 1, 1, 3],
    )  # in batches, and the shard of the other at once
    assert path.read_bytes() == undisturbed


def finish(path: Path) -> None:
    """What is left of the work, as other processes do it."""
    other = folder_at(path)
    for index in missing(other):
        make(other, index)
    other.join()
    other.work.remove()


def test_who_waits_for_others_sees_that_all_is_done(
    tmp_path: Path, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.zip"
    folder = folder_at(path, workers=Workers(steal=True))
    folder.work.open()
    (folder.work.folder / "shard-00001.0.claim").write_text(ELSEWHERE)
    plain = time.sleep

    def sleep(seconds: float) -> None:
        """Shard 3 is being finished here; once it is, another process has finished everything."""
        if list(folder.work.folder.glob("shard-00003.*.claim")):
            plain(0.001)
        else:
            finish(path)

    monkeypatch.setattr(time, "sleep", sleep)
    assert completed(folder) == path
    assert path.read_bytes() == undisturbed
    assert [p.name for p in tmp_path.iterdir()] == ["out.zip"]


def test_who_comes_late_finds_the_work_done(tmp_path: Path, undisturbed: bytes) -> None:
    """A process was stopped for so long that others took its shard, and finished everything."""
    path = tmp_path / "out.zip"
    late = folder_at(path, workers=Workers(steal=True))

    def source_of(seeds: tuple[int, ...]) -> Iterator[ImageBatch]:
        if not path.exists():
            finish(path)
        return Generated(seeds, 2)

    assert complete(late, source_of) == path
    assert path.read_bytes() == undisturbed
    assert [p.name for p in tmp_path.iterdir()] == ["out.zip"]


@pytest.mark.parametrize("how", ["unlink", "truncate"])
def test_a_shard_that_is_lost_while_others_are_made_is_made_again(tmp_path: Path, undisturbed: bytes, how: str) -> None:
    path = tmp_path / "out.zip"
    folder = folder_at(path)
    made: list[int] = []

    def after(index: int) -> None:
        made.append(index)
        if made == [0, 1, 2]:
            first = folder.work.path(0)
            first.unlink() if how == "unlink" else first.write_bytes(first.read_bytes()[:50])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert completed(folder, after) == path
    assert made == [0, 1, 2, 3, 0]
    assert path.read_bytes() == undisturbed


def test_a_folder_that_is_removed_by_somebody_is_an_error(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "out.zip")

    def after(index: int) -> None:
        if index == 1:  # shard 2 is begun by now, and 3 is not
            (folder.work.folder / "plan.json").unlink()

    with pytest.raises(RuntimeError, match="was removed while work was going on"):
        completed(folder, after)


def test_who_opens_while_others_remove_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, other = folder_at(tmp_path / "out.zip"), folder_at(tmp_path / "out.zip")
    other.work.open()
    plain, calls = protocol._take_places, []

    def join(path: Path, *args: Any) -> Any:
        calls.append(path)
        if len(calls) == 1:
            other.work.remove()
        return plain(path, *args)

    monkeypatch.setattr(protocol, "_take_places", join)
    folder.work.open()
    assert len(calls) == 2
    completed(folder)
    assert folder.path.exists()


def test_what_finished_work_left_is_swept_unless_somebody_is_at_it(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "out.zip")
    folder.work.open()
    make(folder, 0)
    claim = folder.work.folder / "shard-00001.0.claim"
    claim.write_text(ELSEWHERE)
    folder.work.sweep()
    assert missing(folder) == [1, 2, 3]
    folder_at(tmp_path / "out.zip", recipe_hash="beef").work.sweep()
    claim.unlink()
    assert missing(folder) == [1, 2, 3]
    folder.work.sweep()
    assert not folder.work.folder.exists()
    folder.work.sweep()


def test_why_a_shard_failed_is_kept_until_it_is_made(tmp_path: Path, undisturbed: bytes) -> None:
    path = tmp_path / "out.zip"
    folder = folder_at(path)

    def fail(seeds: tuple[int, ...]) -> Iterator[ImageBatch]:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        complete(folder, fail)
    failed = folder.work.folder / "shard-00000.failed"
    assert json.loads(failed.read_text()) == {"owner": owner(), "error": "RuntimeError: no memory"}
    assert not list(folder.work.folder.glob("*.claim"))
    lost = folder_at(path)
    with pytest.raises(RuntimeError, match="was not made, or was gone at once"):
        completed(lost, lambda index: lost.work.path(index).unlink())
    assert run(path) == undisturbed


def test_another_number_of_threads_is_refused_and_told_how_to_go_on(tmp_path: Path) -> None:
    def opened(name: str, threads: int | None = None) -> None:
        folder_at(tmp_path / name, seeds=(0, 1, 2, 3), size=2, batch=1, threads=threads).work.open()

    opened("a.zip", threads=1)
    with pytest.raises(ValueError, match=r"OMP_NUM_THREADS=1 in the environment with --batch=1.*\n  threads: 1 \| 2"):
        opened("a.zip", threads=2)
    opened("b.zip")  # of a version that did not write them down
    with pytest.raises(ValueError, match="run: give another name"):
        opened("b.zip", threads=2)


def test_another_precision_is_another_work_and_stands_in_the_zip(tmp_path: Path) -> None:
    folder_at(tmp_path / "a.zip", precision="float16").work.open()
    with pytest.raises(ValueError, match=r"(?s)a\.zip\.shards belongs to another run.*float16 \| bfloat16"):
        folder_at(tmp_path / "a.zip", precision="bfloat16").find()
    run(tmp_path / "half.zip", precision="float16")
    run(tmp_path / "full.zip")
    stored = [read_recipe(tmp_path / f"{name}.zip") or {} for name in ("half", "full")]
    assert [recipe.get("precision") for recipe in stored] == ["float16", None]


def test_a_plan_that_does_not_say_its_precision_goes_on(tmp_path: Path) -> None:
    """As the version before wrote them, for networks that compute in float16 too."""
    path, made = tmp_path / "a.zip", list[int]()
    folder = folder_at(path)
    folder.work.open()
    make(folder, 0)
    folder.work.close()
    run(path, made, precision="float16")
    assert made == [1, 2, 3]


def test_another_batch_is_told_how_to_go_on(tmp_path: Path) -> None:
    def opened(**changes: Any) -> None:
        folder_at(tmp_path / "out.zip", **{"seeds": (0, 1, 2, 3), "size": 2, "batch": 1, **changes}).work.open()

    opened()
    with pytest.raises(ValueError, match="--batch=1 --shard-size=2 goes on with it"):
        opened(size=4, batch=2)
    with pytest.raises(ValueError, match="run: give another name"):
        opened(recipe_hash="another")
    path = tmp_path / "out.zip.shards" / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "batch": "x" * 100_000}))  # of a damaged disk, say
    with pytest.raises(ValueError, match="--batch=xxx") as caught:
        opened()
    assert len(str(caught.value)) < 1000
