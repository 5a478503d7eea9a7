"""What the explorer computes: images guided and not, from the same seeds, and what guidance did to them.

Drawn by `page.py`; here nothing is known of pages.
"""

import shlex
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dnnlib.terminal import counted
from edm2_guidance.cli.recipe_flags import recipe_flags
from edm2_guidance.cli.report import counts, describe
from edm2_guidance.cli.start import as_started
from edm2_guidance.explorer.settings import Settings
from edm2_guidance.images import picture_file
from edm2_guidance.images.diagnostics import Diagnostics
from edm2_guidance.images.grid import compose_grid
from edm2_guidance.recipe.class_names import ClassName
from edm2_guidance.recipe.parts import Step
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.spec import number_text
from edm2_guidance.sampling.generation import Generation
from edm2_guidance.sampling.method_grid import block, tiles

MAX_IMAGES = 64
_KEPT = 8  # sets of images, the last ones that were looked at
_MOMENTS = 16  # steps whose D is kept
_CURVE_IMAGES = 8  # of the curve over all steps
Stop = Callable[[], bool]


class Stopped(Exception):
    """Something else is asked for by now."""


@dataclass(frozen=True)
class _Made:
    """Images of one recipe: uint8 [N,3,H,W]; D of some steps [N,moments,C,h,w]; and what was counted."""

    images: Tensor
    labels: tuple[int, ...] | None
    denoised: Tensor
    diagnostics: Diagnostics
    evaluations: dict[str, int]
    seconds: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """What is seen of some settings.

    Attributes:
        asked: The recipe of the guided images; opened: the same with what was read of its networks.
        guided, unguided: uint8 [N,3,H,W], of the same seeds.
        seeds, labels: Of each image; labels None without classes.
        cost: Evaluations of the guided images, counted, and seconds that they took, in words.
        command: The command line that makes the figure of it (`Explorer.figure`).
        notes: What the user should know, as sentences.
    """

    asked: Recipe
    opened: Recipe
    guided: Tensor
    unguided: Tensor
    seeds: tuple[int, ...]
    labels: tuple[int, ...] | None
    cost: str
    command: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Moment:
    """D at the start of a step of one image: noise level, whether a guide is on, and the pictures."""

    step: int
    sigma: float
    guided: bool
    with_guides: Image.Image
    without: Image.Image


@dataclass(frozen=True)
class Curve:
    """How far main network and reference are apart at each step: float [steps] each, the median of the images.

    difference: the root mean square of D_main - D_ref (`images.diagnostics.Diagnostics`), NaN where the guide is off.
    """

    name: str
    sigma: NDArray[np.float32]
    difference: NDArray[np.float32]
    weight: NDArray[np.float32]


