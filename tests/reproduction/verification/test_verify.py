"""reproduce.py verify, offline: each check in turn on small files, and in turn with what it looks at broken."""

import errno
import fcntl
import importlib
import json
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from edm2_guidance.commands import calculate_metrics, reproduce
from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.metrics.extractors.base import Weights
from edm2_guidance.reproduction.verification import check, commands, files, numerics, run
from edm2_guidance.reproduction.verification.check import CHECKS, Check, Finding, Place, Skip
from edm2_guidance.reproduction.verification.run import Outcome, Settings, here
from tests.reproduction.verification.conftest import save_tiny_network, statistics
from tests.test_readme import contexts
from training.networks_edm2 import Precond

ROOT = Path(__file__).resolve().parents[3]


def outcome(name, place, **values):
    """Of a check, made in this process."""
    return here(CHECKS[name], replace(place, **values))


def good(name, place, **values):
    found = outcome(name, place, **values)
    assert found.status == "ok", found.reason + found.trace
    return found


def bad(name, place, *words):
    """It failed, for a reason with these words."""
    found = outcome(name, place)
    assert found.status == "FAILED"
    for word in words:
        assert word in found.reason, found.reason
    return found


def cells(found, what):
    """What was found and expected, of the row of this name."""
    return next(row[1:] for row in found.table if row[0] == what)


@pytest.fixture
def own_root(place, published, tmp_path, monkeypatch):
    """A folder in place of the model server, whose files can be changed."""
    root = tmp_path / "root"
    for path in published.rglob("*.pkl"):
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        os.link(path, root / path.parent.name / path.name)
    monkeypatch.setenv("EDM2_MODEL_ROOT", str(root))
    return root


def put(path, data):
    path.unlink()
    path.write_bytes(data)


def main_network(root):
    return root / "posthoc-reconstructions" / check.preset_for("fid").net.rpartition("/")[2]


# The published files.


def test_files_as_they_should_be(place, server):
    """Fetched from the server, by checks of which each leaves what the next ones need."""
    networks = good("networks", place)
    assert networks.summary == "2 networks"
    assert cells(networks, "edm2-img512-xs-2147483-0.045: label_dim") == ["1000", "1000"]
    assert cells(networks, "edm2-img512-xs-uncond-2147483-0.045: label_dim") == ["0", "0"]
    assert cells(networks, "edm2-img512-xs-2147483-0.045: encoder.scale")[0].startswith("0.1199 0.10823")
    found = good("statistics", place)
    assert cells(found, "fid: images")[0] == "1281167"
    assert cells(found, "fid: lowest mean")[0] == "0.25"
    assert len(list(Path(os.environ["DNNLIB_CACHE_DIR"], "downloads").glob("*.pkl"))) == 3
    assert cells(good("vae", place), "decoded images")[0] == "64 pixels wide"


def test_offline_asks_no_server(place, server, monkeypatch):
    monkeypatch.setattr(files, "expected", lambda source: None)  # the double fetches
    found = outcome("networks", place, offline=True)
    assert found.status == "FAILED"
    assert "is not in the cache, and offline was asked for" in found.reason


def test_a_file_cut_short(place, server):
    put(main_network(server), main_network(server).read_bytes()[:-1000])
    assert "does not end as a pickle does" in bad("networks", place, "DownloadError").reason


def test_a_file_of_something_else(place, own_root):
    put(main_network(own_root), pickle.dumps({"ema": os.getcwd}))
    bad("networks", place, "edm2-img512-xs-2147483-0.045: ", "getcwd")


def test_what_is_known_of_the_published_networks():
    """By the papers' numbers, not by tiny ones."""
    known = files.expected(check.preset_for("fid").net)
    assert (known.parameters, known.num_bytes) == (124713253, 249426506)
    assert numerics.download_bytes() == pytest.approx(335e6 + 4 * 249e6 + 95628359 + 1217586395, rel=0.01)
    assert known.arguments == {"img_resolution": 64, "img_channels": 4, "label_dim": 1000, "model_channels": 128,
                               "sigma_data": 0.5, "use_fp16": True}  # fmt: skip
    assert files.expected(check.preset_for("fid").gnet).arguments["label_dim"] == 0


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"model_channels": 16}, ["parameters: 48662, expected 16590"]),
        ({"sigma_data": 0.25}, ["sigma_data: 0.25, expected 0.5"]),
        ({"use_fp16": False}, ["use_fp16: False, expected True"]),
    ],
)
def test_another_network_under_the_name(place, own_root, broken, words):
    main_network(own_root).unlink()
    save_tiny_network(main_network(own_root), **broken)
    assert bad("networks", place, *words).trace == ""  # the next checks may go on with it


