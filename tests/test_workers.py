"""Several workers, one result: what any number of them make, in any order and killed at any time, is what one makes."""

import errno
import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from edm2_guidance.commands import calculate_metrics, generate_images, generate_zip
from edm2_guidance.images.batch import drain
from edm2_guidance.metrics import ledger
from edm2_guidance.sampling.generation import GeneratedImages
from edm2_guidance.work import complete as protocol
from edm2_guidance.work.complete import Pending, Run, complete
from edm2_guidance.work.plan import ShardPlan
from edm2_guidance.work.png_output import PngOutput
from edm2_guidance.work.zip_output import ZipOutput
from tests.digits_network import save_digits_network
from tests.small import register_tiny_extractors
from tests.words import last_of_each
from tests.works import ELSEWHERE, Generated, Stated, held, left

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "edm2_guidance" / "pretrained" / "mnist16-refs.npz"
LAYOUT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """In a folder of its own, as the only process, with one thread: last bits depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nothing here loses power
    for name in LAYOUT:
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(monkeypatch):
    """Run a command in this process, as worker w of W."""

    def run(command, *args, worker=0, workers=1, code=0):
        with monkeypatch.context() as patch:
            if workers > 1:
                patch.setenv("RANK", str(worker))
                patch.setenv("WORLD_SIZE", str(workers))
            result = CliRunner().invoke(command, last_of_each(args))
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save_digits_network(tmp_path_factory.mktemp("net") / "net.safetensors")


@pytest.fixture
def made(monkeypatch):
    """The seeds that are sampled, in batches."""
    batches = []
    plain = GeneratedImages._make

    def make(self, seeds):
        batches.append(list(seeds))
        return plain(self, seeds)

    monkeypatch.setattr(GeneratedImages, "_make", make)
    return batches


def environment():
    return {**{key: value for key, value in os.environ.items() if key not in LAYOUT}, "OMP_NUM_THREADS": "1"}


def start(script, *args):
    command = [sys.executable, str(ROOT / script), *map(str, args)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# generate_zip.py


def zip_args(network, out):
    return [f"--net={network}", "--steps=2", "--num_images=11", "--shard-size=3", "--batch=2", f"--out={out}"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_zip_by_workers_one_after_the_other(run, network, made, order):
    run(generate_zip.main, *zip_args(network, "one.zip"))
    made.clear()
    results = [run(generate_zip.main, *zip_args(network, "many.zip"), worker=w, workers=3) for w in order]
    assert Path("many.zip").read_bytes() == Path("one.zip").read_bytes()
    assert list(chain(*made)) == [s for w in order for s in {0: [0, 1, 2, 9, 10], 1: [3, 4, 5], 2: [6, 7, 8]}[w]]
    done = [result.stderr.partition(f"worker {w} of 3: done; ")[2] for w, result in zip(order, results, strict=True)]
    left = {(0, 1, 2): 2, (2, 0, 1): 3}[order]
    assert [text.split(" (")[0] for text in done] == [
        f"{left} of 4 shards are left to the other workers", "1 of 4 shards is left to the other workers", "",
    ]  # fmt: skip
    assert ["evaluations per image" in result.stderr for result in results] == [w == 0 for w in order]
    late = run(generate_zip.main, *zip_args(network, "many.zip"), worker=1, workers=3)
    assert "worker 1 of 3: " in late.stdout
    assert "finished before" in late.stdout
    assert sorted(path.name for path in Path().iterdir()) == ["many.zip", "one.zip"]


def test_launches_of_several_processes_add_up(run, network, made):
    """A job array of torchruns: launch 1 of 2 holds the workers 2 and 3 of 4."""
    run(generate_zip.main, *zip_args(network, "many.zip"), "--worker=1/2", worker=1, workers=2)
    assert list(chain(*made)) == [9, 10]
    for job, rank in [(0, 0), (1, 0), (0, 1)]:
        result = run(generate_zip.main, *zip_args(network, "many.zip"), f"--worker={job}/2", worker=rank, workers=2)
    assert "many.zip: 11 images" in result.stdout
    assert sorted(chain(*made)) == list(range(11))


@pytest.mark.parametrize("number", ["2/2", "1", "-1/2", "a/b", "0/0"])
def test_impossible_worker_numbers_are_refused(run, network, number):
    result = run(generate_zip.main, *zip_args(network, "a.zip"), f"--worker={number}", code=2)
    assert number in result.stderr
    assert not list(Path().iterdir())


@pytest.mark.parametrize("place", ["a.zip.shards", "folder"])
def test_the_same_worker_twice_is_refused(run, network, place):
    """While the first still works; the message says who it is and what to do."""
    command, args = generate_images.main, folder_args(network, "folder", "--worker=0/2")
    if place == "a.zip.shards":
        command, args = generate_zip.main, [*zip_args(network, "a.zip"), "--worker=0/2"]
    with held(Path(place), "worker-0-of-2") as first:
        again = run(command, *args, code=2)
    for text in (f".{first}.", "is this worker already", "--worker=1/2"):
        assert text in again.stderr
    run(command, *args)


@pytest.fixture
def two_shards(tmp_path):
    """A ZIP of two shards, of which the first is there."""
    output = ZipOutput(tmp_path / "a.zip", ShardPlan((0, 1), 1), Stated("hash"), Run(1))
    output.work.open()

    drain(Generated((0,)), output.work.sink(0))
    return output


def test_shards_that_somebody_removes_are_not_made_again(two_shards):
    """Who has joined them removes them one by one, and the plan at last."""
    with held(two_shards.work.folder, "join"):
        assert complete(two_shards, lambda seeds: pytest.fail("made again")) == Pending(1, 2)


def test_shards_that_a_dead_process_had_joined_or_removed_are_made_again(two_shards):
    left(two_shards.work.folder, "join")
    assert complete(two_shards, Generated) == two_shards.path
    assert [path.name for path in two_shards.path.parent.iterdir()] == ["a.zip"]


def test_a_result_may_take_a_while_until_it_is_seen(two_shards, monkeypatch):
    """Another process is through with everything; on this machine its ZIP is not to be seen yet."""
    monkeypatch.setattr(protocol, "APPEARS_SECONDS", 60.0)
    looks = iter([None, None, None, None, two_shards.path])
    monkeypatch.setattr(two_shards, "find", lambda: next(looks))

    def removed(seeds):
        two_shards.work.remove()
        return Generated(seeds)

    assert complete(two_shards, removed) == two_shards.path
    assert next(looks, "no more") == "no more"


def test_workers_whose_last_bits_may_differ_are_refused(run, network):
    run(generate_zip.main, *zip_args(network, "a.zip"), "--deterministic", worker=0, workers=2)
    refused = run(generate_zip.main, *zip_args(network, "a.zip"), worker=1, workers=2, code=2)
    assert "deterministic: true | false" in refused.stderr
    run(generate_zip.main, *zip_args(network, "a.zip"), "--deterministic", worker=1, workers=2)
    run(generate_zip.main, *zip_args(network, "one.zip"))
    assert Path("a.zip").read_bytes() == Path("one.zip").read_bytes()


def test_a_disk_that_is_full_from_the_start_is_failed_work(run, network, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        result = run(generate_zip.main, *zip_args(network, "a.zip"), code=1)
    assert "a.zip.shards: No space left on device; what was finished is kept: make room" in result.stderr
    run(generate_zip.main, *zip_args(network, "a.zip"))


# generate_images.py


def folder_args(network, out, *more):
    return [f"--net={network}", "--steps=2", "--seeds=0-6,20-23", "--batch=2", f"--outdir={out}", *more]


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_folder_by_workers_has_the_batches_of_one(run, network, made):
    run(generate_images.main, *folder_args(network, "one"))
    whole = [list(batch) for batch in made]
    made.clear()
    results = [run(generate_images.main, *folder_args(network, "two"), worker=w, workers=2) for w in (1, 0)]
    assert made == whole[1::2] + whole[::2]
    assert contents("two") == contents("one")
    assert "worker 1 of 2: 5 images in two" in results[0].stdout
    assert "evaluations per image" not in results[0].stderr
    assert "evaluations per image" in results[1].stderr


def test_resumed_folders_keep_their_batches(run, network, made):
    run(generate_images.main, *folder_args(network, "one"))
    before = contents("one")
    made.clear()
    for seed in (0, 1, 3, 23):
        Path(f"one/{seed:06d}.png").unlink()
    for worker in (0, 1):
        run(generate_images.main, *folder_args(network, "one"), worker=worker, workers=2)
    assert made == [[0, 1], [2, 3], [23]]  # whole: last bits depend on the size of a batch
    assert contents("one") == before
    again = run(generate_images.main, *folder_args(network, "one"), worker=1, workers=2)
    assert "worker 1 of 2: one: all 5 images were there" in again.stdout


def test_workers_overwrite_another_recipe(run, network):
    """The first to write removes all images of the old recipe, and none of the new one is ever removed."""
    run(generate_images.main, *folder_args(network, "two"))
    old = contents("two")
    again = folder_args(network, "two", "--overwrite", "--class=3")
    run(generate_images.main, *again, worker=1, workers=2)
    half = contents("two")
    assert 0 < len(half) - 1 < len(old) - 1
    run(generate_images.main, *again, worker=0, workers=2)
    run(generate_images.main, *folder_args(network, "one", "--class=3"))
    assert contents("two") == contents("one")
    assert half.items() <= contents("two").items()


def test_of_two_recipes_that_start_together_one_gets_the_folder(tmp_path):
    outputs = [PngOutput(tmp_path / "out", [0], Run(1)) for _ in range(2)]
    for output, name in zip(outputs, ("a", "b"), strict=True):
        output.check()
        output.state(Stated(name))
    for output in outputs:
        refused = pytest.raises(ValueError, match="another recipe") if output is outputs[1] else nullcontext()
        with refused:
            drain(Generated((0,)), output.sink(0))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000000.png", "recipe.json"]


def test_a_folder_by_workers_that_steal(run, network, made):
    """One does everything; a batch that a dead process had begun is finished."""
    run(generate_images.main, *folder_args(network, "one"))
    whole = [list(batch) for batch in made]
    made.clear()
    run(generate_images.main, *folder_args(network, "two", "--steal", "--seeds=0-6"))
    result = run(generate_images.main, *folder_args(network, "two", "--steal"))
    assert made == [[0, 1], [2, 3], [4, 5], [6], [6, 20], [21, 22], [23]]
    assert "4 images in two" in result.stdout
    assert contents("two").keys() == contents("one").keys()
    assert contents("two")["000004.png"] == contents("one")["000004.png"]
    assert len(whole) == 6
    refused = run(generate_images.main, *folder_args(network, "two", "--steal", "--overwrite"), code=2)
    assert "--steal" in refused.stderr


@pytest.mark.slow  # the one before, by processes of their own
def test_a_folder_by_processes_that_steal(run, network, tmp_path):
    started = [start("generate_images.py", *folder_args(network, tmp_path / "many", "--steal")) for _ in range(2)]
    outputs = [worker.communicate(timeout=300) for worker in started]
    assert [worker.returncode for worker in started] == [0, 0], outputs
    made = [re.match(r"(\d+) images in", stdout) for stdout, _ in outputs]  # None of one that came after all was done
    assert sum(int(match[1]) for match in made if match) == 11
    run(generate_images.main, *folder_args(network, "one"))
    assert contents("many") == contents("one")


def test_slurm_starts_a_folder_again(run, network, monkeypatch, made):
    """A job that was put back into the queue goes on by the same command."""
    run(generate_images.main, *folder_args(network, "two", "--seeds=0-6"))
    made.clear()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    run(generate_images.main, *folder_args(network, "two"))
    assert made == [[6, 20], [21, 22], [23]]


def test_what_an_overwriting_job_made_is_not_made_again_when_slurm_starts_it_again(run, network, monkeypatch, made):
    run(generate_images.main, *folder_args(network, "two", "--class=3", "--seeds=0-6"))
    run(generate_images.main, *folder_args(network, "two", "--overwrite", "--seeds=0-6"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    made.clear()
    run(generate_images.main, *folder_args(network, "two", "--overwrite"))
    assert made == [[6, 20], [21, 22], [23]]
    made.clear()
    run(generate_images.main, *folder_args(network, "two", "--overwrite", "--class=5"))
    assert len(made) == 6
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    run(generate_images.main, *folder_args(network, "one", "--class=5"))
    assert contents("two") == contents("one")


@pytest.mark.parametrize("more", [[], ["--steal"]])
def test_claims_of_the_dead_are_swept_from_a_finished_folder(run, network, more):
    left(Path("two"), "batch-00001")
    Path("two/batch-00002.0.claim").write_text(ELSEWHERE)
    run(generate_images.main, *folder_args(network, "two", "--seeds=0-1", *more))
    assert [path.name for path in Path("two").glob("*.claim")] == ["batch-00002.0.claim"]


def test_a_grid_is_drawn_by_one(run, network):
    result = run(generate_images.main, f"--net={network}", "--grid=a.png", worker=0, workers=2, code=2)
    assert "one process" in result.stderr
    for more in ("--steal", "--worker=0/2"):
        assert "one picture" in run(generate_images.main, f"--net={network}", "--grid=a.png", more, code=2).stderr


# calculate_metrics.py


def gen_args(network, *more):
    return [
        "gen", f"--net={network}", "--steps=2", "--metrics=fd_mnist", f"--ref={REFERENCE}", "--num_images=70",
        "--batch=10", "--shard-size=20", *more,
    ]  # fmt: skip


def bits(record):
    """What no layout may change: the value and the moments behind it."""
    return record["value"], record["moments_sha256"]


@pytest.fixture(scope="module")
def score(network, tmp_path_factory):
    """`bits` of the score that one undisturbed process gives."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("one")
    args = gen_args(network, f"--ledger={path}/l.jsonl", f"--workdir={path}/work")
    result = CliRunner().invoke(calculate_metrics.main, args)
    assert result.exit_code == 0, result.output
    assert list((path / "work").iterdir()) == []
    (record,) = ledger.read(path / "l.jsonl")
    return bits(record)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