class Explorer:
    """One recipe, whose networks are opened once, and what comes of it under other settings.

    What was made is kept, as far as settings come back to it. Calls of several threads wait for each other; `stop`,
    asked at every step, makes one that is not wanted any more raise `Stopped`.
    """

    def __init__(
        self,
        recipe: Recipe,
        seeds: Sequence[int],
        open_: Callable[[Recipe], Generation],
        *,
        batch: int | None = 32,
        options: Sequence[str] = (),
    ) -> None:
        """Opens the networks.

        seeds: those of the images, as many as there may be. open_: as `sampling.opening.opener` makes it. batch:
        images at a time; None for as many as are fast. options: of the command line, that the recipe does not say.
        ValueError or OSError for networks or seeds that cannot be had, or if `Settings.of` refuses the recipe.
        """
        generation = open_(recipe)
        generation.check_seeds(seeds)
        self.about = describe(generation.recipe)
        labels = generation.recipe.labels if isinstance(recipe.labels, ClassName) else recipe.labels
        self.start = replace(recipe.resolved()[0], labels=labels)
        self.seeds, self._open, self._batch, self._options = tuple(seeds), open_, batch, tuple(options)
        self._made: dict[tuple[str, int], _Made] = {}
        self._lock = threading.Lock()
        Settings.of(self.start, 1)

    def look(self, settings: Settings, stop: Stop = lambda: False) -> View:
        """The images of these settings, guided and not. ValueError for settings that do not go together.

        RuntimeError or OSError as of sampling; `Stopped`.
        """
        if not 1 <= settings.num_images <= len(self.seeds):
            raise ValueError(f"{settings.num_images} images: from 1 to {len(self.seeds)}")
        recipe, seeds = settings.recipe(self.start), self.seeds[: settings.num_images]
        generation = self._open(recipe)
        with self._lock:
            without = self._sampled(self._open(unguided(recipe)), seeds, stop)
            made = self._sampled(generation, seeds, stop)
        cost = f"{counts(made.evaluations)} evaluations, {made.seconds:.1f} s for {counted(len(seeds), 'image')}"
        notes = tuple(dict.fromkeys([*generation.notes, *made.warnings, *without.warnings]))
        command = self._command(recipe, seeds, figure_name(generation.recipe, seeds))
        opened = generation.recipe
        return View(recipe, opened, made.images, without.images, seeds, made.labels, cost, command, notes)

    def moments(self, view: View, number: int) -> list[Moment]:
        """D over the steps of one of the images of a view."""
        recipe, generation = view.opened, self._open(view.asked)
        with self._lock:
            pair = [self._sampled(each, view.seeds) for each in (generation, self._open(unguided(view.asked)))]
            pictures = [tiles(generation.decode(made.denoised[number].to(generation.device))[0]) for made in pair]
        every = recipe.steps()
        steps = [every[step] for step in _moments(len(every))]
        return [
            Moment(step.index, step.sigma, any(guide.on(step) for guide in recipe.guides), *both)
            for step, *both in zip(steps, *pictures, strict=True)
        ]

    def curves(self, view: View, stop: Stop = lambda: False) -> list[Curve]:
        """Of each guide how far it is from the main network: as in the view, and, of few images, at all steps.

        The latter where the view has an interval: it says what lies beyond its ends. `Stopped`.
        """
        with self._lock:
            found = _curves(self._sampled(self._open(view.asked), view.seeds, stop).diagnostics, "as seen")
            if any(guide.interval is not None for guide in view.asked.guides):
                guides = tuple(replace(guide, interval=None) for guide in view.asked.guides)
                everywhere = self._open(replace(view.asked, guides=guides))
                few = self._sampled(everywhere, view.seeds[:_CURVE_IMAGES], stop)
                found += _curves(few.diagnostics, "if guided at all steps")
        return found

    def figure(self, view: View, outdir: Path) -> Path:
        """Write what the view's command line makes, into this folder. ValueError or OSError if it cannot be."""
        path, pair = outdir / figure_name(view.opened, view.seeds), _pair(view.asked)
        picture_file.check_target(path, overwrite=True)
        cells = [self._open(each) for each in ([view.asked] if pair is None else [unguided(view.asked), view.asked])]
        with self._lock:
            made = [self._sampled(cell, view.seeds) for cell in cells]
        rows = [", ".join(filter(None, ["guided" if view.asked.guides else "unguided", view.asked.unusual_text()]))]
        if pair is None:
            drawn = compose_grid([tiles(made[0].images)], rows, [f"seed {seed}" for seed in view.seeds])
        else:
            drawn = compose_grid([[block(each.images) for each in made]], rows, pair.captions)
        distinct = {cell.recipe.hash: cell.recipe.to_json() for cell in cells}
        about: dict[str, Any] = {"seeds": view.seeds, "recipes": [*distinct.values()]}
        asked = cells[0].unusual_precision
        picture_file.save(drawn, path, about if asked is None else {**about, "precision": asked})
        return path

    def _command(self, recipe: Recipe, seeds: Sequence[int], name: str) -> str:
        """The command line that makes the figure of this name, to paste."""
        flags, pair = shlex.split(recipe_flags(recipe)), _pair(recipe)
        if pair is not None:
            flags = [flag for flag in flags if not flag.startswith(f"{pair.option}=")] + [pair.columns]
        last = "" if len(seeds) == 1 else f"-{seeds[-1]}"
        batch = [] if self._batch == 32 else [f"--batch={self._batch or 'auto'}"]
        parts = [*flags, f"--seeds={seeds[0]}{last}", *batch, *self._options, f"--grid={name}"]
        return as_started(f"python generate_images.py {shlex.join(parts)}")

    def _sampled(self, generation: Generation, seeds: Sequence[int], stop: Stop = lambda: False) -> _Made:
        """The images of a recipe, which are kept."""
        key = generation.recipe.hash, len(seeds)
        made = self._made.pop(key, None) or self._sample(generation, seeds, stop)
        self._made[key] = made
        for oldest in list(self._made)[:-_KEPT]:
            del self._made[oldest]
        return made

    def _sample(self, generation: Generation, seeds: Sequence[int], stop: Stop) -> _Made:
        frames, began = _Frames(len(generation.recipe.steps()), stop), time.monotonic()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            source = generation.images(seeds, self._batch, diagnostics=True, watch=frames)
            batches = list(source)
        labels = [batch.labels for batch in batches]
        return _Made(
            torch.cat([batch.images for batch in batches]),
            None if labels[0] is None else tuple(label for part in labels for label in part or ()),
            torch.cat(frames.batches),
            Diagnostics.joined([batch.diagnostics for batch in batches if batch.diagnostics is not None]),
            source.evaluations,
            time.monotonic() - began,
            tuple(str(each.message) for each in caught if issubclass(each.category, RuntimeWarning)),
        )


