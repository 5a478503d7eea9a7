import json
import os
import zipfile
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edm2_guidance.cli.status_text import duration
from edm2_guidance.commands import reproduce
from edm2_guidance.images.batch import ImageBatch
from edm2_guidance.images.zips import ZipWriter
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.work import lease as claims
from edm2_guidance.work.complete import Run
from edm2_guidance.work.plan import ShardPlan, format_seeds, seed_runs
from edm2_guidance.work.shards import ShardFolder
from edm2_guidance.work.status import _pace, find_work
from edm2_guidance.work.zip_output import ZipOutput
from tests.works import ELSEWHERE, Stated, left


@pytest.fixture
def folder(tmp_path):
    """Work on 25 images in shards of 10, of which two are there, made in 12 s in all."""
    work = ZipOutput(tmp_path / "a.zip", ShardPlan(tuple(range(25)), 10), Stated("hash"), Run(5)).work
    work.open()
    for index, seconds in ((0, 8.0), (2, 4.0)):
        put_shard(work, index, seconds)
    return work


def put_shard(work, index, seconds):
    with ZipWriter(work.path(index)) as file:
        file.add("shard.json", json.dumps({"seconds": seconds}).encode())


def status(path, *args):
    result = CliRunner().invoke(reproduce.main, ["status", str(path), *args])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_who_is_at_it_and_what_went_wrong(folder, tmp_path):
    at = folder.folder
    (at / "shard-00001.0.claim").write_text("elsewhere.17.0123abcd 4711:0")
    (at / "shard-00001.failed").write_text(json.dumps({"owner": "x", "error": "RuntimeError: no memory"}))
    left(at, "shard-00003")
    (work,) = find_work(tmp_path)
    assert (work.path, work.total, work.done) == (at, 25, 15)
    assert [(name, who) for name, who, _ in work.running] == [("shard-00001", ELSEWHERE)]
    assert [name for name, _, _ in work.stale] == ["shard-00003"]
    assert work.failed == [("shard-00001", "RuntimeError: no memory")]
    assert work.pace == 15 / 12
    assert work.seconds_left == 10 / (15 / 12)
    text = status(tmp_path)
    assert f"{at}: 15 of 25 images (60.0 %); 1 running, 1 stale, 1 failed, 1.25 images/s, 8 s left\n" in text
    assert "shard-00001       running  elsewhere.17.0123abcd, heard of 0 s ago\n" in text
    assert "shard-00001       failed   RuntimeError: no memory\n" in text
    (record,) = json.loads(status(at, "--format=json"))
    assert record["seconds_left"] == 8
    assert record["running"][0][0] == "shard-00001"
    assert sorted(p.name for p in at.glob("*.tmp")) == []


def test_a_silent_machine_is_stale(folder, tmp_path):
    path = folder.folder / "shard-00001.0.claim"
    path.write_text(ELSEWHERE)
    then = path.stat().st_mtime - claims.STALE_SECONDS - 1
    os.utime(path, (then, then))
    (work,) = find_work(tmp_path)
    assert ([name for name, _, _ in work.stale], work.running, work.seconds_left) == (["shard-00001"], [], None)


def test_the_pace_is_that_of_all_who_work(folder, tmp_path):
    """Workers that began together end together: when shards were finished says little of the pace."""
    for number in (1, 5, 6):
        (folder.folder / f"shard-0000{number}.0.claim").write_text(ELSEWHERE)
    put_shard(folder, 3, 0)  # nonsense, as is what cannot be read, counts nothing
    folder.path(4).write_bytes(b"PK")
    (work,) = find_work(tmp_path)
    assert work.pace == 3 * 15 / 12


def test_the_pace_without_workers_is_none(folder, tmp_path):
    (work,) = find_work(tmp_path)
    assert (work.pace, work.seconds_left) == (None, None)


def test_shards_say_how_long_they_took(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "edm2_guidance.work.shards.time", SimpleNamespace(monotonic=iter([100.0, 101.0, 107.25]).__next__)
    )
    work = ZipOutput(tmp_path / "a.zip", ShardPlan((0,), 1), Stated("hash"), Run(5)).work
    work.open()
    with work.making(0), work.sink(0) as writer:
        writer.write(ImageBatch(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), (0,)))
    with zipfile.ZipFile(work.path(0)) as file:
        assert json.loads(file.read("shard.json"))["seconds"] == 7.25


