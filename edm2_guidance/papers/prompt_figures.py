"""The pictures of prompts of two papers, networks aside: SD-XL of the interval paper, DeepFloyd IF of autoguidance.

`prompt_figures.json` has Figures 6 to 8 of arXiv 2404.07724 and Figures 5 and 6 of arXiv 2406.02507: which preset makes
them, prompts by their numbers in `prompts.json`, and what is not known of a figure. Columns of the first, by part of
the figure, are pairs of guidance weight and first and last guided step of the preset (null: all steps); of the second
they are blends of two guides by its Eq. 6, at rising weights from line to line. No torch here.
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edm2_guidance.papers.presets import all_presets
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.search import recipe_at


@dataclass(frozen=True)
class Cell:
    """How one image of a picture is guided: w, 1 = off, and either where, in steps of the preset, or by which blend.

    alpha: 0 = by the first of two guides, classifier-free; 1 = by the second (arXiv 2406.02507, Eq. 6).
    """

    weight: float
    interval: StepInterval | None = None  # None = at all steps
    alpha: float | None = None

    def recipe(self, base: Recipe, interval: Any) -> Recipe:
        """Of a recipe with the guides of the preset. interval: this one on the recipe's noise levels; None for all."""
        if self.alpha is not None:
            return recipe_at(base, {"weight": self.weight, "alpha": self.alpha})
        made = recipe_at(base, {"weight": self.weight})
        return replace(made, guides=tuple(replace(guide, interval=interval) for guide in made.guides))


@dataclass(frozen=True)
class PromptPicture:
    """One PNG of a figure: a prompt drawn from one seed in several ways, line by line.

    unknown: what of it the paper does not say, beside the seed.
    """

    figure: str
    printed: str  # number and paper
    preset: str
    part: str  # of the figure: "-upper" for the interval's upper end; empty for all of it
    number: int  # of the prompt among the preset's
    lines: tuple[tuple[Cell, ...], ...]
    unknown: str

    @property
    def prompt(self) -> str:
        """What is drawn."""
        return all_presets()[self.preset].prompts[self.number]

    @property
    def file_name(self) -> str:
        """Figure, part of it, and prompt."""
        return f"{self.figure}{self.part}-prompt{self.number}.png"

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All of them, line by line."""
        return tuple(cell for line in self.lines for cell in line)

    @property
    def num_images(self) -> int:
        """How many images it has; some may be the same ones, which are sampled once."""
        return len(self.cells)


def prompt_figure_names() -> list[str]:
    """Names of all figures, paper by paper."""
    return list(_pictures())


def prompt_pictures(names: Iterable[str]) -> list[PromptPicture]:
    """The PNGs of these figures. ValueError, with the names that there are, for an unknown one."""
    there = _pictures()
    for name in names:
        if name not in there:
            raise ValueError(f"there is no figure '{name}' of prompts; there are: {', '.join(there)}")
    return [picture for name in dict.fromkeys(names) for picture in there[name]]


@functools.cache
def _pictures() -> dict[str, tuple[PromptPicture, ...]]:
    figures = json.loads(Path(__file__).with_name("prompt_figures.json").read_text(encoding="utf-8"))
    return {figure["name"]: tuple(_of_figure(figure)) for figure in figures}


def _of_figure(figure: Mapping[str, Any]) -> Iterable[PromptPicture]:
    if "alphas" in figure:
        lines = tuple(tuple(Cell(w, alpha=alpha) for alpha in figure["alphas"]) for w in figure["weights"])
        parts = {"": lines}
    else:
        parts = {part: (_line(pairs),) for part, pairs in figure["columns"].items()}
    for number in figure["prompts"]:
        for part, lines in parts.items():
            where = (figure["name"], figure["printed"], figure["preset"], part, number)
            yield PromptPicture(*where, lines, figure["unknown"])


def _line(pairs: Sequence[Any]) -> tuple[Cell, ...]:
    return tuple(Cell(weight, None if steps is None else StepInterval(*steps)) for weight, steps in pairs)
