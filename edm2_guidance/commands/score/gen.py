"""Networks to scores, without an image on the disk."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dnnlib.places import find_file
from dnnlib.terminal import counted
from dnnlib.urls import is_url
from dnnlib.workers import Workers
from edm2_guidance.cli import metric_options as opt
from edm2_guidance.cli.again import made_before, run_again, seeds_again, sizes_of
from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.lists import seed_option
from edm2_guidance.cli.option_group import OptionGroup, option, takes_options
from edm2_guidance.cli.progress import WorkBar
from edm2_guidance.cli.recipe_args import only_preset, recipe_from
from edm2_guidance.cli.recipe_options import Method, NetworkOptions, SamplingOptions
from edm2_guidance.cli.report import announce, others
from edm2_guidance.cli.run_options import RunOptions, announce_workers, sampling_batch_option, shard_option, threads_for
from edm2_guidance.cli.say import say
from edm2_guidance.cli.submit import JobOptions, send
from edm2_guidance.commands.score.sides import (
    measured_reference,
    open_detectors,
    settled_metrics,
    tell_scores,
    tell_sides,
)
from edm2_guidance.metrics.catalog import check_counts
from edm2_guidance.metrics.ledger import STANDARD_NUM_IMAGES
from edm2_guidance.papers.costs import feature_bytes
from edm2_guidance.papers.presets import Preset
from edm2_guidance.papers.references import REFERENCES
from edm2_guidance.recipe.recipe import Recipe

if TYPE_CHECKING:
    from edm2_guidance.metrics.score_output import Scores
    from edm2_guidance.work.again import Made
    from edm2_guidance.work.complete import Pending


class GenOptions(OptionGroup, heading="Output"):
    """What is sampled, what is scored against what, and how."""

    networks: NetworkOptions
    sampling: SamplingOptions
    num: int | None = opt.num_option(str(STANDARD_NUM_IMAGES))
    seed: int = seed_option()
    ref: str | None = opt.ref_option(f"{opt.REFERENCE}  [default: the preset's]")
    metrics: list[str] = opt.scored_metrics_option()
    detectors: opt.DetectorOptions
    again: bool = opt.again_option()
    ledger: opt.LedgerOptions
    workdir: str = option(
        "Where features lie until the result is there, 4 bytes each", metavar="DIR", default="results/work"
    )
    batch: int | None = sampling_batch_option(32)
    run: RunOptions
    shard_size: int = shard_option(512)
    jobs: JobOptions


@click.command(cls=Command)
@takes_options
def gen(asked: GenOptions) -> None:
    """Score networks: sample, decode and score in one go. No image is stored.

    Features are kept shard by shard until the result is in the ledger: after an interruption, of whatever kind, the
    same command goes on. Under torchrun or srun, or started several times with --worker=I/N or --steal, the workers
    share the shards, and the last one writes the result. A score that the ledger has is not computed again.
    """
    networks = asked.networks
    preset = only_preset(networks.preset) if networks.preset else None
    made = made_before(networks.recipe)
    asked = replace(asked, **sizes_of(made, "batch"), run=run_again(made, asked.run))
    run = asked.run
    recipe = recipe_from(Method(networks, asked.sampling, run.noise_device), preset, scored=True)
    source = opt.reference_from(asked.ref or (None if made is None else made.reference), preset)
    metrics = asked_metrics(asked, made) or opt.known_metrics(source) or metrics_of(source, preset, run.offline)
    seeds = scored_seeds(asked, made)
    if opt.open_ended(metrics):
        metrics = settled_metrics(metrics, source, None, len(seeds), run.offline)
    choices = asked.detectors.choices(metrics)
    threads_for(recipe.sources, choices)
    if not asked.jobs.elsewhere():
        return score_networks(asked, recipe, source, metrics, seeds)
    from edm2_guidance.reproduction.files import fetch_all

    files = [source] if is_url(source) or find_file(source).is_file() else []
    fetch = partial(fetch_all, [recipe], files, choices, trust_pickle=run.trust_pickle)
    size = feature_bytes(metrics, len(seeds))
    writes = {Path(asked.workdir, "plan.json"): size, Path(asked.ledger.ledger): 0}
    return send(asked.jobs, run, fetch, writes, asked.workdir)


def asked_metrics(asked: GenOptions, made: "Made | None") -> list[str] | None:
    """Those that are given; else that of the line which is scored again, if it is one."""
    given = opt.asked_metrics(asked.metrics)
    if given is not None or made is None or made.metric is None:
        return given
    with bad_input():
        return opt.Metrics().parse(made.metric)


def scored_seeds(asked: GenOptions, made: "Made | None") -> range:
    """The seeds from the first one on. A usage error where what was made has others."""
    num = STANDARD_NUM_IMAGES if asked.num is None else asked.num
    seeds = seeds_again(made, None, asked.seed, num, "num")
    run = range(seeds[0], seeds[0] + len(seeds))
    if made is not None and seeds != list(run):
        raise click.UsageError(f"{made.name} has seeds that are not in a row, which gen takes: give --seed and --num")
    return run


def score_networks(asked: GenOptions, recipe: Recipe, source: str, metrics: list[str], seeds: range) -> None:
    """What `gen` does in this process. source: of `opt.reference_from`."""
    from edm2_guidance.metrics import evaluation, ledger
    from edm2_guidance.metrics.score_output import ScoreOutput, Scorer, feature_shards, open_index
    from edm2_guidance.metrics.sides import open_reference_side, open_side
    from edm2_guidance.sampling.opening import open_recipe
    from edm2_guidance.work.complete import Run, complete
    from edm2_guidance.work.plan import ShardPlan
    from torch_utils.distributed import device_identity

    run, path = asked.run, asked.ledger.ledger
    with bad_input():
        workers = asked.jobs.place()
        plan = ShardPlan(tuple(seeds), asked.shard_size)
        if not workers.order(len(plan)):
            return say(f"{workers.prefix}nothing to do: {counted(len(plan), 'shard')} of images")
        ledger.check_writable(path)
        check_counts(metrics, len(seeds))
        theirs = open_reference_side(open_side(source, metrics, reference=True, offline=run.offline), metrics)
        generation = open_recipe(recipe, run.device, **run.opening)
        generation.check_seeds(seeds)
        evaluation.check_image_sizes(metrics, (generation.image_size, generation.image_size))
        detectors = open_detectors(asked.detectors.choices(metrics), run.device, offline=run.offline)
        index = open_index(path, again=asked.again)
    reference = measured_reference(theirs, detectors, quiet=not workers.speaks)
    numerics = generation.numerics(asked.batch, len(seeds), workers.count, asked.shard_size)
    how = Run(workers=workers, device=device_identity(generation.device), **numerics)
    scorer = Scorer(reference, tuple(detectors), index, generation.device, how.batch)
    folder = opt.work_folder(asked.workdir, generation.recipe, seeds, metrics, generation.unusual_precision)
    work = feature_shards(folder, plan, generation.recipe, how, detectors)
    output = ScoreOutput(scorer, generation, work, {"note": asked.ledger.note})

    def tell() -> None:
        announce(generation, work.run)
        tell_sides(f"seeds {seeds[0]}-{seeds[-1]}", len(seeds), reference)
        announce_workers(workers, f"{counted(len(plan), 'shard')} of {counted(asked.shard_size, 'image')}")

    with WorkBar(tell, quiet=not workers.speaks) as progress:
        made = complete(output, lambda part: generation.images_by(work.run, part), progress)
    return tell_made(made, workers, path, found_before=not progress.began)


def tell_made(made: "Scores | Pending", workers: Workers, path: str, *, found_before: bool) -> None:
    """Say what came of it, or that others are at it. path: of the ledger."""
    from edm2_guidance.work.complete import Pending

    if isinstance(made, Pending):
        return say(f"{workers.prefix}done; {others(made)}")
    if made.written:
        return tell_scores(made.written)
    already = " already (--again computes it once more)" if found_before else ""  # else another worker has written it
    say(f"{workers.prefix}the result is in {path}{already}")
    return tell_scores(made.records) if found_before and workers.speaks else None


def metrics_of(source: str, preset: Preset | None, offline: bool) -> list[str]:
    """What `gen` scores against this reference when nobody says: what it has; of images, what the preset's has."""
    from edm2_guidance.metrics.sides import common_metrics, open_side

    with bad_input():
        found = common_metrics(open_side(source, reference=True, offline=offline))
    return found or list(opt.STANDARD_METRICS if preset is None or not preset.data else REFERENCES[preset.data].metrics)