def test_a_file_of_another_size(place, monkeypatch):
    plain = files.expected
    monkeypatch.setattr(files, "expected", lambda source: replace(plain(source), num_bytes=10**6))
    bad("networks", place, "edm2-img512-xs-2147483-0.045: size", "expected about 1,000,000")


def test_another_encoder(place, monkeypatch):
    monkeypatch.setattr(files, "RAW_STD", (4.17, 4.62, 3.71, 3.29))
    bad("networks", place, "encoder.scale")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"num_images": 50000}, ["fid: images: 50000, expected 1281167"]),
        ({"fid": {"mu": -np.ones(32), "sigma": np.eye(32)}}, ["lowest mean: -1"]),
        ({"fid": {"mu": np.ones(32), "sigma": np.diag([1.0] * 31 + [-1.0])}}, ["img512.pkl"]),
        ({"fid": {"mu": np.ones(32), "sigma": np.ones((32, 32)) - 2 * np.eye(32) * 0.9}}, ["img512.pkl"]),
        ({"fd_dinov2": {"mu": np.ones(31), "sigma": np.eye(31)}}, ["img512.pkl", "31"]),
        ({"more": "x" * 10000}, ["size"]),
    ],
)
def test_wrong_statistics(place, own_root, broken, words):
    put(own_root / "dataset-refs" / "img512.pkl", pickle.dumps(statistics(**broken)))
    bad("statistics", place, *words)


def test_another_vae(place, monkeypatch):
    from diffusers import AutoencoderKL

    plain = AutoencoderKL.decode
    monkeypatch.setattr(AutoencoderKL, "decode", lambda self, x: plain(self, 0 * x))
    bad("vae", place, "correlation")
    monkeypatch.setenv("EDM2_VAE", "nowhere")
    bad("vae", place, "there is no such folder")


def test_detectors_that_are_not_the_published_ones(place, monkeypatch):
    extractor = find_metric("fid").extractor
    path = extractor.weights.source
    monkeypatch.setattr(type(extractor), "weights", Weights(path, sha256="0" * 64))
    bad("fid-network", place, "is not the expected file")
    monkeypatch.setattr(type(extractor), "weights", Weights(path, num_bytes=1000))
    bad("fid-network", place, "size", "expected 1000")
    monkeypatch.setattr(type(extractor), "weights", Weights(path))
    nothing = {"pool": torch.full((1, 32), torch.nan)}
    monkeypatch.setattr(type(extractor), "run", lambda self, net, images, wanted: nothing)
    bad("fid-network", place, "finite: False")


# Numbers.


