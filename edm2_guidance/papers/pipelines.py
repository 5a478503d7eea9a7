"""The settings of papers with networks that come as pipelines of diffusers, out of `pipelines.csv`. No torch here.

DiT-XL/2 and SD-XL as in guidance in a limited interval (arXiv 2404.07724), DeepFloyd IF as in autoguidance (arXiv
2406.02507, App. B.2). What a paper does not say, and what was taken in its place, is `assumed` of a line.
"""

import csv
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType


@dataclass(frozen=True)
class Setting:
    """One line. All but what is named here is as of `presets.Preset`.

    guides: one text each, a network, or how the main one is asked. weights: w, as many. interval: first and last step,
    "124-198", of all guides; empty for all steps. classes: how many the network knows; None: it takes prompts. base:
    the preset whose images it enlarges.
    """

    name: str
    net: str
    guides: tuple[str, ...]
    weights: tuple[float, ...]
    interval: str
    metric: str
    published: float | None
    data: str
    classes: int | None
    prompts: tuple[str, ...]
    num_steps: int
    sampler: str
    schedule: str
    around: str
    caption: str
    assumed: str
    note: str
    base: str | None


@functools.cache
def settings() -> tuple[Setting, ...]:
    """All of them, family by family."""
    with open(Path(__file__).with_name("pipelines.csv"), newline="", encoding="utf-8") as file:
        return tuple(map(_setting, csv.DictReader(file)))


@functools.cache
def all_prompts() -> Mapping[str, tuple[str, ...]]:
    """The prompts of the papers' pictures by family, "sdxl" and "if", as printed."""
    text = Path(__file__).with_name("prompts.json").read_text(encoding="utf-8")
    return MappingProxyType({family: tuple(prompts) for family, prompts in json.loads(text).items()})


def _setting(line: Mapping[str, str]) -> Setting:
    return Setting(
        name=line["preset"],
        net=line["net"],
        guides=tuple(filter(None, line["guides"].split(";"))),
        weights=tuple(map(float, filter(None, line["weights"].split(";")))),
        interval=line["interval"],
        metric=line["metric"],
        published=float(line["published"]) if line["published"] else None,
        data=line["data"],
        classes=int(line["classes"]) if line["classes"] else None,
        prompts=all_prompts()[line["prompts"]] if line["prompts"] else (),
        num_steps=int(line["steps"]),
        sampler=line["sampler"],
        schedule=line["schedule"],
        around=line["around"],
        caption=line["caption"],
        assumed=line["assumed"],
        note=line["note"],
        base=line["base"] or None,
    )
