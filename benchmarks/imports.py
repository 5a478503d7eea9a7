"""What a short command imports: processes that make one image in one step, beside one that imports torch alone."""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.side_by_side import Options, Result, Way, compare

ROOT = Path(__file__).resolve().parents[1]
OURS = {"edm2_guidance", "dnnlib", "torch_utils", "training"}
_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)")


def run(options: Options) -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as name:
        one = ["--preset=mnist16", "--seeds=0", "--steps=1", f"--outdir={name}", "--overwrite", "--device=cpu"]
        commands = {
            "generate_images.py, one image": ["generate_images.py", *one],
            "generate_images.py --help": ["generate_images.py", "--help"],
            "reproduce.py plan": ["reproduce.py", "plan", "mnist16-cfg"],
        }
        for case, words in commands.items():
            shares = ", ".join(f"{who} {share:.0%}" for who, share in imported(words).items())
            yardstick = Way("python -c 'import torch'", partial(process, ["-c", "import torch"]))
            way = Way("the whole command", partial(process, words))
            yield from compare("imports", case, yardstick, [way], options, seen=lambda made: None, note=shares)


def process(words: list[str]) -> str:
    """What a process of this Python says on stderr. CalledProcessError if it fails."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stderr


def imported(words: list[str]) -> dict[str, float]:
    """Shares of the time that a command takes to import: torch with what it needs, this project, all else."""
    spent: Counter[str] = Counter({"torch": 0, "ours": 0, "others": 0})
    for microseconds, module in _LINE.findall(process(["-X", "importtime", *words])):
        top = module.split(".")[0]
        spent["torch" if top in ("torch", "numpy") else "ours" if top in OURS else "others"] += int(microseconds)
    return {who: time / max(spent.total(), 1) for who, time in spent.items()}