def test_the_machine(place, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = good("machine", place)
    assert cells(found, "torch")[0] == torch.__version__
    assert found.values["key"][2:] == [torch.__version__, "cpu"]
    assert cells(found, "EDM2_VAE")[0].endswith("/vae"), "files from elsewhere are told"
    bad("machine", replace(place, device="cuda:7"), "is not available here")


class Device:
    """The CPU in the place of a device: `forms` has what a CUDA device has, and each form changes the output."""

    def __init__(self, monkeypatch, change):
        plain = Precond.forward

        def forward(net, x, sigma, labels=None, force_fp32=False, **more):
            return change(plain(net, x, sigma, labels), force_fp32)

        monkeypatch.setattr(numerics, "forms", lambda device: real_forms(torch.device("cuda")))
        monkeypatch.setattr(Precond, "forward", forward)
        monkeypatch.setattr(numerics, "SIGMAS", (80.0, 0.2))


real_forms = numerics.forms


def test_precisions_on_the_cpu_alone(place):
    found = good("precision", place)
    assert len(found.table) == 1
    assert found.summary.endswith("; cpu: nothing to compare with the CPU")
    slow = {"precision": {"cpu_seconds": 3.0}}
    for name in ("images", "speed", "resume", "workers", "fid-1000"):
        skipped = outcome(name, place, values=slow, seconds=10)
        assert skipped.status == "skipped"
        assert "the CPU would take about " in skipped.reason
    hours = 2 * (3 * 2 + 1260.9 / 45.5) * 3 / 3600  # 2 images, of 3 evaluations of both networks, and the decoder's
    assert f"about {hours:.1f} h" in outcome("images", place, values=slow, seconds=10).reason


def test_precisions_of_a_device(place, monkeypatch):
    """At the highest level D is c_out F, so that an error of D is as large in F."""
    Device(monkeypatch, lambda d, full: d if full else d * 1.0001)
    found = good("precision", place)
    assert [row[0] for row in found.table[1:]] == ["float32", "float32 with TF32", "float16"]
    assert found.table[1][1:] == ["0.0e+00", "0.0e+00", "0.001"]
    assert float(found.table[3][1]) == pytest.approx(1e-4, rel=0.05)
    assert 0 < float(found.table[3][2]) < 0.05
    assert found.table[3][3] == "0.05"


@pytest.mark.parametrize("factor", [1.5, float("nan")])
def test_a_device_that_computes_something_else(place, monkeypatch, factor):
    Device(monkeypatch, lambda d, full: d if full else d * factor)
    found = bad("precision", place, "float16: ", "are allowed")
    assert "float32" not in found.reason.split(": ")[0]


def test_output_that_is_not_finite(place, monkeypatch):
    Device(monkeypatch, lambda d, full: d * float("nan"))
    bad("precision", place, "float32 on the CPU: not finite")


@pytest.mark.cuda
def test_a_real_device(place):
    on_device = replace(place, device="cuda")
    assert len(good("precision", on_device).table) == 4
    good("images", on_device)
    assert good("speed", on_device).values["images_per_second"] > 0
    assert cells(good("machine", on_device), "device memory")[0].endswith(" GiB")


def test_images_of_the_cpu(place):
    found = good("images", place)
    assert found.summary == "made on the CPU alone"
    assert (place.folder / "images.png").is_file()


def test_images_of_a_device(place, monkeypatch):
    """Noise from elsewhere makes other images, which no rounding does."""
    made = numerics._sampled
    monkeypatch.setattr(numerics, "pick_device", lambda name: torch.device("meta"))
    monkeypatch.setattr(numerics, "_sampled", lambda recipe, device, place: made(recipe, "cpu", place))
    same = good("images", place)
    assert cells(same, "seed 1: correlation")[0] == "1.0000"
    assert cells(same, "seed 1: levels of 255 apart")[0] == "mean 0.00, most 0"

    def other(recipe, device, place):
        return made(replace(recipe, num_steps=3) if device == "meta" else recipe, "cpu", place)

    monkeypatch.setattr(numerics, "_sampled", other)
    changed = outcome("images", place)
    assert float(cells(changed, "samples: from the CPU's, relative")[0]) > 0.01


def test_speed(place, monkeypatch):
    monkeypatch.setattr(numerics, "LARGEST", 4)
    sizes = []
    plain = numerics.sample

    def sample(generation, seeds):
        sizes.append(len(seeds))
        if len(seeds) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(generation, seeds)

    monkeypatch.setattr(numerics, "sample", sample)
    found = good("speed", place)
    assert sizes == [1, 1, 2, 4]
    assert found.table[3][:2] == ["4", "does not fit"]
    assert found.values["images_per_second"] > 0
    assert found.values["batch"] in (1, 2)


# Whole commands.


@pytest.fixture
def in_process(monkeypatch):
    """Commands run to their end in this process."""

    def run(words, log):
        done = CliRunner().invoke(calculate_metrics.main, list(words[1:]))
        if done.exit_code:
            raise RuntimeError(done.output)

    monkeypatch.setattr(commands, "run", run)


def test_a_score(place, in_process):
    found = here(replace(CHECKS["fid-1000"], args=("fid", 4)), place)
    assert found.status == "ok", found.reason + found.trace
    assert "none known of so few images" in cells(found, "fid of 4 images, 95 % interval")[1]
    assert "above the 2.91 of 50,000 images (published): fid of few images is higher" in found.table[2][2]
    assert found.values["value"] > 2.91


def test_scores_that_cannot_be(place):
    line = {"metric": "fid", "value": 2.5, "interval": {"low": 2.4, "high": 2.6}, "flags": []}
    assert commands._judged(line, 1000, 2.91).problems
    slow = outcome("fid-1000", place, values={"speed": {"images_per_second": 0.1}})
    assert slow.status == "skipped"
    assert "1,000 images would take 167 min" in slow.reason


def program(monkeypatch, text):
    """A script in the place of this program's commands: it gets their words."""
    monkeypatch.setattr(commands, "_command", lambda name, words: [sys.executable, "-S", "-c", text, *words])


WRITES = """
import sys, time, pathlib
out = pathlib.Path(next(word for word in sys.argv if word.startswith("--out="))[6:])
worker = [word for word in sys.argv if word.startswith("--worker=")]
shards = out.with_name(out.name + ".shards")
shard = shards / "shard-0.zip"
if out.name == "killed.zip" and not shard.exists():
    shards.mkdir()
    shard.write_bytes(b"")
    time.sleep(60)
"""


def test_a_kill_and_two_workers(place, monkeypatch):
    program(monkeypatch, WRITES + "out.write_bytes(b'images')")
    assert good("resume", place).summary == "killed with 1 of 4 shards there, then finished"
    good("workers", place)


@pytest.mark.parametrize(
    ("name", "script", "words"),
    [
        ("resume", WRITES + "out.write_bytes(out.name.encode())", ["bytes of the ZIP: differ, expected equal"]),
        ("resume", WRITES + "sys.exit('Error: no network') if shards.exists() else out.write_bytes(b'')",
         ["exit code 1: Error: no network"]),
        ("workers", WRITES + "sys.exit('Error: lost') if worker == ['--worker=1/2'] else out.write_bytes(b'')",
         ["worker 1: exit code: 1, expected 0", "exit code 1: Error: lost"]),
        ("workers", WRITES + "out.write_bytes(bytes(len(worker)))", ["bytes of the ZIP: differ"]),
    ],
)  # fmt: skip
def test_commands_that_break(place, monkeypatch, name, script, words):
    program(monkeypatch, script)
    bad(name, place, *words)


def test_a_command_that_is_done_too_soon_is_not_blamed(place, monkeypatch):
    program(monkeypatch, WRITES.partition("if out.name")[0] + "out.write_bytes(b'')")
    assert outcome("resume", place).reason == "it was done before it could be killed"


# All of them, and the report.


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    """The command, whose checks are made in this process, by `answers` where these have one."""
    monkeypatch.chdir(tmp_path)
    answers, made = {}, []

    def isolated(check, place):
        made.append(check.name)
        monkeypatch.setattr(Check, "__call__", lambda check, place: answers.get(check.name, fine)(place))
        return here(check, place)

    def fine(place):
        return Finding("fine")

    answers["machine"] = lambda place: Finding("a machine", values={"key": ["1", "abc", "2.13", "cpu"]})
    monkeypatch.setattr(run, "isolated", isolated)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    def call(*words):
        made.clear()
        return CliRunner().invoke(reproduce.main, ["verify", *words])

    call.answers, call.made = answers, made
    return call


def report():
    return Path("verify/report.md").read_text()


def breaking(error):
    def answer(place):
        raise error

    return answer


def test_all_is_well(invoke):
    done = invoke("--quick")
    assert done.exit_code == 0, done.output
    assert invoke.made == [name for name, each in CHECKS.items() if each.in_quick]
    assert report().startswith(
        "# edm2-guidance verify: 11 ok, 0 FAILED, 0 skipped\n\n| check | result | seconds | what |"
    )
    assert "python network_tool.py inspect https://nvlabs-fi-cdn.nvidia.com/" in report()
    again = invoke("--quick")
    assert invoke.made == ["machine"], "what was ok is read from the report"
    assert again.exit_code == 0
    assert again.stdout.count("fine (found before)\n") == 10
    whole = invoke()
    assert invoke.made == ["machine", *(name for name, each in CHECKS.items() if not each.in_quick)]
    assert whole.exit_code == 0
    invoke("--checks=speed", "--again")
    assert invoke.made == ["machine", "speed"]
    assert "16 ok" in report()
    invoke.answers["machine"] = lambda place: Finding("a machine", values={"key": ["1", "abc", "2.13", "another"]})
    invoke("--quick")
    assert len(invoke.made) == 11, "another device is looked at anew"


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "machine"])
def test_each_that_fails_is_told_and_the_others_go_on(invoke, name):
    invoke.answers[name] = breaking(OSError("the wire | was `cut`"))
    done = invoke()
    assert done.exit_code == 1
    assert done.stderr.endswith(
        f"Error: 1 check of 16 failed: {name}; please send verify/report.md to the maintainers\n"
    )
    waits = {each.name for each in CHECKS.values() if name in each.needs or lost_with(name, each)}
    assert CHECKS.keys() - invoke.made == waits
    assert f"| {name} | FAILED |" in report()
    assert r"the wire \| was \`cut\`" in report()
    assert "\n    OSError: the wire | was `cut`\n" in report()
    assert f"python reproduce.py verify --checks={name}\n" in report()
    if name == "networks":
        del invoke.answers[name]
        assert invoke().exit_code == 0
        assert set(invoke.made) == {"machine", name, *waits}, "and what was ok is not made again"


