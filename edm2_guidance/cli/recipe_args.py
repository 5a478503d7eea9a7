"""The recipe that the options of a command line describe. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import click

from dnnlib.places import files_like, find_file, near, python_function
from dnnlib.published import PUBLISHED
from dnnlib.terminal import counted
from edm2_guidance.cli import typed
from edm2_guidance.cli.class_names import known_class
from edm2_guidance.cli.command import bad_input
from edm2_guidance.cli.intervals import EVERYWHERE, Interval, on_schedule
from edm2_guidance.cli.recipe_options import Method, NetworkOptions, SamplingOptions, field_names
from edm2_guidance.cli.run_options import threads_for
from edm2_guidance.cli.say import note
from edm2_guidance.cli.typed import given
from edm2_guidance.papers.lookup import find_preset
from edm2_guidance.papers.presets import Preset, all_presets
from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.class_names import ClassName
from edm2_guidance.recipe.parts import Reference, Sampler, Schedule, Weight, constant
from edm2_guidance.recipe.recipe import Guide, ImageSet, LabelRule, NetworkRef, Recipe, StepInterval, classifier_guide
from edm2_guidance.recipe.search import recipe_at

AnySpec = TypeVar("AnySpec", Sampler, Schedule)
Value = TypeVar("Value")


@dataclass(frozen=True)
class GuideDefaults:
    """What a guide gets for which the command line says no weight or no interval, where that is varied later on."""

    weight: float | None = None  # None = a usage error
    interval: StepInterval | str | None = None  # None = everywhere
    scale: float | None = None  # of a classifier; None = a usage error


#: What the interval paper's repository takes for them: arXiv 2404.07724, ImageNet-512, EDM2-XXL.
_INTERVAL_PAPER = GuideDefaults(2.0, StepInterval(17, 22))


def recipe_from(
    method: Method,
    preset: Preset | None = None,
    defaults: GuideDefaults | None = None,
    *,
    scored: bool = False,
) -> Recipe:
    """The recipe that a command line describes: the preset's settings, overridden by the options that were given.

    Which options the user gave, and in which words, is asked of the current click context. A guide needs a weight, its
    own or the preset's or that of `defaults`; one that is given in the interval paper's words takes what is said there.
    Files are checked to exist, and everything that contradicts itself is a usage error, before any network opens. The
    command gets as many threads as these networks are worth, unless its images are `scored` as well: then it calls
    `threads_for` itself, once it knows by what.
    """
    networks, sampling = method.networks, method.sampling
    if preset is None and networks.preset:
        preset = only_preset(networks.preset)
    net = networks.net or (preset.net if preset is not None else None)
    class_idx = known_class(sampling.class_idx, sampling.class_names, net)
    if preset is not None and networks.net is None and not networks.gnet:
        _check_class(class_idx, preset)
    with bad_input():
        if net is None:
            raise click.UsageError("which network? Give --net=PATH|URL or --preset=NAME")
        asked = _of_preset(sampling, preset)
        schedule = _with_fields(asked.schedule, sampling.schedule_fields)
        unguided = Recipe(
            net=NetworkRef(_existing(net)),
            num_steps=_num_steps(sampling.steps, preset, schedule),
            sampler=_with_fields(asked.sampler, sampling.sampler_fields),
            schedule=schedule,
            rule=networks.rule,
            dtype=sampling.dtype,
            labels=_label_rule(class_idx, sampling.labels),
            noise_device=method.noise_device or "device",
            base=_base(networks.upsample or (None if preset is None else preset.base)),
        )
        recipe = replace(unguided, guides=_guides(networks, preset, defaults or GuideDefaults(), unguided))
    if not scored:
        threads_for(recipe.sources)
    return recipe


def _of_preset(sampling: SamplingOptions, preset: Preset | None) -> SamplingOptions:
    """With the preset's sampler and schedule, unless others are given."""
    if preset is None:
        return sampling
    return replace(
        sampling,
        sampler=sampling.sampler if given("sampler") else Sampler.parse(preset.sampler),
        schedule=sampling.schedule if given("schedule") else Schedule.parse(preset.schedule),
    )


