"""Peak memory of the commands at several numbers of images: `python -m benchmarks.memory [--nums 1000,10000]`.

Every command runs in a process of its own, on digits of a network too small to matter, one step of Heun each. Prints
the peak of its resident memory at each number of images, and what an image more costs: its seed, name and label,
tens or hundreds of bytes, against the 768 bytes of its pixels and the 256 of its features.

This process imports no torch: what it occupies would count in its children's peaks.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "edm2_guidance" / "pretrained" / "mnist16-refs.npz"
NETWORK = """
import sys, torch
from training.encoders import StandardRGBEncoder
from training.network_io import save_network
from training.networks_edm2 import Precond
torch.manual_seed(0)
net = Precond(16, 3, 10, model_channels=8, channel_mult=[1], num_blocks=1, attn_resolutions=[], channels_per_head=8)
save_network(sys.argv[1], net, encoder=StandardRGBEncoder())
"""

# reproduce.py with that network in place of the digits' own, which would take hours.
REPRODUCE = f"""
import runpy, sys
from pathlib import Path
from edm2_guidance.papers import presets
presets.EMBEDDED = Path(sys.argv.pop(1))
sys.argv[0] = "reproduce.py"
runpy.run_path({str(ROOT / "reproduce.py")!r}, run_name="__main__")
"""

Arguments = Callable[[Path, int], list[str]]
SCORE = ["--metrics=fd_mnist", f"--ref={REFERENCE}"]

# In this order: later commands read what earlier ones made.
COMMANDS: dict[str, Arguments] = {
    "generate_zip.py": lambda at, num: [
        f"--net={at}/net.pkl", "--steps=1", f"--num_images={num}", f"--out={at}/{num}.zip",
    ],
    "generate_images.py --outdir": lambda at, num: [
        f"--net={at}/net.pkl", "--steps=1", "--batch=64", f"--seeds=0-{num - 1}", f"--outdir={at}/{num}",
    ],
    "calculate_metrics.py gen": lambda at, num: [
        "gen", f"--net={at}/net.pkl", "--steps=1", "--batch=64", f"--num={num}", *SCORE, f"--ledger={at}/gen.jsonl",
        f"--workdir={at}/work",
    ],
    "calculate_metrics.py calc, ZIP": lambda at, num: [
        "calc", f"--images={at}/{num}.zip", f"--num={num}", *SCORE, "--again", f"--ledger={at}/calc.jsonl",
    ],
    "calculate_metrics.py calc, folder": lambda at, num: [
        "calc", f"--images={at}/{num}", f"--num={num}", *SCORE, "--again", f"--ledger={at}/calc.jsonl",
    ],
    "calculate_metrics.py ref": lambda at, num: [
        "ref", f"--data={at}/{num}.zip", "--metrics=fd_mnist", f"--dest={at}/{num}.npz",
    ],
    "dataset_tool.py convert, to ZIP": lambda at, num: [
        "convert", f"--source={at}/{num}.zip", f"--dest={at}/{num}-set.zip",
    ],
    "dataset_tool.py convert, to folder": lambda at, num: [
        "convert", f"--source={at}/{num}", f"--dest={at}/{num}-set",
    ],
    "reproduce.py search": lambda at, num: [
        "search", f"--net={at}/net.pkl", f"--gnet={at}/net.pkl", "--guidance=1", "--steps=1", "--over=weight",
        "--weights=1,2", f"--num={num}", "--blocks=1", "--name=tiny", "--metric=fd_mnist", f"--ref={REFERENCE}",
        f"--ledger={at}/search.jsonl", f"--results={at}/search",
    ],
    "reproduce.py run": lambda at, num: [
        "-c", REPRODUCE, f"{at}/pretrained", "run", "mnist16-unguided", f"--num={num}", "--blocks=1",
        f"--ledger={at}/run.jsonl", f"--results={at}/run",
    ],
}  # fmt: skip


def peak(command: list[str], folder: Path) -> tuple[int, float]:
    """Peak resident bytes and seconds of a command that has to succeed."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with open(folder / "output.txt", "w+") as output:
        start = time.monotonic()
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environ, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{output.read()[-2000:]}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nums", default="1000,10000", help="numbers of images, rising")
    parser.add_argument("--only", default="", help="commands that begin so")
    options = parser.parse_args()
    nums = [int(text) for text in options.nums.split(",")]
    print("| command | " + " | ".join(f"{num:,} images" for num in nums) + " | per image more | seconds |")
    print("|---" * (len(nums) + 3) + "|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peak(["-c", NETWORK, str(folder / "net.pkl")], folder)
        (folder / "pretrained").mkdir()
        for kind in ("cond", "uncond", "weak"):
            (folder / "pretrained" / f"mnist16-{kind}.pkl").symlink_to(folder / "net.pkl")
        (folder / "pretrained" / REFERENCE.name).symlink_to(REFERENCE)
        for command, arguments in COMMANDS.items():
            if not command.startswith(options.only):
                continue
            script = [] if command == "reproduce.py run" else [str(ROOT / command.split()[0])]
            runs = [peak([*script, *arguments(folder, num)], folder) for num in nums]
            more = (runs[-1][0] - runs[0][0]) / (nums[-1] - nums[0])
            peaks = " | ".join(f"{size / 1e6:.1f} MB" for size, _ in runs)
            seconds = ", ".join(f"{duration:.0f}" for _, duration in runs)
            print(f"| `{command}` | {peaks} | {more:.0f} bytes | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