def lost_with(name, other):
    """Without networks there is no VAE, whose name they say."""
    return any(name in CHECKS[need].needs for need in other.needs)


def test_what_is_wrong_but_there_is_used(invoke):
    invoke.answers["networks"] = lambda place: Finding(problems=["parameters: 3, expected 4"])
    done = invoke("--quick")
    assert done.exit_code == 1
    assert "1 check of 11 failed: networks" in done.stderr
    assert len(invoke.made) == 11


def test_a_machine_without_its_device_has_no_other_checks(invoke):
    invoke("--quick")
    invoke.answers["machine"] = breaking(ValueError("--device=cuda is not available here"))
    done = invoke("--quick", "--device=cuda")
    assert done.exit_code == 1
    assert invoke.made == ["machine"]
    assert "10 ok, 1 FAILED" in report(), "what was found before stays"
    assert " --checks=machine --device=cuda --quick\n" in report()


def test_skipped_is_not_failed(invoke):
    invoke.answers["fid-1000"] = breaking(Skip("1,000 images would take 40 h"))
    done = invoke("--quick")
    assert done.exit_code == 0
    assert "10 ok, 0 FAILED, 1 skipped" in report()
    assert "1,000 images would take 40 h" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_the_report(invoke, number):
    def interrupted(place):
        os.kill(os.getpid(), number)
        signal.pause()

    invoke.answers["vae"] = interrupted
    done = invoke("--quick")
    assert done.exit_code == 128 + number
    assert "what was found is in verify/report.md; the same command goes on" in done.stderr
    assert "3 ok, 0 FAILED, 0 skipped, 8 not made" in report()
    assert "Not made yet: vae, fid-network, precision" in report()
    assert json.loads(Path("verify/report.json").read_text())["checks"].keys() == {"machine", "networks", "statistics"}