def test_a_shard_that_takes_long_counts_from_its_first_batch_on(tmp_path, monkeypatch):
    times = iter([100.0, 104.0, 105.0, 116.0, 120.0, 120.0])
    monkeypatch.setattr("edm2_guidance.work.shards.time", SimpleNamespace(monotonic=times.__next__))
    work = ZipOutput(tmp_path / "a.zip", ShardPlan(tuple(range(8)), 4), Stated("hash"), Run(1)).work
    work.open()
    (work.folder / "shard-00000.0.claim").write_text(ELSEWHERE)
    with work.making(0), work.sink(0) as writer:
        for seed, (done, pace) in enumerate([(1, 1 / 4), (1, 1 / 4), (3, 3 / 16), (4, 4 / 20)]):
            writer.write(ImageBatch(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), (seed,)))
            (found,) = find_work(tmp_path)
            assert (found.done, found.pace) == (done, pace), "the second came too soon to be written down"
    (found,) = find_work(tmp_path)
    assert (found.done, list(work.folder.glob("*.begun"))) == (4, [])
    (work.folder / "shard-00001.begun").write_text('{"images": 3, "seconds": 1}')  # of a process that was killed
    assert next(find_work(tmp_path)).done == 4
    (work.folder / "shard-00001.0.claim").write_text(ELSEWHERE)
    assert next(find_work(tmp_path)).done == 7
    for damaged in ('{"images": 3', '{"images": 5, "seconds": 1}', '{"images": 2, "seconds": 0}', "[]"):
        (work.folder / "shard-00001.begun").write_text(damaged)
        assert next(find_work(tmp_path)).done == 4
    work.remove()
    assert not work.folder.exists()


def test_what_is_made_is_said(tmp_path):
    (tmp_path / "w").mkdir()
    recipe = Recipe(NetworkRef("main.pkl"), (Guide(NetworkRef("weak.pkl"), constant(2)),)).to_json()
    plan = {"num_images": 20, "shard_size": 10, "seeds": "0-19", "recipe": recipe, "title": "my-row"}
    (tmp_path / "w" / "plan.json").write_text(json.dumps(plan))
    assert "\n    my-row, main + weak w=2, seeds 0-19\n" in status(tmp_path)
    (record,) = json.loads(status(tmp_path, "--format=json"))
    assert (record["title"], record["seeds"], record["recipe"]["num_steps"]) == ("my-row", "0-19", 32)
    for key, value in {"title": 3, "seeds": "x", "recipe": [1]}.items():
        (tmp_path / "w" / "plan.json").write_text(json.dumps({**plan, key: value}))
        assert "w: 0 of 20 images" in status(tmp_path)


def test_the_title_is_in_the_plan_and_changes_nothing(tmp_path):
    made = [ShardFolder(tmp_path / "w", ShardPlan((0, 1), 1), Stated("hash"), Run(1), [], title=text) for text in "ab"]
    for work in made:
        work.open()
        work.close()
    assert json.loads((tmp_path / "w" / "plan.json").read_text())["title"] == "a"
    assert made[0]._plan_id == made[1]._plan_id


def test_a_join_that_was_cut_off_is_told(folder, tmp_path):
    put_shard(folder, 1, 4.0)
    assert "25 of 25 images (100.0 %); 0 running, 0 stale, 0 failed, the same command, run again, joins them" in status(
        tmp_path
    )
    left(folder.folder, "join")
    text = status(tmp_path)
    assert "1 stale, 0 failed, the same command, run again, joins them" in text
    assert "join" in text.splitlines()[2]
    (folder.folder / "join.0.claim").write_text(ELSEWHERE)
    assert "being joined by elsewhere" in status(tmp_path)


