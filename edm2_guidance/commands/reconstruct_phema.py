"""Networks of other EMA lengths from the snapshots of a training run (post-hoc EMA)."""

from typing import Any

import click

from edm2_guidance.cli.command import Command, bad_input, keeps, stack
from edm2_guidance.cli.lists import FloatList
from edm2_guidance.cli.progress import progress_bar


def option(name: str, metavar: str, kind: Any, text: str, **kwargs: Any) -> Any:
    """One row of the table below."""
    return click.option(name, metavar=metavar, type=kind, help=text, **kwargs)


INT = click.IntRange(min=1)


# fmt: off
OPTIONS = stack([
    option("--indir",     "DIR|URL", str,       "Snapshots, PREFIX-KIMG-LENGTH.pkl", required=True),
    option("--inprefix",  "STR",     str,       "Only those of this prefix (needed if there are several)"),
    option("--instd",     "LIST",    FloatList(unique=True), "Only those of these lengths"),
    option("--outdir",    "DIR",     str,       "Where the new networks go", required=True),
    option("--outprefix", "STR",     str,       "Prefix of their names", default="phema", show_default=True),
    option("--outstd",    "LIST",    FloatList(unique=True), "Lengths to make", required=True),
    option("--outkimg",   "KIMG",    INT,       "Time in thousands of images; default: the last snapshot"),
    click.option("--skip", is_flag=True, help="Leave alone what is there already"),
    option("--batch",     "INT",     INT,       "Networks made in one pass over the snapshots", default=8,
           show_default=True),
    click.option("--offline", is_flag=True, help="Never download; use what is there or say what is missing"),
])
# fmt: on


@click.command(cls=Command)
@OPTIONS
def main(
    indir: str, inprefix: str | None, instd: list[float] | None, outdir: str, outprefix: str, outstd: list[float],
    outkimg: int | None, skip: bool, batch: int, offline: bool,
) -> None:  # fmt: skip
    """Networks of other EMA lengths than those that were tracked, from the snapshots of a training run.

    Lengths are relative, between 0 and 0.289 (0.1 = 10 % of training). Snapshots are read one after the other, in one
    pass per --batch new networks; several workers (torchrun) share the new networks. A warning tells where the
    snapshots are too far apart for a length. A URL needs --outkimg: its files are those of the published runs, every
    32 Mi images, and all up to that time are fetched.

    \b
    Examples:
      python reconstruct_phema.py --indir=raw-snapshots/edm2-img512-xs --outdir=out --outstd=0.150
      python reconstruct_phema.py --indir=training-runs/00000-edm2-img512-xs --outdir=out \\
          --outstd=0.010,0.015,...,0.250 --batch=8 --skip
      python reconstruct_phema.py --indir=https://nvlabs-fi-cdn.nvidia.com/edm2/raw-snapshots/edm2-img512-s \\
          --outkimg=134217 --outdir=networks --outprefix=edm2-img512-s --outstd=0.130
    """
    with bad_input():
        from torch_utils import distributed
        from training import reconstruct

        snapshots = reconstruct.find_snapshots(indir, prefix=inprefix, sigma_rels=instd, kimg=outkimg)
        plan = reconstruct.plan_reconstructions(snapshots, outstd, outdir, outprefix)
    mine = plan.outputs[distributed.rank() :: distributed.world_size()]
    wanted = [output for output in mine if not (skip and output.path.exists())]
    passes = [wanted[i : i + batch] for i in range(0, len(wanted), batch)]
    click.echo(reconstruct.describe(plan, wanted, len(passes)), err=True)
    left = f"finished networks are in {outdir}; the same command with --skip makes the others"
    with keeps(lambda: left), progress_bar(len(passes) * len(snapshots), "snapshots", "net") as progress:
        for outputs in passes:
            reconstruct.reconstruct(snapshots, outputs, offline=offline, progress=progress)
    for output in mine:
        click.echo(output.path)