def test_a_score_by_workers_is_written_once(run, network, score, made, order):
    results = [run(calculate_metrics.main, *gen_args(network), worker=w, workers=3) for w in order]
    (record,) = ledger.read("results/ledger.jsonl")
    assert bits(record) == score
    assert sorted(chain(*made)) == list(range(70))
    assert [f"worker {w} of 3: done" in r.stderr for w, r in zip(order, results, strict=True)] == [True, True, False]
    assert list(Path("results/work").iterdir()) == []
    late = run(calculate_metrics.main, *gen_args(network), worker=1, workers=3)
    assert "worker 1 of 3: the result is in results/ledger.jsonl already" in late.stderr
    assert len(ledger.read("results/ledger.jsonl")) == 1
    assert not list(Path("results/work").iterdir())


def test_a_result_by_another_detector_or_of_fewer_images_is_another(run, network, made):
    """Neither stands in for what is asked for, nor are the features of unfinished work thrown away for it."""
    run(calculate_metrics.main, *gen_args(network), "--worker=0/1")
    path = Path("results/ledger.jsonl")
    record = json.loads(path.read_text())
    others = [
        record | {"detector": record["detector"] | {"weights_sha256": "0" * 64}},
        record | {"images": record["images"] | {"num_images": 60}},
        record | {"recipe_hash": "0" * 64},
    ]
    path.write_text("".join(json.dumps(each) + "\n" for each in others))
    made.clear()
    run(calculate_metrics.main, *gen_args(network), "--worker=0/1")
    assert sorted(chain(*made)) == list(range(70))
    assert len(ledger.read(path)) == 4
    made.clear()
    assert "already" in run(calculate_metrics.main, *gen_args(network), "--worker=0/1").stderr
    assert made == []


