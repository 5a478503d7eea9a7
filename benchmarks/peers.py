"""Distances of stored statistics beside torch-fidelity, by whole processes; `make test-peers` installs it.

Ours is `calculate_metrics.py calc A.npz B.npz`. Theirs imports torch-fidelity, reads the same statistics from its cache
and computes the same distance: its own program would load its network, too.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.frechet import features
from benchmarks.side_by_side import Options, Result, Way, compare
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.reference import save_statistics
from edm2_guidance.metrics.statistics_formats import FORMATS

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ROOT / "tests" / "peers" / "programs"
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
FIDELITY = """
import sys, torch, torchvision_first
from torch_fidelity.metric_fid import fid_statistics_to_metric
print(fid_statistics_to_metric(*(torch.load(path, weights_only=False) for path in sys.argv[1:]), verbose=False))
"""


def run(options: Options) -> Iterator[Result]:
    if not PYTHON.exists():
        yield Result("peers", "torch-fidelity", note="left out: make test-peers installs it")
        return
    with tempfile.TemporaryDirectory() as name:
        ours, theirs = statistics_of_two_sets(Path(name))
        for threads in (1,) if options.quick else (1, 2):
            yardstick = Way("torch-fidelity", partial(process, theirs, Path(name), threads))
            way = Way("calc", partial(process, ours, Path(name), threads))
            case = f"fid of statistics, {threads} threads"
            yield from compare("peers", case, yardstick, [way], options, seen=lambda made: None)


def process(command: list[str], folder: Path, threads: int) -> None:
    """A process that has to succeed."""
    environ = {**os.environ, "PYTHONPATH": str(PROGRAMS), "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, cwd=folder, env=environ, check=True, capture_output=True)


def statistics_of_two_sets(folder: Path) -> tuple[list[str], list[str]]:
    """The commands that compare the same two Gaussians of 2048 features."""
    for seed, name in ((1, "a"), (2, "b")):
        rows = features(2048, 4096, seed).double()
        moments = {"fid": Moments(rows.mean(dim=0).numpy(), rows.T.cov().numpy(), len(rows))}
        save_statistics(folder / f"{name}.npz", moments, chosen=FORMATS["pytorch-fid"])
        save_statistics(folder / name, moments, chosen=FORMATS["torch-fidelity"])
    files = [f"{name}-inception-v3-compat-stat-fid-2048.pt" for name in ("a", "b")]
    ours = [sys.executable, str(ROOT / "calculate_metrics.py"), "calc", "a.npz", "b.npz", "--metrics=fid", "--again"]
    return ours, [str(PYTHON), "-c", FIDELITY, *files]