def _base(source: str | None) -> ImageSet | Recipe | None:
    """The images that the main network enlarges: of a preset, or stored. ValueError if there are none."""
    if source is None:
        return None
    if source in all_presets():
        return all_presets()[source].recipe()
    if not find_file(source).exists() and not files_like(source):
        raise ValueError(
            f"no images at '{source}', and no preset has that name (--preset=list); give a ZIP, a folder or an .npz"
        )
    return ImageSet(source)


def _num_steps(steps: int, preset: Preset | None, schedule: Schedule) -> int:
    """--steps if it is given; else the schedule's own number, the preset's, or the usual one."""
    if given("steps"):
        return steps
    return schedule.num_steps or (preset.num_steps if preset is not None else steps)


def _check_class(class_idx: int | ClassName | None, preset: Preset) -> None:
    if isinstance(class_idx, int) and class_idx >= preset.num_classes:
        known = f"has classes 0 to {preset.num_classes - 1}" if preset.num_classes else "is unconditional"
        raise click.UsageError(f"--class={class_idx}: {preset.name} {known}")


def only_preset(names: Sequence[str]) -> Preset:
    """The one preset that was named; a usage error for none that is known, or for several."""
    if len(names) > 1 or "," in names[0]:
        ctx = click.get_current_context(silent=True)
        draws = ctx is not None and any(option.name == "grid" for option in ctx.command.params)
        grid = "add --grid=FILE.png" if draws else "use generate_images.py --grid=FILE.png"
        raise click.UsageError(f"several presets make rows of a grid: name one preset, or {grid}")
    with bad_input():
        return find_preset(names[0])


def _with_fields(spec: AnySpec, fields: Mapping[str, float]) -> AnySpec:
    """A sampler or schedule with the options of its own fields that were given, such as --rho of the schedule edm.

    ValueError for one that it does not have, and for one that its text gives as well.
    """
    options = {name: value for name, value in fields.items() if given(name)}
    for name in options:
        if name in spec.changed():
            raise ValueError(f"{typed.quoted(name)}: --{spec.axis}={spec} says it already: leave one of them out")
        if name not in field_names(spec.axis, spec.kind):
            raise ValueError(f"{typed.quoted(name)}: the {spec.axis} {spec.kind} has none; see --{spec.axis}=list")
    return spec.with_fields(options)


def _label_rule(class_idx: int | ClassName | None, labels: Literal["random", "balanced"] | None) -> LabelRule:
    if class_idx is None:
        return labels or "random"
    if labels is not None:
        raise click.UsageError("--class fixes the class of every image; leave out --labels")
    return class_idx


def _existing(source: str, what: str = "network") -> str:
    own = python_function(source)
    if own is not None and not own[0].is_file():
        raise ValueError(f"no file at '{own[0]}', whose function {own[1]} is to make the {what}")
    if own is None and "://" not in source and source not in PUBLISHED and not find_file(source).is_file():
        known = f"; {source} is a preset: --preset={source}" if source in all_presets() else near(source)
        ends = ".pkl, .safetensors or .pt" if what == "network" else ".pt or .safetensors"
        raise ValueError(f"no {what} file at '{source}'; give a path to a {ends} file, or a URL{known}")
    return source


def _guides(
    networks: NetworkOptions, preset: Preset | None, defaults: GuideDefaults, recipe: Recipe
) -> tuple[Guide, ...]:
    """The guides of an unguided recipe, a classifier last; what is given once per guide is given so."""
    networks = _with_classifier_of(preset, networks, recipe)
    if networks.classifier is None:
        if networks.classifier_scale is not None:
            raise ValueError(f"{typed.quoted('classifier_scale')}: of which classifier? Give --classifier=PATH|URL")
        return _network_guides(networks, preset, defaults, recipe)
    others = bool(networks.gnet or networks.reference or (preset is not None and preset.gnet is not None))
    of_networks: dict[str, Any] = {}
    of_classifier: dict[str, Any] = {}
    for name in ("weight", "guidance_interval", "guidance_sigma"):
        values = getattr(networks, name)
        if len(values) > 1 and not others:
            raise ValueError(f"{typed.quoted(name)}: the classifier is the only guide; give it once")
        of_networks[name] = (values if len(values) == 1 else values[:-1]) if others else ()
        of_classifier[name] = values[-1:]
    guides = _network_guides(replace(networks, **of_networks), preset, defaults, recipe)
    return (*guides, _classifier_guide(replace(networks, **of_classifier), networks.classifier, defaults, recipe))