def test_a_kill_between_two_metrics_writes_each_once(run, network, monkeypatch, tmp_path_factory):
    """The line of the first is in the ledger: the run that goes on writes the second only."""
    register_tiny_extractors(monkeypatch.setattr, tmp_path_factory.mktemp("tiny"))
    digits, both = ROOT / "tests" / "data" / "mnist16-200.npz", "--metrics=fid,fd_dinov2"
    run(calculate_metrics.main, "ref", f"--data={digits}", "--dest=refs.npz", both)
    args = [*gen_args(network), both, "--ref=refs.npz"]
    plain = ledger.append

    def killed(path, record):
        plain(path, record)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "append", killed)
        run(calculate_metrics.main, *args, code=130)
    assert [record["metric"] for record in ledger.read("results/ledger.jsonl")] == ["fid"]
    assert len(list(Path("results/work").iterdir())) == 1
    result = run(calculate_metrics.main, *args)
    assert [record["metric"] for record in ledger.read("results/ledger.jsonl")] == ["fid", "fd_dinov2"]
    assert "70/70" in result.stderr
    assert not list(Path("results/work").iterdir())


def test_who_lost_the_result_writes_none(run, network, monkeypatch):
    """This process was silent for so long that another joined the shards; that one writes the result."""
    from edm2_guidance.metrics import score_output

    plain = score_output.measured

    def slow(work, detectors):
        made = plain(work, detectors)
        (work.folder / "join.1.claim").write_text(ELSEWHERE)
        return made

    with monkeypatch.context() as patch:
        patch.setattr(score_output, "measured", slow)
        result = run(calculate_metrics.main, *gen_args(network))
    assert "another joins the shards" in result.stderr
    assert not Path("results/ledger.jsonl").exists()