def test_all_together_take_no_longer_than_they_may(tmp_path, monkeypatch):
    """The last may take what is left, and is not blamed if it wants more."""
    now, asked = [0.0], []

    def attempt(check, place):
        asked.append(place.seconds)
        now[0] += 160
        in_time = len(asked) in (1, 2, 3)
        return Outcome("ok", values={"key": ["x"]}) if in_time else Outcome("FAILED", "out of time after 2 min")

    monkeypatch.setattr(run, "attempt", attempt)
    names = run.wanted(quick=True)
    outcomes = dict(run.verify(Settings(tmp_path, names, quick=True), {}, clock=lambda: now[0]))
    assert asked == [60, 240, 120, 120], "the sum is above 600"
    assert outcomes["vae"].status == "FAILED"
    assert {outcomes[name].reason for name in names[4:]} == {"no time is left: start again, it goes on"}
    now[0], asked[:] = 0.0, [0.0]
    monkeypatch.setattr(run, "MINUTES", {True: 7.0})
    outcomes = dict(run.verify(Settings(tmp_path, names, quick=True), {}, clock=lambda: now[0]))
    assert asked[1:] == [60, 240, 100]
    assert outcomes["statistics"] == Outcome("skipped", "no time is left: start again, it goes on", key=["x"])


def test_a_disk_that_is_full(invoke, monkeypatch):
    """The report is at least on the screen."""

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(run, "atomic_path", full)
    done = invoke("--checks=speed")
    assert done.exit_code == 1
    assert "# edm2-guidance verify: 2 ok" in done.stdout
    assert "report.json: No space left on device" in done.stderr


def test_a_place_that_cannot_be_written_is_refused_before_any_check(invoke):
    Path("file").write_text("")
    done = invoke("--outdir=file/x")
    assert (done.exit_code, invoke.made) == (2, [])
    Path("verify").mkdir()
    Path("verify/report.json").write_text("[]")
    done = invoke()
    assert (done.exit_code, invoke.made) == (2, [])
    assert "verify/report.json is no report of this version" in done.stderr