def _with_classifier_of(preset: Preset | None, networks: NetworkOptions, recipe: Recipe) -> NetworkOptions:
    """With the preset's classifier and scale, as far as none are given; says where the scale is of another sampler."""
    if preset is None or preset.classifier is None or networks.classifier is not None:
        return networks
    scale = networks.classifier_scale
    if scale is None and catalog.CLASSIFIER_WEIGHTS.get(recipe.sampler.kind) != catalog.CLASSIFIER_WEIGHTS.get(
        Sampler.parse(preset.sampler).kind
    ):
        note(
            f"the scale of {preset.name} is for the sampler {preset.sampler}, and no measure of one for "
            f"{recipe.sampler.kind}: give --classifier-scale=S"
        )
    usual = preset.classifier_scale if scale is None else scale
    return replace(networks, classifier=preset.classifier, classifier_scale=usual)


def _classifier_guide(networks: NetworkOptions, source: str, defaults: GuideDefaults, recipe: Recipe) -> Guide:
    """networks: whose weight and interval, if any, are the classifier's."""
    scale = defaults.scale if networks.classifier_scale is None else networks.classifier_scale
    if scale is None:
        raise ValueError(f"{typed.quoted('classifier')}: a classifier needs a scale; give --classifier-scale=S")
    (schedule,) = networks.weight or (None,)
    if schedule is not None and schedule.stated:
        raise ValueError(f"--weight={schedule}: a classifier's w is 1 + --classifier-scale; leave w out")
    interval = next(iter(_intervals(networks)), EVERYWHERE)
    guide = classifier_guide(
        NetworkRef(_existing(source, "classifier")),
        scale,
        recipe.sampler,
        None if isinstance(interval, str) else interval,
    )
    return guide if schedule is None else replace(guide, weight=schedule.with_fields({"w": 1 + scale}))


def _network_guides(
    networks: NetworkOptions, preset: Preset | None, defaults: GuideDefaults, recipe: Recipe
) -> tuple[Guide, ...]:
    nets: list[str | None] = list(networks.gnet)
    weights: list[float | None] = list(networks.guidance)
    stated = any(schedule.moves for schedule in networks.weight)
    intervals = _intervals(networks)
    if preset is not None and preset.gnet is not None:
        nets = nets or [preset.gnet]
        weights = weights if weights or stated else [preset.guidance] * len(nets)
        preset_levels = Schedule.parse(preset.schedule).levels(preset.num_steps)
        intervals = intervals or [on_schedule(preset.interval, preset_levels, recipe.levels())]
    if not nets and networks.reference:
        nets = [None] * len(networks.reference)
    if not nets:
        _check_nothing_to_guide(networks, intervals)
        return ()
    defaults = _of_the_interval_paper(defaults, bool(weights) or stated, bool(intervals))
    schedules = list(networks.weight) or [constant(1.0)]
    if not weights and not all(schedule.moves for schedule in schedules):
        if defaults.weight is None or stated:
            said = "gnet" if networks.gnet else "reference"
            raise ValueError(f"{typed.quoted(said)}: a guide needs a weight; give it as --guidance=W (1 = off)")
        weights = [defaults.weight] * len(nets)
    intervals = intervals or [on_schedule(defaults.interval, Recipe(recipe.net).levels(), recipe.levels())]
    references = list(networks.reference) or [Reference.parse("network")]
    intervals, references = _for_all(intervals, nets), _for_all(references, nets)
    schedules = _for_all(schedules, nets)
    each = (nets, weights or [None] * len(nets), intervals, references, schedules)
    if any(len(values) != len(nets) for values in each):
        lengths = {"guide": len(nets), "weight": len(weights), "interval": len(intervals), "reference": len(references)}
        found = ", ".join(counted(length, noun) for noun, length in lengths.items())
        raise ValueError(
            f"{found}, {len(schedules)} of --weight: repeat --gnet, --guidance and the others once per guide, in the "
            "same order; --reference, --weight and the interval may be given once for all"
        )
    return tuple(
        Guide(
            net=None if net is None else NetworkRef(_existing(net)),
            weight=_weight(schedule, weight),
            interval=None if isinstance(interval, str) else interval,
            reference=reference,
        )
        for net, weight, interval, reference, schedule in zip(*each, strict=True)
    )