@pytest.mark.slow  # ranks score in tests/faults, and tests/commands runs torchrun
def test_a_score_under_torchrun(network, score, tmp_path):
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc_per_node=2"]
    command = [*torchrun, str(ROOT / "calculate_metrics.py"), *gen_args(network)]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (record,) = ledger.read("results/ledger.jsonl")
    if torch.backends.mkldnn.enabled:
        assert bits(record) == score
    else:  # EDM2_TEST_ONEDNN=0 is of this process alone
        assert record["value"] == pytest.approx(score[0], rel=1e-6)
    assert done.stdout.count("fd_mnist@70") == 1
    assert not list(Path("results/work").iterdir())


def test_a_kill_between_the_result_and_the_end(run, network, monkeypatch):
    """The result is in the ledger, the shards are still there: the next run tidies up and adds nothing."""
    with monkeypatch.context() as patch:
        patch.setattr("edm2_guidance.work.shards.ShardFolder.remove", lambda self: None)
        run(calculate_metrics.main, *gen_args(network))
    assert len(list(Path("results/work").iterdir())) == 1
    result = run(calculate_metrics.main, *gen_args(network))
    assert "already" in result.stderr
    assert len(ledger.read("results/ledger.jsonl")) == 1
    assert not list(Path("results/work").iterdir())


