"""Peak memory does not grow with the number of images; `python -m benchmarks.memory` measures it at 1,000 and 10,000.

And what a command does about an image that memory does not hold.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from edm2_guidance.commands import generate_images

ROOT = Path(__file__).resolve().parents[1]
FEW, MANY, SIZE = 50, 350, 128
PIXELS = 3 * SIZE**2  # bytes of an image: if they were kept, the 300 more would take 15 MB
BOUND = PIXELS / 4  # an image more may take its seed, name and label, and the noise of the measurement

# Runs the jobs at both numbers of images in one process, and prints how far the second peak exceeds the first.
DRIVER = f"""
import json, os, sys
from pathlib import Path

import torch
from click.testing import CliRunner

from edm2_guidance.commands import dataset_tool, generate_images, generate_zip
from edm2_guidance.sampling import generation
from edm2_guidance.metrics import detectors, evaluation
from edm2_guidance.images.sources import StoredImages
from tests.small import FEATURE_DIM, TinyFeatures

os.fsync = lambda descriptor: None
torch.set_num_threads(1)
generation.sample = lambda self, seeds, *more: (
    torch.zeros(len(seeds), 3, {SIZE}, {SIZE}), [seed % 10 for seed in seeds]
)
net, at = sys.argv[1:]


def run(command, *args):
    result = CliRunner().invoke(command, args)
    assert result.exit_code == 0, result.output


def score(path):
    detector = detectors.Detector("tiny", {{"tiny": FEATURE_DIM}}, {{}}, TinyFeatures(), torch.device("cpu"))
    evaluation.measure(StoredImages(path, 10), [detector])


jobs = {{
    "generate_zip.py": lambda num: run(
        generate_zip.main, f"--net={{net}}", f"--num_images={{num}}", "--batch=10", "--shard-size=50",
        f"--out={{at}}/{{num}}.zip",
    ),
    "generate_images.py": lambda num: run(
        generate_images.main, f"--net={{net}}", f"--seeds=0-{{num - 1}}", "--batch=10", f"--outdir={{at}}/{{num}}"
    ),
    "scoring a ZIP": lambda num: score(f"{{at}}/{{num}}.zip"),
    "scoring a folder": lambda num: score(f"{{at}}/{{num}}"),
    "dataset_tool.py convert": lambda num: run(
        dataset_tool.main, "convert", f"--source={{at}}/{{num}}.zip", f"--dest={{at}}/{{num}}-set.zip"
    ),
}}


def peak(job, num):
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    job(num)
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


for job in jobs.values():
    job({FEW} // 2)  # what is loaded once
print(json.dumps({{name: [peak(job, {FEW}), peak(job, {MANY})] for name, job in jobs.items()}}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")
def test_peak_memory_does_not_grow_with_the_number_of_images(tiny_networks, tmp_path):
    command = [sys.executable, "-c", DRIVER, str(tiny_networks["cond"]), str(tmp_path)]
    # Freed memory goes back at once: what remains is what is held.
    allocator = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0"}
    environ = {**os.environ, **allocator, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    growth = {name: (many - few) / (MANY - FEW) for name, (few, many) in json.loads(done.stdout).items()}
    assert len(growth) == 5
    assert max(growth.values()) < BOUND, growth


def test_an_image_that_memory_does_not_hold_ends_the_command(tiny_networks, tmp_path, monkeypatch):
    """Exit code 1, one line that says what to do, and nothing that looks like an image."""
    asked = []

    def sample(generation, seeds, *more):
        asked.append(len(seeds))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nAdvice of many lines")

    monkeypatch.setattr("edm2_guidance.sampling.generation.sample", sample)
    args = [f"--net={tiny_networks['cond']}", f"--outdir={tmp_path / 'out'}", "--seeds=0-3", "--device=cpu"]
    result = CliRunner().invoke(generate_images.main, args)
    assert result.exit_code == 1
    assert asked == [4, 2, 1]
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert "sampling: not even one image fits into memory (CUDA out of memory" in errors[0]
    assert "--device" in errors[0]
    assert not list(tmp_path.rglob("*.png"))