@pytest.mark.parametrize("command", sorted({command for each in CHECKS.values() for command in each.by_hand}))
def test_commands_to_repeat_checks_by_hand_parse(command):
    _, script, *arguments = shlex.split(command)
    contexts(importlib.import_module(f"edm2_guidance.commands.{Path(script).stem}").main, arguments)


def test_several_processes_are_refused(invoke, monkeypatch):
    """Whose names those that it starts would take for theirs."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = invoke()
    assert (done.exit_code, invoke.made) == (2, [])
    assert "without torchrun or srun" in done.stderr


def test_names_of_checks(invoke):
    done = invoke("--checks=presicion")
    assert done.exit_code == 2
    assert "there is no check 'presicion'; near it: precision (all: --checks=list)" in done.stderr
    listed = invoke("--checks=list")
    assert listed.exit_code == 0
    assert all(name in listed.stdout for name in CHECKS)


def test_nothing_secret_is_told(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    found = run._broken(OSError("https://user:word@host/edm2?sig=abc /home/someone/.cache"))
    assert found.reason == "OSError: https://host/edm2?... ~/.cache"
    assert not {"someone", "word", "abc"} & set(re.findall(r"\w+", found.trace))
    monkeypatch.setenv("HOME", "/")
    assert run._shown("/a/b") == "/a/b"


# Processes of their own.


def probe(name, seconds, tmp_path):
    place = Place(tmp_path, "cpu", True, seconds, {})
    return run.attempt(Check("probe", "?", f"tests.reproduction.verification.probes:{name}", 1, 1), place)


def test_a_process_that_dies(tmp_path):
    found = probe("dies", 60, tmp_path)
    assert (found.status, found.reason) == ("FAILED", "its process ended with exit code 7")
    assert found.trace == "last words\n"


@pytest.mark.slow
def test_a_process_that_crashes_says_where(tmp_path):
    found = probe("crashes", 60, tmp_path)
    assert "exit code -11" in found.reason
    assert "Segmentation fault" in found.trace
    assert "in crashes" in found.trace


def test_a_process_that_takes_too_long_ends_with_all_that_it_started(tmp_path, monkeypatch):
    """Its time is over once it sleeps, and what it started does."""

    def poll(connection, seconds):
        end = time.monotonic() + 60
        while not (tmp_path / "ready").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        return False

    monkeypatch.setattr(Connection, "poll", poll)
    found = probe("sleeps", 90, tmp_path)
    assert found.status == "FAILED"
    assert found.reason == "out of time after 1.5 min: start again, or run it by hand"
    assert "in sleeps" in found.trace, "where it was"
    began = time.monotonic()
    with open(tmp_path / "held") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the child holds it for minutes, if it lives
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_all_of_it_as_a_user_runs_it(place, own_root, tmp_path, monkeypatch):
    """In processes of their own, to which small files are other ones than the published: that alone is told."""
    parts = {}
    for name, dim in {"fid": 2048, "fd_dinov2": 1024}.items():
        parts[name] = {"mu": np.full(dim, 0.25), "sigma": np.eye(dim)}
    put(own_root / "dataset-refs" / "img512.pkl", pickle.dumps(statistics(**parts)))
    words = [sys.executable, str(ROOT / "reproduce.py"), "verify", "--device=cpu", "--quick"]
    names = "machine,networks,statistics,vae,precision,images,speed,resume,workers"
    done = subprocess.run([*words, f"--checks={names}"], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    outcomes = run.load(Path("verify"))
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        **dict.fromkeys(names.split(","), "ok"), "networks": "FAILED", "vae": "FAILED"
    }  # fmt: skip
    assert "parameters: 16590, expected 124713253" in outcomes["networks"].reason
    assert outcomes["vae"].reason == "weights, in float32: 4 bytes, expected about 335,000,000"
    assert outcomes["resume"].summary.startswith("killed with ")
    assert done.stderr.endswith(
        "2 checks of 9 failed: networks, vae; please send verify/report.md to the maintainers\n"
    )
    (work,) = (path for path in Path("verify").iterdir() if path.is_dir())
    assert {"alone.zip", "killed.zip", "shared.zip", "images.png"} <= {path.name for path in work.iterdir()}
