"""python -m benchmarks: each stage's plain way beside the toolkit's, in one process, as ratios.

Prints one Markdown table, and writes it and a JSON. Every way of a stage runs in every round; the table has the median
and the quartiles of the rounds' ratios, how far the results are apart, and the share of what this machine does in
plain products or copies at that moment.
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.calibrate import calibrate
from benchmarks.report import save, table, write_row
from benchmarks.side_by_side import Options, Result
from benchmarks.stages import STAGES, lines_of
from dnnlib.atomic import check_destination
from edm2_guidance.papers.rates import store
from torch_utils.distributed import pick_device


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.split("\n\n")[1])
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    parser.add_argument("--only", default="", metavar="STAGE,...", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--quick", action="store_true", help="smallest sizes: whether everything runs")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch, on the CPU  [default: as torch]")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of a comparison, at most  [default: 5]")
    parser.add_argument("--out", default="bench", metavar="NAME", help="NAME.md and NAME.json  [default: bench]")
    parser.add_argument("--calibrate", action="store_true", help="measure rates for `reproduce.py plan` instead")
    asked = parser.parse_args(arguments)
    asked.stages = [name for name in asked.only.split(",") if name] or list(STAGES)
    unknown = [name for name in asked.stages if name not in STAGES]
    if unknown:
        parser.error(f"--only={','.join(unknown)}: give some of {', '.join(STAGES)}")
    for name in ("threads", "rounds"):
        if (value := getattr(asked, name)) is not None and value < 1:
            parser.error(f"--{name}={value}: give 1 or more")
    try:
        asked.device = pick_device(asked.device)
        if not asked.calibrate:
            check_destination(asked.out + ".md")
        elif not asked.quick:
            check_destination(store())
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return asked


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 if a way failed."""
    asked = parsed(arguments)
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    if asked.device.type == "cuda":
        torch.cuda.set_device(asked.device)
    torch.backends.cudnn.allow_tf32 = False  # what says float32 computes in float32
    options = Options(asked.device, asked.quick, asked.rounds, 2.0 if asked.quick else 10.0)
    if asked.calibrate:
        calibrate(options)
        return 0
    lines: list[Result] = []
    for name in asked.stages:
        for line in lines_of(name, options):
            write_row(line, sys.stderr)
            lines.append(line)
        save(Path(asked.out), lines, options)  # so that what ends the next stage takes nothing with it
    print(table(lines, options))
    return int(any(line.failed for line in lines))


if __name__ == "__main__":
    sys.exit(main())