class _Frames:
    """Keeps D of some steps while a pass is sampled, [N,moments,C,h,w] per batch; `stop` ends the pass."""

    def __init__(self, num_steps: int, stop: Stop) -> None:
        self.batches: list[Tensor] = []
        self._now: list[Tensor] = []
        self._steps, self._stop = _moments(num_steps), stop

    def __call__(self, step: Step) -> None:
        if self._stop():
            raise Stopped
        index = step.info.index
        if index == 0:
            self._now = []  # of a batch that began again
        if index in self._steps:
            self._now.append(step.denoised.to(torch.float32))
        if index == step.info.num_steps - 1:
            self.batches.append(torch.stack(self._now, 1).cpu())


def _moments(num_steps: int) -> list[int]:
    """Steps whose D is shown, evenly spaced, the first and the last among them."""
    return sorted({round(number * (num_steps - 1) / (_MOMENTS - 1)) for number in range(_MOMENTS)})


def unguided(recipe: Recipe) -> Recipe:
    """The recipe at w = 1, its guides kept where they can be off, so that classes are drawn as with them."""
    guides = [replace(guide, weight=guide.weight.with_fields({"w": 1.0})) for guide in recipe.guides]
    return replace(recipe, guides=tuple(guide for guide in guides if not guide.weight.moves))


@dataclass(frozen=True)
class _Pair:
    """Columns of a figure that is unguided and guided: what they are called, and the options that say so.

    option: that says how far without columns, and is left out beside them.
    """

    captions: tuple[str, str]
    columns: str
    option: str


def _pair(recipe: Recipe) -> _Pair | None:
    """Of one guide, which a command line can vary; else None, and the figure is guided alone."""
    if len(recipe.guides) != 1 or len(unguided(recipe).guides) != 1:
        return None
    guide = recipe.guides[0]
    if guide.of_classifier:
        return _Pair(
            ("scale 0", f"scale {guide.scale:g}"), f"--scales=0,{number_text(guide.scale)}", "--classifier-scale"
        )
    return _Pair(("w = 1", f"w = {guide.weight.w:g}"), f"--weights=1,{number_text(guide.weight.w)}", "--guidance")


def figure_name(recipe: Recipe, seeds: Sequence[int]) -> str:
    """Of the figure of an opened recipe: the same pictures, the same name."""
    return f"explore-{recipe.hash[:8]}-{len(seeds)}.png"


def _curves(found: Diagnostics, where: str) -> list[Curve]:
    curves = []
    for number, guide in enumerate(found.guides):
        difference, weight = (np.median(each[:, :, number], axis=0) for each in (found.difference, found.weight))
        name = where if len(found.guides) == 1 else f"{guide}, {where}"
        curves.append(Curve(name, found.sigma, difference, weight))
    return curves