def _for_all(values: list[Value], nets: list[str | None]) -> list[Value]:
    """Of all guides, what may be given once."""
    return values * len(nets) if len(values) == 1 else values


def _weight(schedule: Weight, w: float | None) -> Weight:
    """A weight after this schedule; w: of --guidance. ValueError if the schedule says another."""
    if w is None:
        return schedule
    if schedule.stated and schedule.w != w:
        raise ValueError(f"--weight={schedule.flag} and --guidance={w:g} say two weights: leave one of them out")
    return schedule.with_fields({"w": w})


def check_no_weight(networks: NetworkOptions, option: str) -> None:
    """A usage error for a weight of the guides' own where `option` gives it; the preset's gives way to either."""
    stated = [f"--weight={schedule.flag}" for schedule in networks.weight if schedule.stated]
    if stated or networks.guidance:
        shown = stated[0] if stated else typed.quoted("guidance")
        raise click.UsageError(f"{shown}: w is what {option} says; leave one of them out")


def check_no_scale(networks: NetworkOptions, option: str) -> None:
    """A usage error for a classifier's scale where `option` gives it."""
    if networks.classifier_scale is not None:
        said = typed.quoted("classifier_scale")
        raise click.UsageError(f"{said}: the scale is what {option} says; leave one of them out")


def _check_nothing_to_guide(networks: NetworkOptions, intervals: list[Interval]) -> None:
    """ValueError for a weight or an interval without a guide."""
    if any(weight != 1 for weight in networks.guidance) or networks.weight:
        shown = typed.quoted("guidance" if networks.guidance else "weight")
        raise ValueError(f"{shown}: a weight needs a guiding network; give --gnet=PATH|URL")
    if intervals and intervals != [EVERYWHERE]:
        shown = typed.quoted("guidance_interval" if networks.guidance_interval else "guidance_sigma")
        raise ValueError(f"{shown}: an interval needs a guiding network; give --gnet=PATH|URL and --guidance=W")


def in_the_interval_papers_words() -> bool:
    """Whether the networks, one of them a guide, were given by the names that the interval paper's repository has."""
    theirs = typed.spellings("net") == {"--cond-pkl"} and typed.spellings("gnet") == {"--uncond-pkl"}
    return theirs and len(typed.typed("gnet")) == 1


def _of_the_interval_paper(defaults: GuideDefaults, weights: bool, intervals: bool) -> GuideDefaults:
    """What is not said of a guide, filled up with the interval paper's, and a note, if its words name the networks.

    weights, intervals: whether some are said.
    """
    if not in_the_interval_papers_words():
        return defaults
    paper, notes = defaults, []
    if not weights and defaults.weight is None:
        paper = replace(paper, weight=_INTERVAL_PAPER.weight)
        notes.append(f"w = {paper.weight:g} (--guidance=W for another)")
    if not intervals and defaults.interval is None:
        paper = replace(paper, interval=_INTERVAL_PAPER.interval)
        notes.append(f"{paper.interval} (--guidance-interval=None for all)")
    if notes:
        note(f"--uncond_pkl guides as in the interval paper, {' and '.join(notes)}")
    return paper


def _intervals(networks: NetworkOptions) -> list[Interval]:
    if networks.guidance_interval and networks.guidance_sigma:
        raise ValueError("--guidance-interval counts steps and --guidance-sigma noise levels: give one of them")
    return list(networks.guidance_interval or networks.guidance_sigma)


def with_weight(recipe: Recipe, weight: float) -> Recipe:
    """The recipe with this weight on its guide (columns of a grid). ValueError unless exactly one is a network."""
    if [guide.of_classifier for guide in recipe.guides].count(False) != 1:
        raise ValueError("columns of weights need exactly one guide per row")
    return recipe_at(recipe, {"weight": weight})


def with_scale(recipe: Recipe, scale: float) -> Recipe:
    """The recipe with this scale of its classifier (columns of a grid). ValueError if it has none."""
    if not any(guide.of_classifier for guide in recipe.guides):
        raise ValueError("columns of scales need a classifier per row: give --classifier=PATH|URL")
    return recipe_at(recipe, {"scale": scale})
