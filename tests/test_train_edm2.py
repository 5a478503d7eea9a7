"""train_edm2.py as its user runs it: presets, dry runs, refusals, and what interruptions leave."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dnnlib.filelock import exclusive
from edm2_guidance.commands.train_edm2 import ImageCount, TrainOptions, main
from edm2_guidance.papers.train_presets import all_train_presets
from tests.pictures import write_set
from tests.words import last_of_each
from training import training_loop
from training.checkpoint import find_checkpoints, load_checkpoint
from training.config import TrainingConfig
from training.training_loop import Trainer

ROOT = Path(__file__).parents[1]
SMALL = [
    "--channels=8", "--channel-mult=1", "--num-blocks=1", "--attn-resolutions=none", "--channels-per-head=8",
    "--batch=64", "--lr=0.01", "--decay=100", "--rampup=512", "--P_mean=-0.8", "--P_std=1.6", "--dropout=0.05",
    "--status=1Ki", "--snapshot=2Ki", "--checkpoint=512", "--device=cpu", "--preview=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def pixels_zip(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, [40, 8, 8, 3], dtype=np.uint8)
    return write_set(tmp_path_factory.mktemp("data") / "pixels.zip", pixels, [i % 4 for i in range(40)])


@pytest.fixture(scope="module")
def imagenet_like(tmp_path_factory):
    """One item with the shape and classes of {'512': ImageNet-512 latents, '64': ImageNet-64 pixels}."""
    folder = tmp_path_factory.mktemp("imagenet")
    return {
        "512": write_set(folder / "512.zip", np.zeros([1, 8, 64, 64], np.float32), [999]),
        "64": write_set(folder / "64.zip", np.zeros([1, 64, 64, 3], np.uint8), [999]),
    }


def run(*args):
    return CliRunner().invoke(main, last_of_each(args))


# Parameters in millions: Table 2 of EDM2 (arXiv 2312.02696) for 512, Table 3 for 64.
PUBLISHED = [
    ("edm2-img512-xs", 124.7), ("edm2-img512-s", 280.2), ("edm2-img512-m", 497.8), ("edm2-img512-l", 777.5),
    ("edm2-img512-xl", 1119.3), ("edm2-img512-xxl", 1523.2), ("edm2-img64-s", 280.2), ("edm2-img64-xl", 1119.3),
]  # fmt: skip


@pytest.mark.parametrize(("preset", "millions"), PUBLISHED)
def test_dry_run_of_a_published_preset(imagenet_like, tmp_path, preset, millions):
    data = imagenet_like["512" if "512" in preset else "64"]
    result = run(f"--outdir={tmp_path}/run", f"--data={data}", f"--preset={preset}", "--batch-gpu=32", "-n")
    assert result.exit_code == 0, result.output
    parameters = int(re.search(r"network +([\d,]+) parameters", result.output)[1].replace(",", ""))
    assert parameters / 1e6 == pytest.approx(millions, abs=0.06)
    assert "1 worker x 64 rounds x 32 images" in result.output
    assert not (tmp_path / "run").exists()


def test_presets_hold_the_published_settings():
    presets = all_train_presets()
    assert len([name for name in presets if name.startswith("edm2-")]) == 12
    rows = {name: (p["channels"], p["lr"], p["decay"], p["P_mean"], p["P_std"]) for name, p in presets.items()}
    assert rows["edm2-img512-xxl"] == ("448", "0.0065", "70000", "-0.4", "1.0")
    assert rows["edm2-img64-s"] == ("192", "0.0100", "35000", "-0.8", "1.6")
    assert int(presets["edm2-img512-l"]["duration"]) == 1792 << 20
    assert {presets[f"edm2-img512-{size}"]["dropout"] for size in ("m", "l", "xl", "xxl")} == {"0.10"}


@pytest.mark.parametrize("preset", [name for name in all_train_presets() if name.startswith("mnist16")])
def test_presets_of_the_networks_that_ship_here(tmp_path, preset):
    data = write_set(tmp_path / "digits.zip", np.zeros([10, 16, 16, 3], np.uint8), list(range(10)))
    result = run(f"--outdir={tmp_path}/run", f"--data={data}", f"--preset={preset}", "-n")
    assert result.exit_code == 0, result.output
    options = json.loads(result.output[: result.output.index("\n}") + 2])
    assert options["network"]["label_dim"] == (0 if "uncond" in preset else 10)


def test_command_line_beats_preset(pixels_zip, tmp_path):
    result = run(
        f"--outdir={tmp_path}", f"--data={pixels_zip}", "--preset=mnist16", *SMALL, "--lr=0.5", "--cond=no", "-n"
    )
    assert result.exit_code == 0, result.output
    options = json.loads(result.output[: result.output.index("\n}") + 2])
    assert options["lr"] == 0.5
    assert options["cond"] is False
    assert options["decay"] == 100
    assert options["duration"] == 163840  # from the preset


def test_defaults_are_those_of_the_reference():
    asked = TrainOptions.of(main.make_context("train_edm2.py", ["--outdir=o", "--data=d"]).params)
    assert asked.preset == "edm2-img512-s"
    assert (asked.status, asked.snapshot, asked.checkpoint) == (128 << 10, 8 << 20, 128 << 20)
    for field in dataclasses.fields(TrainingConfig):  # one default, although it stands in two places
        value = getattr(asked, field.name, None)
        assert value in (None, "d", field.default), field.name


def test_counts():
    for text, count in {"0": 0, "4096": 4096, "128Ki": 131072, "8Mi": 8 << 20, "1gi": 1 << 30}.items():
        assert ImageCount().convert(text, None, None) == count


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--preset=edm2-img512-xxx"], "there is no training preset 'edm2-img512-xxx'; near it: edm2-img512-xxs, "),
        (["--preset=Mnist-16"], "there is no training preset 'Mnist-16'; near it: mnist16, "),
        (["--preset=?"], "there is no training preset '?'; there are edm2-img512-xxs, "),
        (["--data=missing.zip"], "missing.zip does not exist"),
        (["--batch=100"], "--duration=8192: give a multiple of both --batch and 1024"),
        (["--duration=4000"], "such as 4096"),
        (["--duration=12x"], "--duration=12x: give a number of images"),
        (["--duration=50k"], "1Gi; 50k is 50000"),
        (["--lr=nan"], "--lr=nan: give a finite number above 0"),
        (["--status=100"], "--status=100: give a multiple of --batch"),
        (["--batch-gpu=48"], "--batch-gpu=48: 64 images per worker do not split"),
        (["--channel-mult=1,2,2,2,2"], "8x8 does not halve 4 times"),
        (["--channel-mult=1,x"], "give whole numbers, such as 1,2"),
        (["--channels-per-head=3"], "no multiple of 3"),
        (["--lr=0"], "--lr"),
        (["--P_std=-1"], "--P_std"),
        (["--dropout=1"], "--dropout=1.0"),
        (["--ema=0.05,0.3"], "--ema=0.05,0.3"),
        (["--ema=0.05,0.05"], "give different lengths"),
        (["--device=cuda:99"], "--device=cuda:99"),
        (["--device=tpu9"], "--device=tpu9"),
    ],
)
def test_bad_input_is_one_line_before_any_work(pixels_zip, tmp_path, args, message):
    result = run(f"--outdir={tmp_path}/run", f"--data={pixels_zip}", *SMALL, "--duration=8Ki", *args)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_another_run_in_the_folder(pixels_zip, tmp_path):
    args = [f"--outdir={tmp_path}", f"--data={pixels_zip}", *SMALL, "--snapshot=1Ki", "--duration=1Ki"]
    assert run(*args).exit_code == 0
    result = run(*args, "--seed=1")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")  # no bar before it
    assert "seed=0, not 1" in result.stderr


@pytest.mark.parametrize(
    ("outdir", "message"), [("file", "is a file"), ("file/run", "is a file"), ("closed/run", "not writable")]
)
def test_an_impossible_folder_is_refused_before_networks_are_built(pixels_zip, tmp_path, monkeypatch, outdir, message):
    (tmp_path / "file").touch()
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed")  # root may write anywhere
    monkeypatch.setattr(training_loop, "Trainer", None)
    result = run(f"--outdir={tmp_path / outdir}", f"--data={pixels_zip}", *SMALL, "--duration=1Ki")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert message in result.stderr
    assert str(tmp_path / outdir.partition("/")[0]) in result.stderr


def test_two_in_one_folder(pixels_zip, tmp_path):
    with exclusive(tmp_path / ".training.lock"):
        result = run(f"--outdir={tmp_path}", f"--data={pixels_zip}", *SMALL, "--duration=1Ki")
    assert result.exit_code == 2
    assert result.stderr == f"Error: another process is training in {tmp_path}: wait for it, or give another --outdir\n"


def start(pixels_zip, outdir, duration):
    """A run in a process of its own, past its first checkpoint."""
    command = [
        sys.executable,
        "train_edm2.py",
        f"--outdir={outdir}",
        f"--data={pixels_zip}",
        *SMALL,
        f"--duration={duration}",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(outdir.glob("training-state-*.pt")):
        assert process.poll() is None, "ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.fixture(scope="module")
def uninterrupted(pixels_zip, tmp_path_factory):
    """Network files of a whole run, by name; on one thread, as the bits of sums depend on their number."""
    outdir = tmp_path_factory.mktemp("whole")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert run(f"--outdir={outdir}", f"--data={pixels_zip}", *SMALL, "--duration=2Ki").exit_code == 0
    yield {path.name: path.read_bytes() for path in outdir.glob("network-snapshot-*")}
    torch.set_num_threads(before)


@pytest.mark.slow
def test_killed_run_ends_with_the_same_bytes(pixels_zip, tmp_path, uninterrupted):
    process = start(pixels_zip, tmp_path, "2Ki")
    process.kill()
    process.wait(timeout=300)
    assert not list(tmp_path.glob("network-snapshot-*"))  # it was not done yet
    (tmp_path / ".training-state-0000001.0123456789ab.tmp.pt").write_bytes(b"half")  # a kill may leave such a file
    assert run(f"--outdir={tmp_path}", f"--data={pixels_zip}", *SMALL, "--duration=2Ki").exit_code == 0
    assert "resumed at" in (tmp_path / "log.txt").read_text()
    assert {path.name: path.read_bytes() for path in tmp_path.glob("network-snapshot-*")} == uninterrupted
    assert len(uninterrupted) == 2
    assert not list(tmp_path.glob("*.tmp*"))
    assert not list(tmp_path.glob(".*.tmp*"))


@pytest.mark.parametrize("name", ["SIGTERM", *(pytest.param(n, marks=pytest.mark.slow) for n in ("SIGHUP", "SIGUSR1"))])
def test_a_run_that_is_told_to_stop_keeps_what_it_has(pixels_zip, tmp_path, uninterrupted, monkeypatch, name):
    plain, number = Trainer.step, signal.Signals[name]

    def step(trainer):
        if trainer.state.images_seen == 640:
            os.kill(os.getpid(), number)
        return plain(trainer)

    args = [f"--outdir={tmp_path}", f"--data={pixels_zip}", *SMALL, "--duration=2Ki"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        result = run(*args)
    assert result.exit_code == 128 + number
    assert result.stdout.endswith("stopped as told; the same command goes on from the checkpoint\n")
    assert "ended by" not in (tmp_path / "log.txt").read_text()
    assert load_checkpoint(find_checkpoints(tmp_path)[-1])["images_seen"] == 704
    assert run(*args).exit_code == 0
    assert {path.name: path.read_bytes() for path in tmp_path.glob("network-snapshot-*")} == uninterrupted


def test_a_signal_after_the_last_step_changes_nothing(pixels_zip, tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "_write_snapshots", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
    args = [f"--outdir={tmp_path}", f"--data={pixels_zip}", *SMALL, "--snapshot=1Ki", "--duration=1Ki"]
    assert run(*args).exit_code == 0
    assert find_checkpoints(tmp_path)[-1].name == "training-state-0000001.pt"


def test_nan_ends_a_run_with_one_line(pixels_zip, tmp_path):
    result = run(f"--outdir={tmp_path}", f"--data={pixels_zip}", *SMALL, "--duration=4Ki", "--ls=1e300")
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: training stopped at 0.2 kimg: 3 steps in a row with no finite gradient")
    assert not list(tmp_path.glob("*.p*t*")) + list(tmp_path.glob("*.pkl"))