def test_a_score_is_computed_once_unless_again(run, network, made):
    """Whoever asks: the ledger's line is printed, by one of the workers, and nothing is made."""
    first = run(calculate_metrics.main, *gen_args(network, "--note=first"))
    made.clear()
    there = run(calculate_metrics.main, *gen_args(network, "--batch=35"))  # a batch is no part of what a score is of
    assert there.stdout == first.stdout
    assert "the result is in results/ledger.jsonl already (--again computes it once more)" in there.stderr
    assert made == []
    assert run(calculate_metrics.main, *gen_args(network), worker=1, workers=2).stdout == ""
    for worker in (0, 1):
        run(calculate_metrics.main, *gen_args(network, "--again"), worker=worker, workers=2)
    assert sorted(chain(*made)) == list(range(70))
    one, two = ledger.read("results/ledger.jsonl")
    assert (one["note"], two["note"], bits(one)) == ("first", None, bits(two))


def test_stored_images_are_read_by_the_first_worker(run):
    digits = ROOT / "tests" / "data" / "mnist16-200.npz"
    args = ["calc", f"--images={digits}", f"--ref={REFERENCE}", "--metrics=fd_mnist", "--num=200"]
    ref = ["ref", f"--data={digits}", "--dest=own.npz", "--metrics=fd_mnist"]
    for each in (args, ref):
        result = run(calculate_metrics.main, *each, worker=1, workers=2)
        assert "worker 1 of 2: nothing to do" in result.stderr
        assert not list(Path().iterdir())
    run(calculate_metrics.main, *args, worker=0, workers=2)
    assert len(ledger.read("results/ledger.jsonl")) == 1


def test_more_workers_than_shards(run, network, monkeypatch):
    monkeypatch.setattr("edm2_guidance.sampling.opening.open_recipe", None)
    for command, args in ((generate_zip.main, zip_args(network, "a.zip")), (calculate_metrics.main, gen_args(network))):
        result = run(command, *args, worker=4, workers=9)
        assert "worker 4 of 9: nothing to do: 4 shards" in result.stderr
    assert not list(Path().iterdir())


@pytest.mark.parametrize("script", [generate_images.main, generate_zip.main])
def test_impossible_layouts_are_refused(run, network, script, monkeypatch):
    assert isinstance(script, click.Command)
    out = "--outdir=a" if script is generate_images.main else "--out=a.zip"
    result = run(script, f"--net={network}", out, worker=2, workers=2, code=2)
    assert "RANK=2, WORLD_SIZE=2" in result.stderr
    assert not list(Path().iterdir())
