"""What coordination costs: linear in shards and workers, and no look at the whole folder per shard."""

import os
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from benchmarks.coordination import LAYOUTS, counted, simulate
from dnnlib.workers import Workers
from edm2_guidance.work import complete as protocol
from edm2_guidance.work import lease as claims
from edm2_guidance.work import shards as shard_files
from edm2_guidance.work.complete import Run, complete
from edm2_guidance.work.lease import Lease
from edm2_guidance.work.plan import ShardPlan
from edm2_guidance.work.png_output import PngOutput
from edm2_guidance.work.zip_output import ZipOutput
from tests.works import ELSEWHERE, Generated, Stated, left

PER_SHARD = 40  # file operations, its part of joining included
PER_WORKER = 150  # with what those that steal ask while they wait for the last shards
LISTINGS = 12  # per worker: at its beginning, at its end, and where workers that steal meet


@pytest.mark.filterwarnings("ignore:waiting for a sign of life")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_shard_costs_the_same_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """Once, each worker looked into each shard of all others, and listed the folder three times per shard."""
    monkeypatch.setattr(protocol, "_TURN_SECONDS", 0.05)
    monkeypatch.setitem(Lease.acquire.__kwdefaults__, "poll_seconds", 0.05)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for workers, shards in ((2, 12), (2, 48), (8, 48)):
        folder = tmp_path / f"{workers}-{shards}"
        folder.mkdir()
        places = [LAYOUTS[layout](number, workers) for number in range(workers)]
        with counted(folder) as counts:
            simulate(folder, ShardPlan(tuple(range(shards)), 1), places, seconds=0.002)
        assert 10 * shards < counts.total() < PER_SHARD * shards + PER_WORKER * workers, counts
        assert counts["list"] <= LISTINGS * workers, counts


def output(path: Path, **place: Any) -> ZipOutput:
    return ZipOutput(path, ShardPlan(tuple(range(8)), 2), Stated("c0ffee"), Run(2, workers=Workers(**place)))


def test_a_shard_that_another_damaged_is_found_by_whoever_joins(tmp_path: Path) -> None:
    made = []

    def source_of(seeds: tuple[int, ...]) -> Generated:
        made.append(seeds[0])
        return Generated(seeds)

    path = tmp_path / "out.zip"
    assert complete(output(path, job=0, jobs=2), source_of) != path
    broken = output(path).work.path(2)
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.warns(RuntimeWarning, match="shard 2 is unusable and will be made again"):
        assert complete(output(path, job=1, jobs=2), source_of) == path
    assert made == [0, 4, 2, 6, 4]
    assert complete(output(tmp_path / "alone.zip"), Generated) == tmp_path / "alone.zip"
    assert path.read_bytes() == (tmp_path / "alone.zip").read_bytes()


def test_own_shards_are_looked_into_once_those_of_others_not_at_all(tmp_path: Path) -> None:
    work = output(tmp_path / "out.zip", job=1, jobs=2, steal=True).work
    complete(output(tmp_path / "out.zip", job=0, jobs=2), Generated)
    complete(output(tmp_path / "out.zip", job=1, jobs=4), Generated)
    with patch.object(shard_files, "open_zip", wraps=shard_files.open_zip) as opened:
        for _ in range(3):
            assert work.missing() == [3]
    assert [call.args[0].name for call in opened.call_args_list] == ["shard-00001.zip"]


def test_a_listing_that_lags_behind_keeps_nobody_from_joining(tmp_path: Path) -> None:
    """A network file system may show a folder as it was a minute ago; that a file is there is asked once more."""
    complete(output(tmp_path / "out.zip", job=0, jobs=2), Generated)
    last = output(tmp_path / "out.zip", job=1, jobs=2)
    with patch.object(last.work, "listed", lambda: (set(), set())):
        assert complete(last, Generated) == tmp_path / "out.zip"


def test_a_lease_is_seen_where_that_before_it_is_gone(tmp_path: Path) -> None:
    """Its owner was given up on, and released it all the same."""
    (tmp_path / "join.1.claim").write_text(ELSEWHERE)
    assert not Lease(tmp_path, "join").acquire()
    assert Lease(tmp_path, "join").holder() == ELSEWHERE


def test_leases_of_the_dead_stay_below_those_of_the_living(tmp_path: Path) -> None:
    for name in ("join", "shard-00001"):
        left(tmp_path, name)
    (tmp_path / "join.1.claim").write_text(ELSEWHERE)
    claims.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["join.0.claim", "join.1.claim"]


@pytest.mark.parametrize("steal", [False, True])
def test_an_image_that_was_cut_off_is_made_again(tmp_path: Path, steal: bool) -> None:
    """Nobody joins images, so whoever may make one looks into it."""

    def made() -> Any:
        images = PngOutput(tmp_path, range(6), Run(2, workers=Workers(steal=steal)))
        images.check()
        images.state(Stated("c0ffee"))
        assert complete(images, Generated) == 6
        return images.num_written

    assert made() == 6
    image = tmp_path / "000003.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:-5])
    assert (made(), image.read_bytes(), made()) == (1, whole, 0)


def test_who_waits_asks_less_and_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept, plain = list[float](), time.sleep
    work = output(tmp_path / "out.zip", steal=True).work
    work.open()
    for part in work.order:
        (work.folder / f"{work.name(part)}.0.claim").write_text(ELSEWHERE)

    def sleep(seconds: float) -> None:
        if threading.current_thread() is not threading.main_thread():
            plain(seconds)  # the thread that touches leases
            return
        slept.append(seconds)
        if len(slept) == 6:
            work.remove()

    monkeypatch.setattr("time.sleep", sleep)
    assert list(protocol._turns(work, work.order, lambda count: None)) == []
    assert [seconds / slept[0] for seconds in slept] == [1, 2, 4, 4, 4, 4]
