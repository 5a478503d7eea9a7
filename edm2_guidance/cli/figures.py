"""The --figs of generate_images.py: figures of papers, by their networks or by others that stand in. No torch.

Of the interval paper's own without networks the embedded digits are drawn. The sampler's state is kept in float64,
unless --dtype says otherwise. Options and their meaning are those of the interval repository's script of the same name.
Pictures of prompts are by the networks of their preset, or by others that take text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from edm2_guidance.cli.command import bad_input
from edm2_guidance.cli.intervals import EVERYWHERE, on_schedule
from edm2_guidance.cli.lists import seed_option
from edm2_guidance.cli.metric_options import results_dir_option
from edm2_guidance.cli.option_group import OptionGroup, option
from edm2_guidance.cli.recipe_args import GuideDefaults, in_the_interval_papers_words, recipe_from
from edm2_guidance.cli.recipe_options import Method, NetworkOptions
from edm2_guidance.cli.say import note
from edm2_guidance.cli.typed import given
from edm2_guidance.papers.figures import NUM_CLASSES, NUM_STEPS, Picture, Setting, figure_names, pictures
from edm2_guidance.papers.lookup import find_preset
from edm2_guidance.papers.presets import Preset
from edm2_guidance.papers.prompt_figures import Cell, PromptPicture, prompt_figure_names, prompt_pictures
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.parts import Schedule, constant
from edm2_guidance.recipe.recipe import Recipe

STAND_IN = "mnist16-cfg"  # whose networks draw the figures when none are given


class FigureOptions(OptionGroup, heading="Figures"):
    """Figures of the interval paper in place of a folder of images."""

    figs: str | None = option(
        f"The interval paper's figures instead: all, {', '.join(figure_names())}; or pictures of prompts: "
        f"{', '.join(prompt_figure_names())}",
        metavar="LIST",
    )
    results_dir: str = results_dir_option("Where figures go")
    seed: int = seed_option()  # beside --figs it is that of pictures of prompts; of others, as by the original, nothing


# What a figure lays down itself.
_FIXED = {
    *("outdir", "subdirs", "seeds", "num_images", "grid", "weights", "alphas", "classes"),
    *("class_idx", "labels", "guidance", "weight", "guidance_interval", "guidance_sigma"),
    *("classifier", "classifier_scale", "scales", "prompt", "prompts"),
}
PAPER_LEVELS = Schedule.parse("edm").levels(NUM_STEPS)  # that the steps of its intervals count


def wanted_pictures(figs: str | None, networks: NetworkOptions) -> list[Picture] | list[PromptPicture]:
    """The pictures that --figs (its text) asks for, all of classes or all of prompts; none if it is not given.

    Two networks in the reference's words, and nothing that says what to do with them, is its command line for all.
    """
    if figs is None:
        if not in_the_interval_papers_words() or networks.preset or any(given(name) for name in _FIXED):
            return []
        figs = "all"
        note("no --figs, --outdir or --grid: drawing all figures, as the original does")
    for each in click.get_current_context().command.params:
        if each.name in _FIXED and given(each.name):
            raise click.UsageError(f"--figs lays down what is drawn: leave out {each.opts[0]}")
    names = [name.strip() for name in figs.split(",")]
    of_prompts = [name in prompt_figure_names() for name in names]
    there = ["all", *figure_names(), *prompt_figure_names()]
    with bad_input():
        for name in names:
            if name not in there:
                raise ValueError(f"there is no figure '{name}'; there are: {', '.join(there)}")
        if not any(of_prompts):
            return pictures(names)
        if not all(of_prompts):
            raise ValueError(f"--figs={figs}: pictures of prompts are by other networks: draw them by another command")
        if networks.preset or networks.recipe:
            given_by = "--preset" if networks.preset else "--recipe"
            raise ValueError(f"--figs={figs}: these figures have presets of their own: leave out {given_by}")
        return prompt_pictures(names)


def figure_recipe(method: Method) -> Recipe:
    """What all pictures share: the networks that were given, or the embedded ones; the sampler's state in float64."""
    networks = method.networks
    if not (networks.net or networks.gnet or networks.preset or networks.recipe):
        recipe = recipe_from(method, replace(find_preset(STAND_IN), num_steps=NUM_STEPS))
    else:
        recipe = recipe_from(method, defaults=GuideDefaults(1.0, EVERYWHERE))  # every picture has its own
    if len(recipe.guides) != 1 or recipe.guides[0].of_classifier:
        raise click.UsageError("figures take a main network and one guide: --cond_pkl and --uncond_pkl, or a --preset")
    return recipe if given("dtype") else replace(recipe, dtype="float64")


