"""The settings of papers about guidance rules, samplers and schedules, out of `rules.csv`. No torch here.

A line is a setting: networks, guidance, sampler, steps, and the scores in print, of the same images where there are
several. What a paper does not give is said: `assumed` is what was taken in its place, a setting that lacks a weight has
the search that finds one, and where nothing could be taken the row is blocked, with the reason.
"""

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edm2_guidance.papers.adm import few_images
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from edm2_guidance.recipe.parts import Schedule

#: The metrics that have a column.
METRICS = ("fid", "fd_dinov2", "precision:adm", "recall:adm")
#: Networks that others publish, by how we call their files, which are looked for where reconstructed networks are.
OF_OTHERS: Mapping[str, str] = MappingProxyType({
    "ddo-": "https://github.com/NVlabs/DDO",
    "ambient-o-": "https://github.com/giannisdaras/ambient-omni",
})  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One line. All but what is named here is as of `tables.Row`.

    guides: a network file, how it is asked, or both, one text per guide; without a file the main network is asked.
    scores: published, by metric. search: the options of reproduce.py search that find what is `missing`.
    """

    name: str
    table: str
    data: str
    model: str
    method: str
    net: str | None
    guides: tuple[str, ...]
    weights: tuple[float | str, ...]
    interval: StepInterval | None
    sigmas: str
    rule: str
    around: str
    sampler: str
    schedule: str
    num_steps: int
    num_images: int
    first_seed: int
    labels: str
    against: str | None
    scores: Mapping[str, str]
    missing: str
    search: str
    blocked: str
    assumed: str
    note: str

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is scored; of a setting that has no number in print, FID."""
        return tuple(self.scores) or METRICS[:1]

    @property
    def gnets(self) -> tuple[str | None, ...]:
        """The network file of each guide; None for the main network."""
        return tuple(next((word for word in text.split() if word.endswith(".pkl")), None) for text in self.guides)

    @property
    def references(self) -> tuple[str, ...]:
        """How each guide's network is asked."""
        return tuple(
            next((word for word in text.split() if not word.endswith(".pkl")), "network") for text in self.guides
        )

    def name_of(self, metric: str) -> str:
        """The row of a metric: NAME-fid, NAME-dino, NAME-precision."""
        return f"{self.name}-{'dino' if metric == 'fd_dinov2' else metric.partition(':')[0]}"

    def why_not(self, metric: str) -> str | None:
        """Why the row of a metric cannot be made as it stands; None if it can."""
        if not self.missing:
            return self.blocked or None
        final = f"--metrics={metric} --ref={self.against or self.data} --final-num={self.num_images}"
        return f"not published: {self.missing}; to find it: python reproduce.py search {self.search} {final}"

    def note_on(self, metric: str) -> str:
        """What to mind of a score."""
        return "; ".join(filter(None, (self.note, few_images(self.against or self.data, metric))))


@functools.cache
def settings() -> tuple[Setting, ...]:
    """All of them, table by table."""
    with open(Path(__file__).with_name("rules.csv"), newline="", encoding="utf-8") as file:
        return tuple(map(_setting, csv.DictReader(file)))


def _setting(line: Mapping[str, str]) -> Setting:
    schedule, num_steps = line["schedule"] or "edm", int(line["num_steps"] or 32)
    return Setting(
        name=line["setting"],
        table=line["table"],
        data=line["data"],
        model=line["model"],
        method=line["method"],
        net=line["net"] or None,
        guides=tuple(filter(None, line["guides"].split(";"))),
        weights=tuple(map(_weight, filter(None, line["weights"].split(";")))),
        interval=_interval(line["interval"], line["sigmas"], schedule, num_steps),
        sigmas=line["sigmas"],
        rule=line["rule"] or "linear",
        around=line["around"],
        sampler=line["sampler"] or "heun",
        schedule=schedule,
        num_steps=num_steps,
        num_images=int(line["num_images"] or 50000),
        first_seed=int(line["seed"] or 0),
        labels=line["labels"] or ("none" if "-uncond-" in line["net"] else "random"),
        against=line["against"] or None,
        scores={metric: line[metric] for metric in METRICS if line[metric]},
        missing=line["missing"],
        search=line["search"],
        blocked=line["blocked"],
        assumed=line["assumed"],
        note=line["note"],
    )


def _weight(text: str) -> float | str:
    """A number is one that stays."""
    try:
        return float(text)
    except ValueError:
        return text


def _interval(steps: str, sigmas: str, schedule: str, num_steps: int) -> StepInterval | None:
    """The guided steps: as they stand in the line, else those at the noise levels in print; None for all."""
    if steps:
        return StepInterval(*map(int, steps.split("-")))
    if not sigmas:
        return None
    low, high = map(float, sigmas.strip("(]").split(","))
    return SigmaInterval(low, high).steps(Schedule.parse(schedule).levels(num_steps))[0]
