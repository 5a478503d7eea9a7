"""Networks of other EMA lengths from the snapshots of a training run (post-hoc EMA)."""

import click

from edm2_guidance.cli.command import Command, bad_input, keeps
from edm2_guidance.cli.lists import FloatList
from edm2_guidance.cli.option_group import COUNT, OptionGroup, flag, option, takes_options
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.run_options import offline_option
from edm2_guidance.cli.say import say


class PhemaOptions(OptionGroup):
    """The snapshots, and what is made of them."""

    indir: str = option("Snapshots, PREFIX-KIMG-LENGTH.pkl", metavar="DIR|URL", required=True)
    inprefix: str | None = option("Only those of this prefix (needed if there are several)", metavar="STR")
    instd: list[float] | None = option("Only those of these lengths", type=FloatList(unique=True))
    outdir: str = option("Where the new networks go", metavar="DIR", required=True)
    outprefix: str = option("Prefix of their names", metavar="STR", default="phema")
    outstd: list[float] = option("Lengths to make", type=FloatList(unique=True), required=True)
    outkimg: int | None = option("Time in thousands of images; default: the last snapshot", metavar="KIMG", type=COUNT)
    skip: bool = flag("Leave alone what is there already")
    batch: int = option("Networks made in one pass over the snapshots", type=COUNT, default=8)
    offline: bool = offline_option()


@click.command(cls=Command)
@takes_options
def main(asked: PhemaOptions) -> None:
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

        snapshots = reconstruct.find_snapshots(
            asked.indir, prefix=asked.inprefix, sigma_rels=asked.instd, kimg=asked.outkimg
        )
        plan = reconstruct.plan_reconstructions(snapshots, asked.outstd, asked.outdir, asked.outprefix)
    mine = plan.outputs[distributed.rank() :: distributed.world_size()]
    wanted = [output for output in mine if not (asked.skip and output.path.exists())]
    passes = [wanted[i : i + asked.batch] for i in range(0, len(wanted), asked.batch)]
    say(reconstruct.describe(plan, wanted, len(passes)))
    left = f"finished networks are in {asked.outdir}; the same command with --skip makes the others"
    with keeps(lambda: left), progress_bar(len(passes) * len(snapshots), "snapshots", "net") as progress:
        for outputs in passes:
            reconstruct.reconstruct(snapshots, outputs, offline=asked.offline, progress=progress)
    for output in mine:
        click.echo(output.path)
