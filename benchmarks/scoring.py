#!/usr/bin/env python3
"""What scoring costs beside others: `make bench-scoring`. Prints ratios, medians of runs in turn, CPU and wall time.

Statistics: `calculate_metrics.py calc A.npz B.npz`, the whole process by one thread and by two, beside a process that
imports torch-fidelity, reads the same statistics from its cache, and computes the same distance: its own program would
also load its network.
Images: a pass over PNGs of a ZIP and of a folder, beside the shortest loop of Pillow that ends in the same tensors.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image

from edm2_guidance.images.sources import StoredImages
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.reference import save_statistics
from edm2_guidance.metrics.statistics_formats import FORMATS

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "tests" / "peers" / "programs"
PEER_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
FIDELITY = """
import sys, torch, torchvision_first
from torch_fidelity.metric_fid import fid_statistics_to_metric
print(fid_statistics_to_metric(*(torch.load(path, weights_only=False) for path in sys.argv[1:]), verbose=False))
"""
Costs = tuple[float, float]  # CPU and wall seconds


def process(command: list[str], folder: Path, threads: int) -> Costs:
    """A process that has to succeed."""
    before, start = os.times(), time.perf_counter()
    environ = {**os.environ, "PYTHONPATH": str(PEERS), "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, cwd=folder, env=environ, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, time.perf_counter() - start


def call(work: Callable[[], object]) -> Costs:
    """A call in this process."""
    cpu, start = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - start


def compare(name: str, ours: Callable[[], Costs], theirs: Callable[[], Costs], repeats: int) -> None:
    """Runs both in turn, once to warm up, and prints the median of the pairs' ratios and their range."""
    pairs = [(ours(), theirs()) for _ in range(repeats + 1)][1:]
    for kind, what in enumerate(("CPU", "wall")):
        ratios = sorted(a[kind] / b[kind] for a, b in pairs)
        median, spread = statistics.median(ratios), f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{name:40} {what:4}  {median:5.2f}   {spread}", flush=True)


def statistics_of_two_sets(folder: Path) -> tuple[list[str], list[str]]:
    """The commands that compare the same two Gaussians of 2048 features, full rank."""
    draws = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, -2, 2048)
    mixed = torch.linalg.qr(torch.randn(2048, 2048, generator=draws))[0]
    for name, spread in (("a", 1.0), ("b", 1.1)):
        rows = torch.randn(4096, 2048, generator=draws) * scale @ mixed * spread
        moments = {"fid": Moments(rows.double().mean(dim=0).numpy(), rows.T.double().cov().numpy(), len(rows))}
        save_statistics(folder / f"{name}.npz", moments, chosen=FORMATS["pytorch-fid"])
        save_statistics(folder / name, moments, chosen=FORMATS["torch-fidelity"])
    files = [f"{name}-inception-v3-compat-stat-fid-2048.pt" for name in ("a", "b")]
    ours = [sys.executable, str(ROOT / "calculate_metrics.py"), "calc", "a.npz", "b.npz", "--metrics=fid", "--again"]
    return ours, [str(PEER_PYTHON), "-c", FIDELITY, *files]


def save_images(folder: Path, size: int, num: int) -> tuple[Path, Path]:
    """A ZIP and a folder of the same PNGs, as smooth as photographs."""
    draws, plain, zipped = np.random.RandomState(0), folder / str(size), folder / f"{size}.zip"
    plain.mkdir()
    with zipfile.ZipFile(zipped, "w") as file:
        for number in range(num):
            few = Image.fromarray(draws.randint(0, 256, (size // 4, size // 4, 3), dtype=np.uint8))
            path = plain / f"img{number:08d}.png"
            few.resize((size, size), Image.Resampling.BICUBIC).save(path)
            file.write(path, path.name)
    return zipped, plain


def pillow(path: Path, batch: int = 64) -> None:
    """All images, in the order of their names, as uint8 tensors [N, 3, H, W]."""
    file = None if path.is_dir() else zipfile.ZipFile(path)
    names = sorted(entry.name for entry in path.iterdir()) if file is None else sorted(file.namelist())
    for start in range(0, len(names), batch):
        images = []
        for name in names[start : start + batch]:
            data = (path / name).read_bytes() if file is None else file.read(name)
            images.append(np.asarray(Image.open(io.BytesIO(data))))
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def our_pass(path: Path) -> None:
    for _ in StoredImages(path):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--num", type=int, default=2000, help="images")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if PEER_PYTHON.exists():
            ours, theirs = statistics_of_two_sets(folder)
            for threads in (1, 2):
                both = partial(process, ours, folder, threads), partial(process, theirs, folder, threads)
                compare(f"fid of statistics / torch-fidelity, {threads} thr.", *both, options.repeats)
        for size in (16, 32, 64):
            for path in save_images(folder, size, options.num):
                both = (partial(call, partial(our_pass, path)), partial(call, partial(pillow, path)))
                kind = "folder" if path.is_dir() else "ZIP"
                compare(f"{size}x{size} PNGs of a {kind} / Pillow", *both, options.repeats)


if __name__ == "__main__":
    main()
