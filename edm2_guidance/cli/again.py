"""--recipe=FILE: what was made before is made again, with one thing changed. No torch here.

Options that are given change what a preset says, and what a recipe says: both are a `Usual`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from dnnlib.inference import precision_option, unusual
from edm2_guidance.cli.command import bad_input
from edm2_guidance.cli.intervals import NOWHERE, Interval, on_schedule
from edm2_guidance.cli.lists import first_seeds, seeds_from
from edm2_guidance.cli.run_options import RunOptions
from edm2_guidance.cli.say import note
from edm2_guidance.cli.typed import given
from edm2_guidance.papers.presets import Preset
from edm2_guidance.recipe.files import ImageSet, NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import SigmaInterval
from edm2_guidance.recipe.recipe import Recipe

if TYPE_CHECKING:
    from edm2_guidance.work.again import Made

_MADE, _SEEDS = f"{__name__}.made", f"{__name__}.seeds"  # keys in click's Context.meta
_OF_GUIDES = (
    "gnet", "guidance", "classifier", "classifier_scale", "guidance_interval", "guidance_sigma", "reference", "weight",
)  # fmt: skip


@dataclass(frozen=True)
class Usual:
    """What the options change: the settings of a preset, or how something was made. name: of either."""

    name: str
    recipe: Recipe
    made: "Made | None" = None

    @cached_property
    def networks(self) -> list[Guide]:
        """The guides that are networks."""
        return [guide for guide in self.recipe.guides if not guide.of_classifier]

    @cached_property
    def classifier(self) -> Guide | None:
        """The guide that is a classifier. ValueError if there are several, which no command line says."""
        found = [guide for guide in self.recipe.guides if guide.of_classifier]
        if len(found) > 1:
            raise ValueError(f"{self.name} has {len(found)} classifiers: options change one; change it in Python")
        return found[0] if found else None

    @property
    def base(self) -> ImageSet | Recipe | None:
        """The images that its main network enlarges."""
        return self.recipe.base if self.made is None else self.made.base()

    def file(self, net: NetworkRef, option: str) -> NetworkRef:
        """One of its networks, found again if it is of a recipe. ValueError, naming the option, if it is nowhere."""
        return net if self.made is None else self.made.file(net, option)

    def guides(self, recipe: Recipe) -> tuple[Guide, ...] | None:
        """Its guides, with the networks' files yet to be found, if nothing is said of guides, steps or sampler."""
        same = recipe.levels() == self.recipe.levels() and recipe.sampler.kind == self.recipe.sampler.kind
        return self.recipe.guides if same and not any(map(given, _OF_GUIDES)) else None

    def interval(self, guide: Guide, recipe: Recipe) -> Interval:
        """Where one of its guides is on, in the steps of `recipe` or their noise levels."""
        if guide.never:
            return NOWHERE
        if isinstance(guide.interval, SigmaInterval):  # of legs
            return guide.interval
        return on_schedule(guide.interval, self.recipe.levels(), recipe.levels())


def made_before(recipe: str | None) -> "Made | None":
    """What --recipe names; it is read once for a command. Usage errors for what cannot be read."""
    if recipe is None:
        return None
    ctx = click.get_current_context(silent=True)
    kept = {} if ctx is None else ctx.meta
    if _MADE not in kept:
        from edm2_guidance.work.again import read_made

        with bad_input():
            kept[_MADE] = read_made(recipe)
    made: Made = kept[_MADE]
    return made


def usual_of(preset: Preset | None, recipe: str | None) -> Usual | None:
    """Of a preset, or of --recipe; a usage error for both."""
    made = made_before(recipe)
    if preset is not None and made is not None:
        raise click.UsageError("--preset and --recipe each say all: give one of them, and what is to change")
    if made is not None:
        return Usual(made.name, made.recipe, made)
    return None if preset is None else Usual(preset.name, preset.recipe())


def sizes_of(made: "Made | None", *names: str) -> dict[str, Any]:
    """Of batch and shard_size, whichever are asked for, how it was made, unless options say otherwise."""
    sizes = {name: getattr(made, name, None) for name in names if not given(name)}
    return {name: size for name, size in sizes.items() if size is not None}


def run_again(made: "Made | None", run: RunOptions) -> RunOptions:
    """The options of a run, in the precision that was asked for before, if another is not given now."""
    precision = None if made is None else unusual(made.precision)
    if precision is None or run.precision is not None:
        return run
    said: dict[str, Any] = {"precision": precision_option(precision)}
    return replace(run, **said)


def seeds_again(made: "Made | None", seeds: list[int] | None, first: int, num: int, of_num: str) -> list[int]:
    """As `seeds_from`; where nothing is said of them, the seeds of what was made before, as far as it says.

    of_num: the parameter that says how many.
    """
    if made is None or made.seeds is None or given("seeds"):
        found = seeds_from(seeds, first, num)
    elif given("seed"):
        found = list(first_seeds(first, num if given(of_num) else len(made.seeds)))
    elif not given(of_num) or num <= len(made.seeds):
        found = list(made.seeds[: num if given(of_num) else None])
    else:
        found = list(first_seeds(made.seeds[0], num))
    ctx = click.get_current_context(silent=True)
    if ctx is not None:
        ctx.meta[_SEEDS] = found
    return found


def tell_changes(recipes: Sequence[Recipe]) -> None:
    """Say on stderr in what opened recipes, all of them, differ from that of --recipe, if one was given."""
    ctx = click.get_current_context(silent=True)
    made = None if ctx is None else ctx.meta.get(_MADE)
    if ctx is None or made is None:
        return
    found = [made.changes(recipe, ctx.meta.get(_SEEDS)) for recipe in recipes]
    changed = "; ".join(line for line in found[0] if all(line in lines for lines in found))
    unchanged = "but for rows and columns" if any(found) else "unchanged"
    note(f"as {made.name}, " + (f"changed (there | now): {changed}" if changed else unchanged))
