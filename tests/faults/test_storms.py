"""Storms, small here; with -m slow as docs/reliability.md tells them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYOUTS = "--layout=number,steal,rank"


def storms(*options, timeout=300):
    command = [sys.executable, "-m", "tests.faults.storm", *options]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "options", [["--what=zip"], pytest.param(["--what=score", "--layout=steal"], marks=pytest.mark.slow)]
)
def test_a_few_blows(options):
    """At least one of them lands in the work; which ones do is not the same on every machine."""
    (record,) = storms(
        *options,
        "--workers=2",
        "--kills=5",
        "--num=96",
        "--shard-size=8",
        "--signals=KILL,TERM,INT",
        "--pause",
        "0.02",
        "0.2",
    )  # fmt: skip
    assert record["same"]
    assert sum(number for code, number in record["exit codes"].items() if code != "0") >= 1
    assert record["exit codes"]["0"] == 2


@pytest.mark.parametrize(
    ("what", "workers"),
    [
        pytest.param("score", "3", marks=pytest.mark.slow),  # by fewer processes: test_a_few_blows, test_workers.py
        pytest.param("zip", "1,2,3,5", marks=pytest.mark.slow),
        pytest.param("score", "1,2,3,5", marks=pytest.mark.slow),
    ],
)
def test_one_result_in_any_layout(what, workers):
    """Numbered, stealing and as ranks."""
    records = storms(f"--what={what}", LAYOUTS, f"--workers={workers}", "--kills=0", "--num=22", "--shard-size=4")
    assert len({(record["layout"], record["workers"]) for record in records}) == 3 * len(workers.split(","))
    assert [record["exit codes"] for record in records] == [{"0": record["workers"]} for record in records]
    assert all(record["same"] for record in records), records


@pytest.mark.slow
@pytest.mark.parametrize("what", ["zip", "diagnostics", "score"])
@pytest.mark.parametrize("more", [[LAYOUTS, "--signals=KILL"], ["--signals=KILL,TERM,INT,STOP", "--layout=steal"]])
def test_thirty_blows_on_two_thousand_images(what, more):
    for record in storms(f"--what={what}", "--workers=1,2,3,5", "--kills=30", "--num=2000", *more, timeout=7200):
        assert record["same"], record
        assert sum(record["sent"].values()) == 30
