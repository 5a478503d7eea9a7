"""The settings of ADM's Tables 4 to 6 (arXiv 2105.05233), out of `adm.csv`. No torch here.

A setting is a line: networks, the scale of the classifier's gradient, sampler, steps, the scores in print, and the
samples that the authors published of it.
"""

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edm2_guidance.metrics.catalog import SETS, find_metric
from edm2_guidance.recipe.timesteps import kept_timesteps

_WITHOUT_IS = "5"  # the table that prints no Inception Score
_FEWER = "the reference that is published is known to hold 1000 images instead of 10000"


@dataclass(frozen=True)
class Setting:
    """One line of the tables.

    tables: of the paper, by number. net, classifier: file names; no net: never released. scale: of the classifier's
    gradient, in the sampler's own form. steps: as the original code writes lists of steps. base: the setting whose
    images an upsampler enlarges. scores: published, by metric. samples: the authors' images.
    """

    name: str
    tables: tuple[str, ...]
    data: str
    model: str
    method: str
    net: str | None
    classifier: str | None
    scale: float
    sampler: str
    steps: str
    base: str | None
    scores: Mapping[str, str]
    samples: str | None
    note: str

    @property
    def unconditional(self) -> bool:
        """Whether images have no class: a classifier has classes of its own."""
        return self.classifier is None and self.net is not None and ("uncond" in self.net or "lsun" in self.net)

    @property
    def num_steps(self) -> int:
        return len(kept_timesteps(self.steps))

    @property
    def schedule(self) -> str:
        """The noise levels of its steps, as --schedule takes them."""
        betas = "cosine" if self.net == "64x64_diffusion.pt" else "linear"
        return f"timesteps:betas={betas}:steps={self.steps}"

    def printed(self, table: str) -> list[str]:
        """The metrics whose scores a table prints."""
        return [
            metric
            for metric in self.scores
            if table != _WITHOUT_IS or find_metric(metric).needs(reference=True) != "nothing"
        ]

    def note_on(self, metric: str) -> str:
        """What to mind of a score."""
        return "; ".join(filter(None, (self.note, few_images(self.data, metric))))


def few_images(reference: str, metric: str) -> str:
    """What to mind of a metric that compares with the images that a reference holds; empty for nothing."""
    return _FEWER if reference == "adm512" and find_metric(metric).needs(reference=True) == "features" else ""


@functools.cache
def settings() -> tuple[Setting, ...]:
    """All of them, smallest images first."""
    with open(Path(__file__).with_name("adm.csv"), newline="", encoding="utf-8") as file:
        return tuple(map(_setting, csv.DictReader(file)))


def _setting(line: Mapping[str, str]) -> Setting:
    return Setting(
        name=line["preset"],
        tables=tuple(filter(None, line["tables"].split(";"))),
        data=line["data"],
        model=line["model"],
        method=line["method"],
        net=line["net"] or None,
        classifier=line["classifier"] or None,
        scale=float(line["scale"] or 0),
        sampler=line["sampler"],
        steps=line["steps"],
        base=line["base"] or None,
        scores={metric: line[metric] for metric in line if metric in SETS["adm"] and line[metric]},
        samples=line["samples"] or None,
        note=line["note"],
    )