def figure_recipes(pictures: Sequence[Picture], base: Recipe, num_classes: int) -> list[list[Recipe]]:
    """The recipe of every setting of every picture. Networks of fewer classes stand in: class modulo their number."""
    intervals = {setting.interval for picture in pictures for setting in picture.settings}
    on = {interval: on_schedule(interval, PAPER_LEVELS, base.levels()) for interval in intervals}

    def recipe(picture: Picture, setting: Setting) -> Recipe:
        interval = on[setting.interval]
        where = None if isinstance(interval, str) else interval
        guide = replace(base.guides[0], weight=constant(setting.weight), interval=where)
        return replace(base, guides=(guide,), labels=picture.class_index % num_classes, seed_rule="figure")

    return [[recipe(picture, setting) for setting in picture.settings] for picture in pictures]


def check_classes(num_classes: int, quiet: bool = False) -> None:
    """ValueError for an unconditional main network; a note, unless quiet, if it is no network of ImageNet."""
    if num_classes == 0:
        raise ValueError("the main network of the figures needs classes, and this one is unconditional")
    if num_classes != NUM_CLASSES and not quiet:
        note(
            f"the main network is not of ImageNet: its {num_classes} classes stand in for the paper's, class c "
            f"by c modulo {num_classes}, and every picture says so"
        )


def stand_in_caption(picture: Picture, recipe: Recipe, num_classes: int) -> str:
    """What stands above a picture: nothing above the paper's own, the truth above one by networks that stand in."""
    if num_classes == NUM_CLASSES:
        return ""
    weights = ", ".join(f"{setting.weight:g}" for setting in picture.settings)
    interval = picture.settings[0].interval
    unusual = f"; {recipe.unusual_text()}" if recipe.unusual_text() else ""
    where = "at all steps" if interval is None else f"at {interval.sigmas(PAPER_LEVELS)}"
    return (
        f"Stand-in for {picture.printed} of arXiv 2404.07724 ({picture.figure}): not ImageNet, but {recipe.net.name} "
        f"guided by {recipe.guides[0].name}.\n"
        f"Class {recipe.labels} in place of {picture.class_index}; w = {weights} {where}{unusual}"
    )


@dataclass(frozen=True)
class PromptSheet:
    """A picture of a prompt, and what stands in it: a recipe for each of its cells, line by line, and captions."""

    picture: PromptPicture
    recipes: Sequence[Recipe]
    rows: Sequence[str]
    columns: Sequence[str]
    title: str


def prompt_sheets(pictures: Sequence[PromptPicture], method: Method, seed: int) -> list[PromptSheet]:
    """What the command line makes of pictures of prompts: by their presets, with whatever else is given changed.

    Usage errors. Says what of these figures is not known.
    """
    unknown = {picture.figure: picture.unknown for picture in pictures}
    for figure, what in unknown.items():
        note(f"{figure}: the paper does not say which seed it has{f', nor {what}' if what else ''}")
    presets = {picture.preset: find_preset(picture.preset) for picture in pictures}
    bases = {name: recipe_from(method, _everywhere(preset)) for name, preset in presets.items()}
    where: dict[tuple[str, StepInterval | None], Any] = {}
    for picture in pictures:
        defined, used = presets[picture.preset].recipe().levels(), bases[picture.preset].levels()
        for interval in (cell.interval for cell in picture.cells if (picture.preset, cell.interval) not in where):
            found = on_schedule(interval, defined, used)
            where[picture.preset, interval] = None if isinstance(found, str) else found
    return [_prompt_sheet(picture, bases[picture.preset], where, seed) for picture in pictures]


def _everywhere(preset: Preset) -> Preset:
    """A preset, guided at all steps: each cell has an interval of its own."""
    return replace(preset, guides=tuple(replace(guide, interval=None) for guide in preset.guides))


def _prompt_sheet(picture: PromptPicture, base: Recipe, where: Mapping[Any, Any], seed: int) -> PromptSheet:
    """where: by preset and interval, that interval on the noise levels of `base`."""
    preset = find_preset(picture.preset).recipe()
    base = replace(base, prompts=(picture.prompt,), labels=0)
    blends = picture.cells[0].alpha is not None
    changed = [f"by {base.net.name}, a stand-in"] if base.nets != preset.nets else []
    changed += [f"{base.num_steps} steps"] if base.num_steps != preset.num_steps else []
    changed += [spec.caption for spec in base.unusual(preset)]
    return PromptSheet(
        picture,
        [cell.recipe(base, where[picture.preset, cell.interval]) for cell in picture.cells],
        [f"w = {line[0].weight:g}" for line in picture.lines] if blends else [],
        [_caption(cell, preset.levels()) for cell in picture.lines[0]],
        f"{', '.join([f'{picture.printed} ({picture.figure})', *changed])}: {picture.prompt} (seed {seed})",
    )


def _caption(cell: Cell, levels: Sequence[float]) -> str:
    """Of a column: the blend, or weight and where."""
    if cell.alpha is not None:
        end = {0.0: ", CFG", 1.0: ", autoguidance"}.get(cell.alpha, "")
        return f"alpha = {cell.alpha:g}{end}"
    where = "at all steps" if cell.interval is None else f"at {cell.interval.sigmas(levels)}"
    return f"w = {cell.weight:g} {where}"
