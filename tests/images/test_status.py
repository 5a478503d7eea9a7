import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import reproduce
from cli.status_text import duration
from images import claims
from images.shards import ShardPlan, count_seeds, format_seeds
from images.shards_zip import ShardFolder
from images.status import find_work
from images.zips import ZipWriter

HOST, _, TOKEN = claims.owner().split(".")


@pytest.fixture
def folder(tmp_path):
    """Work on 25 images in shards of 10, of which two are there, finished 4 s apart."""
    work = ShardFolder(tmp_path / "a.zip", ShardPlan(tuple(range(25)), 10), {}, "hash", 5)
    work.open()
    for index, second in ((0, 1_000_000), (2, 1_000_004)):
        with ZipWriter(work.shard_path(index)) as file:
            file.add("x", b"")
        os.utime(work.shard_path(index), (second, second))
    return work


def status(path, *args):
    result = CliRunner().invoke(reproduce.main, ["status", str(path), *args])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_who_is_at_it_and_what_went_wrong(folder, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    at = folder.folder
    (at / "shard-00001.0.claim").write_text("elsewhere.17.0123abcd 4711:0")
    (at / "shard-00001.failed").write_text(json.dumps({"owner": "x", "error": "RuntimeError: no memory"}))
    (at / "shard-00003.0.claim").write_text(f"{HOST}.{dead.pid}.{TOKEN}")
    (work,) = find_work(tmp_path)
    assert (work.path, work.total, work.done) == (at, 25, 15)
    assert [(name, who) for name, who, _ in work.running] == [("shard-00001", "elsewhere.17.0123abcd")]
    assert [name for name, _, _ in work.stale] == ["shard-00003"]
    assert work.failed == [("shard-00001", "RuntimeError: no memory")]
    assert work.pace == 5 / 4
    assert work.seconds_left == 10 / (5 / 4)
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
    path.write_text("elsewhere.17.0123abcd")
    then = path.stat().st_mtime - claims.STALE_SECONDS - 1
    os.utime(path, (then, then))
    (work,) = find_work(tmp_path)
    assert ([name for name, _, _ in work.stale], work.running, work.seconds_left) == (["shard-00001"], [], None)


def test_a_night_between_two_runs_does_not_spoil_the_pace(tmp_path):
    work = ShardFolder(tmp_path / "a.zip", ShardPlan(tuple(range(100)), 10), {}, "hash", 5)
    work.open()
    for index, second in enumerate([0, 10, 20, 30, 40_000, 40_010, 40_020, 40_030]):
        work.shard_path(index).write_bytes(b"")
        os.utime(work.shard_path(index), (1_000_000 + second, 1_000_000 + second))
    (found,) = find_work(tmp_path)
    assert found.pace == 70 / (6 * 10 + 100)


def test_a_folder_of_images(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.json").write_text(json.dumps({"recipe_hash": "a", "asked": "0-3,7"}))
    for seed in range(3):
        (tmp_path / "out" / f"{seed:06d}.png").write_bytes(b"")
    (tmp_path / "out" / "worker-1-of-2.0.claim").write_text("elsewhere.17.0123abcd")
    assert "out: 3 of 5 images (60.0 %); 1 running" in status(tmp_path)


def test_nothing_to_see_and_nothing_to_read(tmp_path):
    assert "no work there" in status(tmp_path)
    missing = CliRunner().invoke(reproduce.main, ["status", str(tmp_path / "gone")])
    assert (missing.exit_code, "is no folder" in missing.stderr) == (2, True)
    for text in ("{", "[]", "{}", '{"num_images": -1, "shard_size": 2}'):
        (tmp_path / "plan.json").write_text(text)
        result = CliRunner().invoke(reproduce.main, ["status", str(tmp_path)])
        assert (result.exit_code, "plan.json" in result.stderr) == (2, True)


@given(seeds=st.lists(st.integers(0, 10**7), unique=True, max_size=100).map(tuple))
def test_seeds_are_counted_from_their_text(seeds):
    assert count_seeds(format_seeds(seeds)) == len(seeds)


@pytest.mark.parametrize("text", ["", "a", "1-", "1,,2", "-3", "9" * 40])
def test_any_other_text_counts_nothing(text):
    assert count_seeds(text) == 0


def test_durations():
    texts = ["0 s", "89 s", "2 min", "83 min", "1.5 h", "2.3 days"]
    assert [duration(seconds) for seconds in (0, 89, 90, 5000, 5400, 200_000)] == texts


def test_a_status_needs_no_torch():
    root = Path(__file__).parents[2]
    code = "import sys, images.status; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