def test_a_folder_of_images(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.json").write_text(json.dumps({"recipe_hash": "a", "asked": "7,0-3"}))
    for seed in range(3):
        (tmp_path / "out" / f"{seed:06d}.png").write_bytes(b"")
    (tmp_path / "out" / "worker-1-of-2.0.claim").write_text(ELSEWHERE)
    (tmp_path / "out" / "000019.png").write_bytes(b"")  # of another run
    assert "out: 3 of 5 images (60.0 %); 1 running" in status(tmp_path)
    left(tmp_path / "out", "batch-00001")
    assert "1 running, 1 stale" in status(tmp_path)
    for seed in (3, 7):
        (tmp_path / "out" / f"{seed:06d}.png").write_bytes(b"")
    assert "out: 5 of 5 images (100.0 %); 1 running, 0 stale" in status(tmp_path)


def test_of_many_images_the_times_of_some_tell_the_pace(tmp_path, monkeypatch):
    monkeypatch.setattr("edm2_guidance.work.status._TIMED_IMAGES", 50)
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe_hash": "a", "asked": "0-999"}))
    (tmp_path / "worker-0-of-1.0.claim").write_text(ELSEWHERE)
    for seed in range(500):  # 4 per second
        path = tmp_path / "000000" / f"{seed:06d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        os.utime(path, (1e9 + seed / 4, 1e9 + seed / 4))
    (found,) = find_work(tmp_path)
    assert (found.done, found.total) == (500, 1000)
    assert found.pace == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize(
    ("bursts", "pace"),
    [([0.0], 32 / 100), ([600.0], None), ([0.0, 20.0, 40.0], 64 / 40), ([-9000.0, -8980.0, 0.0, 20.0], 32 / 20)],
)
def test_the_pace_of_images_that_come_in_batches(bursts, pace):
    """32 at once; a night between two runs does not count."""
    stamps = [1e6 + burst + 0.01 * number for burst in bursts for number in range(32)]
    assert _pace(stamps, 1e6 - 100) == (None if pace is None else pytest.approx(pace, rel=0.03))
    if len(bursts) == 1:
        assert _pace(stamps) is None


def test_nothing_to_see_and_nothing_to_read(folder, tmp_path):
    """What cannot be read is told, and does not hide the rest."""
    tmp_path = tmp_path / "below"
    tmp_path.mkdir()
    assert "no unfinished work there" in status(tmp_path)
    missing = CliRunner().invoke(reproduce.main, ["status", str(tmp_path / "gone")])
    assert (missing.exit_code, "is no folder" in missing.stderr) == (2, True)
    for text in ("{", "[]", "{}", '{"num_images": -1, "shard_size": 2}'):
        (tmp_path / "plan.json").write_text(text)
        text = status(tmp_path.parent)
        assert f"{tmp_path}: " in text
        assert "plan.json" in text
        assert "15 of 25 images" in text


@given(seeds=st.lists(st.integers(0, 10**7), unique=True, max_size=100).map(tuple))
def test_seeds_are_read_from_their_text(seeds):
    assert tuple(chain(*seed_runs(format_seeds(seeds)))) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "1,,2", "1,", ",1", "1;2", "1,x", "-3", "9" * 40])
def test_any_other_text_is_none(text):
    assert seed_runs(text) == []


def test_durations():
    texts = ["0 s", "89 s", "2 min", "83 min", "1.5 h", "2.3 days"]
    assert [duration(seconds) for seconds in (0, 89, 90, 5000, 5400, 200_000)] == texts


def test_pipes_devices_and_hostile_texts_are_said_without_waiting(tmp_path):
    """Each in the place of a file that is read; a name that would clear a screen, and one that would add a line."""
    evil = "\x1b[2J\u202eevil\nresults/x: done"
    for name in ("plan.json", "recipe.json"):
        (tmp_path / name).mkdir()
        os.mkfifo(tmp_path / name / name)
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "plan.json").symlink_to("/dev/zero")
    (tmp_path / "not a plan").mkdir()
    (tmp_path / "not a plan" / "plan.json").write_text('{"num_images": true, "shard_size": 1e9}')
    work = tmp_path / evil.replace("/", "")
    work.mkdir()
    (work / "plan.json").write_text(json.dumps({"num_images": 100, "shard_size": 10}))
    (work / "shard-00001.failed").write_text(json.dumps({"error": evil}))
    (work / "shard-00002.0.claim").write_bytes(b"\xff\x1b host.1.0")
    os.mkfifo(work / "shard-00003.zip")
    os.mkfifo(work / "shard-00004.failed")
    lines = status(tmp_path).splitlines()
    assert all(line.isprintable() for line in lines)
    assert sum("is a pipe (FIFO)" in line for line in lines) == 2
    assert sum("is a device" in line for line in lines) == 1
    assert sum("names no num_images" in line for line in lines) == 1
    assert sum(line.startswith("results") for line in lines) == 0
    assert any(line.startswith("    shard-00001") and r"\x1b[2J\u202eevil\n" in line for line in lines)
    os.mkfifo(work / "shard-00005.0.claim")
    assert "is a pipe (FIFO)" in status(work)
