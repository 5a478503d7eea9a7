"""The image figures of the interval paper (arXiv 2404.07724): networks aside, all that they are made of. No torch here.

`figures.json` names them as the paper's repository does (first version of the paper; `printed` is the number in the
second). Settings are pairs of guidance weight and first and last guided step of 32 (null: all steps); an example is a
class of ImageNet, its seeds (hashed with the class: `Recipe.seed_rule`) and, where the figure magnifies a part of every
image, that square's left, top and side in pixels of 512.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edm2_guidance.recipe.intervals import StepInterval

NUM_CLASSES = 1000
NUM_STEPS = 32  # of the default schedule, which the guided steps are counted on
PIXELS = 512  # width of the images that insets are given for


@dataclass(frozen=True)
class Inset:
    """A square of every image that is drawn magnified under it; in pixels of an image 512 wide."""

    x: int
    y: int
    size: int

    def box(self, width: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in an image `width` pixels wide, right and bottom excluded."""
        left, top, size = (round(value * width / PIXELS) for value in (self.x, self.y, self.size))
        return left, top, left + max(1, size), top + max(1, size)


@dataclass(frozen=True)
class Setting:
    """A guidance weight (1 = off) and the steps of 32 that are guided (None = all)."""

    weight: float
    interval: StepInterval | None


@dataclass(frozen=True)
class Picture:
    """One PNG of a figure: seeds of one class and setting, or, with an inset, one seed at rising weights.

    Images go setting by setting, within a setting seed by seed, and fill rows of `columns`.
    """

    figure: str
    printed: str  # as the paper's second version numbers it
    class_index: int
    seeds: tuple[int, ...]
    settings: tuple[Setting, ...]
    columns: int
    inset: Inset | None = None

    @property
    def file_name(self) -> str:
        """Figure, class, weights, and gi (guided in an interval) or cfg, as the repository's ZIP files have it."""
        weights = "-".join(f"{setting.weight:.2f}" for setting in self.settings)
        kind = "cfg" if self.settings[0].interval is None else "gi"
        return f"{self.figure}-class{self.class_index:03d}-g{weights}-{kind}.png"

    @property
    def num_images(self) -> int:
        """How many images are sampled for it."""
        return len(self.settings) * len(self.seeds)


def figure_names() -> list[str]:
    """Names of all figures, in the paper's order."""
    return list(_pictures())


def pictures(names: Sequence[str]) -> list[Picture]:
    """The PNGs of these figures ('all' for all). ValueError, with the names that there are, for an unknown one."""
    there = _pictures()
    names = list(there) if "all" in names else names
    for name in names:
        if name not in there:
            raise ValueError(f"there is no figure '{name}'; there are: all, {', '.join(there)}")
    return [picture for name in dict.fromkeys(names) for picture in there[name]]


@functools.cache
def _pictures() -> dict[str, tuple[Picture, ...]]:
    with open(Path(__file__).with_name("figures.json"), encoding="utf-8") as file:
        figures = json.load(file)
    made: dict[str, tuple[Picture, ...]] = {}
    for figure in figures:
        settings = tuple(
            Setting(weight, None if steps is None else StepInterval(*steps)) for weight, steps in figure["settings"]
        )
        found = []
        for example in figure["examples"]:
            inset = Inset(*example["inset"]) if "inset" in example else None
            # A magnified figure has its weights side by side; the others are one picture per setting.
            for group in [settings] if inset is not None else [(setting,) for setting in settings]:
                where = (figure["name"], figure["printed"], example["class"], tuple(example["seeds"]))
                found.append(Picture(*where, group, figure["columns"], inset))
        made[figure["name"]] = tuple(found)
    return made
