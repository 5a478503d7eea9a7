"""What is seen of a training run's snapshots: a grid of images, and scores (`training.watch` shows them).

Seeds and classes are the same at every snapshot, so that nothing but the network changes from one to the next.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dnnlib.terminal import counted
from edm2_guidance.images.batch import ImageBatch
from edm2_guidance.images.figure_folder import FigureFolder
from edm2_guidance.metrics.catalog import check_counts, find_metric, score_text
from edm2_guidance.metrics.evaluation import check_image_sizes, measure
from edm2_guidance.metrics.provenance import describe_generated
from edm2_guidance.metrics.score_output import Record, Scorer, open_index
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.reproduction.rows import open_scorer
from edm2_guidance.sampling.opening import open_recipe
from edm2_guidance.work.plan import format_seeds, images_key
from training.run_log import RunLog, read_stats
from training.watch import Snapshot

PREVIEW_STEPS = 16
BATCH = 64


def _evaluations(num_steps: int) -> int:
    """Of the network, for one image."""
    return Recipe("snapshot", num_steps=num_steps).evaluations()["main"]


@dataclass(frozen=True)
class Previews:
    """`preview-KIMG-LENGTH.png`, a grid of images of the first EMA length's network, beside it, without guidance.

    The images are those of seeds 0 to num - 1 in 16 steps, sorted by class, as generate_images.py makes them.
    """

    num: int
    every: int
    device: torch.device
    name = "preview"

    @property
    def text(self) -> str:
        return f"preview of {counted(self.num, 'image')}"

    @property
    def evaluations(self) -> int:
        return self.num * _evaluations(PREVIEW_STEPS)

    def look(self, snapshot: Snapshot, log: RunLog, beat: Callable[[], None]) -> None:
        """As of `training.watch.Watcher`."""
        network = snapshot.paths[0]
        name = f"{network.stem.replace('network-snapshot', 'preview')}.png"
        if not snapshot.fresh and (network.parent / name).exists():
            return
        generation = open_recipe(Recipe(network, num_steps=PREVIEW_STEPS), str(self.device), offline=True)
        parts = []
        for part in generation.images(range(self.num), BATCH):
            parts.append(part)
            beat()
        images = ImageBatch.joined(parts)
        by_class = sorted(range(self.num), key=lambda index: images.labels[index] if images.labels else 0)
        about = {"recipes": [generation.recipe.to_json()], "seeds": format_seeds(tuple(range(self.num)))}
        FigureFolder(network.parent, overwrite=True).save(name, images.select(by_class).grid(), about)
        log.picture(snapshot.images_seen, self.name, network.parent / name)


@dataclass(frozen=True)
class SnapshotScores:
    """Scores of every network of a snapshot, of seeds 0 to num - 1 without guidance, as calculate_metrics.py gen has.

    They go to the ledger of `scorer`, and to the run's statistics. The log names the best of the run so far.
    """

    scorer: Scorer
    num: int
    every: int
    num_steps: int
    networks: int  # of a snapshot
    name = "scores"

    @property
    def text(self) -> str:
        metrics, source = ", ".join(self.scorer.metrics), self.scorer.reference.statistics.source
        return f"{metrics} of {self.num:,} images against {source}, for {counted(self.networks, 'EMA length')},"

    @property
    def evaluations(self) -> int:
        return self.networks * self.num * _evaluations(self.num_steps)

    def look(self, snapshot: Snapshot, log: RunLog, beat: Callable[[], None]) -> None:
        """As of `training.watch.Watcher`."""
        for network in snapshot.paths:
            for record in self._records(network, beat):
                score = {
                    "metric": record["name"],
                    "value": record["value"],
                    "interval": record.get("interval"),
                    "reference": record["reference"]["source"],
                    "num_steps": self.num_steps,
                }
                log.score(snapshot.images_seen, network, score)
                best = _best(read_stats(network.parent), score, find_metric(record["metric"]).measure.better)
                so_far = "best so far" if best == network.name else f"best so far {best}"
                log.line(f"{record['name']} of {network.name}: {score_text(record)}  ({so_far})")

    def _records(self, network: Path, beat: Callable[[], None]) -> Sequence[Record]:
        """The ledger's lines of a network, one per metric; made now, if they are not there."""
        generation = open_recipe(Recipe(network, num_steps=self.num_steps), str(self.scorer.device), offline=True)
        seeds, precision = tuple(range(self.num)), generation.recorded_precision
        which = images_key(generation.recipe.hash, format_seeds(seeds), precision)
        found = self.scorer.find(*which)
        if found is None:
            source = generation.images(seeds, self.scorer.batch)
            made = measure(source, self.scorer.detectors, progress=lambda count: beat())
            described = describe_generated(generation.recipe, seeds, made.image_size, precision, source.form)
            found = self.scorer.write(made, which, described, {})
        return found.records


def open_scores(
    metrics: Sequence[str],
    reference: str,
    ledger: Path,
    image_size: int,
    device: torch.device,
    *,
    num: int,
    every: int,
    steps: int,
    networks: int,
) -> SnapshotScores:
    """What scores snapshots, with everything checked and opened that can be beforehand.

    image_size: width and height of the decoded images. networks: of a snapshot. ValueError for metrics that do not fit
    these, OSError for what cannot be had.
    """
    check_counts(metrics, num)
    check_image_sizes(metrics, (image_size, image_size))
    scorer = open_scorer(metrics, reference, open_index(ledger), device, batch=BATCH)
    return SnapshotScores(scorer, num, every, steps, networks)


def _best(stats: Sequence[Mapping[str, Any]], like: Mapping[str, Any], better: str) -> str:
    """The network with the best score so far of this metric, by as many images and steps and the same reference."""
    same = ("metric", "reference", "num_steps")
    scores = [each for each in stats if "network" in each and all(each[key] == like[key] for key in same)]
    best = (max if better == "higher" else min)(scores, key=lambda each: each["value"])
    return str(best["network"])
