"""Mutants of every kind of file that is read (see `tests.fuzz.run`): a fixed sample, and with -m slow very many.

The readers run in a process of their own, since an audit hook cannot be taken away again and memory is limited.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SLOW = ["network pickle", "network pickle, inspected", "image shard", "image shard plan", "feature shard"]
FAST = [
    "network safetensors", "statistics pickle", "statistics npz", "tensor file", "image zip", "image npz", "png",
    "jpeg, webp, bmp", "dataset.json", "recipe.json", "recipe made again", "options", "latents zip", "diagnostics",
    "ledger", "download record", "partial download",
]  # fmt: skip
COUNT = int(os.environ.get("EDM2_FUZZ_COUNT", "20000"))  # mutants per format in the long test

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux: the memory limit")


def in_process(*arguments: str, seconds: float | None = None) -> Any:
    """The JSON that another process prints last."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(report: dict[str, Any], counts: dict[str, int]) -> None:
    findings = {name: result["findings"] for name, result in report.items() if result["findings"]}
    assert findings == {}, json.dumps(findings, indent=1)[:5000]
    assert {name: result["mutants"] for name, result in report.items()} == counts
    assert all(result["accepted"] > 0 for result in report.values()), "mutants that reach nothing show nothing"


def test_a_fixed_sample_of_mutants() -> None:
    """What comes out is a result or an error of ours that names the file; nothing else happens meanwhile."""
    counts = dict.fromkeys(FAST, 50) | dict.fromkeys(SLOW, 10)
    report = in_process("-m", "tests.fuzz.run", *(f"{name}:{count}" for name, count in counts.items()), seconds=600)
    check(report, counts)
    mended = {"partial download", "recipe.json"}  # fetched again; noted and left out
    assert all(report[name]["refused"] > 14 for name in FAST if name not in mended)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST + SLOW)
def test_many_mutants(name: str) -> None:
    check(in_process("-m", "tests.fuzz.run", f"--count={COUNT}", name), {name: COUNT})


# Readers that do what none may do, and what has to be said of each.
PLANTS = """
import json, os, sys, tempfile
from pathlib import Path
from tests.fuzz import run
from tests.fuzz.formats import Format

def other_exception(folder): {}["x"]
def not_named(folder): raise ValueError("something is wrong")
def endless_message(folder): raise ValueError("x.bin " + "x" * 5000)
def much_memory(folder): bytes(3 << 30)
def much_time(folder):
    while True: pass
def writing(folder): open(folder / "y", "w").close()
def writing_outside(folder): (folder.parent / "y").write_text("")
def removing(folder): os.remove(folder / "x.bin")
def reading_outside(folder): open("/etc/hostname").close()
def process(folder): os.system("true")
def importing(folder): import colorsys
def evaluating(folder): eval("1")
def damaged_content(folder): return (folder / "x.bin").read_bytes()
def good(folder): return b"original"
def refusing(folder): raise ValueError("x.bin is damaged")

run.SECONDS = 0.3
watch = run.Watch()
said = {}
with tempfile.TemporaryDirectory() as name:
    folder = Path(name).resolve()
    readers = [value for value in list(globals().values()) if getattr(value, "__module__", "") == "__main__"]
    run.limit_memory()
    for number, read in enumerate(readers):
        writes = read is writing_outside
        form = Format("x.bin", "", [b"original"], lambda _: b"original", sealed=True, writes=writes)
        fuzzer = run.Fuzzer("x", form, watch, folder / str(number))
        object.__setattr__(fuzzer.form, "read", read)
        said[read.__name__] = [found["problem"] for found in fuzzer.run(range(2))["findings"]]
print(json.dumps(said))
"""


@pytest.mark.slow
def test_the_watch_sees_what_it_is_for() -> None:
    said = in_process("-c", PLANTS, seconds=300)
    assert said.pop("good") == said.pop("refusing") == []
    expected = {
        "other_exception": "KeyError",
        "not_named": "does not name the file",
        "endless_message": "a message of 5006 characters",
        "much_memory": "MemoryError",
        "much_time": "more than 0.3 seconds",
        "writing": "open(",
        "writing_outside": "open(",
        "removing": "os.remove(",
        "reading_outside": "/etc/hostname",
        "process": "os.system",
        "importing": "import",
        "evaluating": "compile",
        "damaged_content": "content changed under its checksum",
    }
    assert said.keys() == expected.keys()
    for name, words in expected.items():
        assert words in "".join(said[name]), (name, said[name])
