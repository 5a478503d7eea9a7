"""The recipe that the options of a command line describe. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import click

from dnnlib.places import files_like, find_file, is_pipeline, near, python_function
from dnnlib.published import PUBLISHED
from dnnlib.terminal import counted
from edm2_guidance.cli import typed
from edm2_guidance.cli.again import Usual, usual_of
from edm2_guidance.cli.class_names import known_class
from edm2_guidance.cli.command import bad_input
from edm2_guidance.cli.intervals import EVERYWHERE, NOWHERE, Interval, on_schedule
from edm2_guidance.cli.prompts import asked_prompts
from edm2_guidance.cli.recipe_options import Method, NetworkOptions, field_names
from edm2_guidance.cli.run_options import threads_for
from edm2_guidance.cli.say import note, say_notes
from edm2_guidance.cli.typed import given
from edm2_guidance.papers.lookup import find_preset
from edm2_guidance.papers.presets import Preset, all_presets
from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.class_names import ClassName
from edm2_guidance.recipe.files import ImageSet, NetworkRef
from edm2_guidance.recipe.guide import Guide, classifier_guide
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.parts import Reference, Sampler, Schedule, Weight, constant
from edm2_guidance.recipe.recipe import LabelRule, Recipe
from edm2_guidance.recipe.search import recipe_at

_TOLD = f"{__name__}.told"  # a key in click's Context.meta
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
    _tell(preset)
    usual = usual_of(preset, networks.recipe)
    net = networks.net or (None if usual is None else usual.recipe.net.found or usual.recipe.net.source)
    class_idx = known_class(sampling.class_idx, sampling.class_names, net)
    with bad_input():
        prompts = asked_prompts(sampling, () if usual is None else usual.recipe.prompts)
    if preset is not None and networks.net is None and not networks.gnet and not prompts:
        _check_class(class_idx, preset)
    with bad_input():
        if net is None:
            raise click.UsageError("which network? Give --net=PATH|URL or --preset=NAME")
        unguided = replace(_unguided(method, usual, class_idx), prompts=prompts)
        recipe = replace(unguided, guides=_guides(networks, usual, defaults or GuideDefaults(), unguided))
    if not scored:
        threads_for(recipe.sources)
    return recipe


def _tell(preset: Preset | None) -> None:
    """Say, once for a command, what is to mind of a preset."""
    ctx = click.get_current_context(silent=True)
    told: set[str] = set() if ctx is None else ctx.meta.setdefault(_TOLD, set())
    if preset is None or preset.name in told:
        return
    told.add(preset.name)
    texts = (preset.note, f"assumed: {preset.assumed}" if preset.assumed else "")
    say_notes(f"{preset.name}: {text}" for text in texts if text)


def _unguided(method: Method, usual: Usual | None, class_idx: int | ClassName | None) -> Recipe:
    """The recipe without its guides: what is given, else what is usual."""
    networks, sampling = method.networks, method.sampling
    known = None if usual is None else usual.recipe

    def chosen(name: str, value: Value) -> Value:
        """The option's value; the usual one, if the option is not given."""
        return value if known is None or given(name) else getattr(known, name)

    schedule = _with_fields(chosen("schedule", sampling.schedule), sampling.schedule_fields)
    return Recipe(
        net=_network(networks.net, usual),
        num_steps=_num_steps(sampling.steps, known, schedule),
        sampler=_with_fields(chosen("sampler", sampling.sampler), sampling.sampler_fields),
        schedule=schedule,
        rule=chosen("rule", networks.rule),
        around=chosen("around", networks.around),
        dtype=chosen("dtype", sampling.dtype),
        labels=_label_rule(class_idx, sampling.labels, usual if networks.upsample is None else None),
        seed_rule="edm2" if known is None else known.seed_rule,
        noise_device=method.noise_device or ("device" if known is None else known.noise_device),
        base=_base(networks.upsample, usual),
    )


def _network(source: str | None, usual: Usual | None) -> NetworkRef:
    """The main network."""
    if source is None and usual is not None:
        return _found(usual, usual.recipe.net, "--net")
    return NetworkRef(_existing(str(source)))


def _found(usual: Usual, net: NetworkRef, option: str) -> NetworkRef:
    """One of the usual networks, which is there."""
    found = usual.file(net, option)
    _existing(found.source, "classifier" if option == "--classifier" else "network")
    return found


def _base(source: str | None, usual: Usual | None) -> ImageSet | Recipe | None:
    """The images that the main network enlarges: of a preset, or stored. ValueError if there are none."""
    if source is None:
        return None if usual is None else usual.base
    if source in all_presets():
        return all_presets()[source].recipe()
    if not find_file(source).exists() and not files_like(source):
        raise ValueError(
            f"no images at '{source}', and no preset has that name (--preset=list); give a ZIP, a folder or an .npz"
        )
    return ImageSet(source)


def _num_steps(steps: int, known: Recipe | None, schedule: Schedule) -> int:
    """--steps if it is given; else the schedule's own number, or the usual one."""
    if given("steps"):
        return steps
    return schedule.num_steps or (schedule.usual_steps if known is None else known.num_steps)


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
        if name in spec.changed() and given(spec.axis):
            raise ValueError(f"{typed.quoted(name)}: --{spec.axis}={spec} says it already: leave one of them out")
        if name not in field_names(spec.axis, spec.kind):
            raise ValueError(f"{typed.quoted(name)}: the {spec.axis} {spec.kind} has none; see --{spec.axis}=list")
    return spec.with_fields(options)


def _label_rule(
    class_idx: int | ClassName | None, labels: Literal["random", "balanced"] | None, usual: Usual | None
) -> LabelRule:
    if class_idx is None:
        return labels or ("random" if usual is None or usual.made is None else usual.recipe.labels)
    if labels is not None:
        raise click.UsageError("--class fixes the class of every image; leave out --labels")
    return class_idx


def _existing(source: str, what: str = "network") -> str:
    own = python_function(source)
    if own is not None and not own[0].is_file():
        raise ValueError(f"no file at '{own[0]}', whose function {own[1]} is to make the {what}")
    there = "://" in source or source in PUBLISHED or find_file(source).is_file() or is_pipeline(source)
    if own is None and not there:
        known = f"; {source} is a preset: --preset={source}" if source in all_presets() else near(source)
        ends = ".pkl, .safetensors or .pt" if what == "network" else ".pt or .safetensors"
        pipelines = ", or a pipeline of diffusers, a folder or hf://ORG/REPO" if what == "network" else ""
        raise ValueError(f"no {what} file at '{source}'; give a path to a {ends} file, a URL{pipelines}{known}")
    return source


def _guides(
    networks: NetworkOptions, usual: Usual | None, defaults: GuideDefaults, recipe: Recipe
) -> tuple[Guide, ...]:
    """The guides of an unguided recipe, a classifier last; what is given once per guide is given so."""
    known = None if usual is None else usual.guides(recipe)
    if usual is not None and known is not None:
        return tuple(
            guide if guide.net is None else replace(guide, net=_found(usual, guide.net, guide.option))
            for guide in known
        )
    if networks.classifier is None and (usual is None or usual.classifier is None):
        if networks.classifier_scale is not None:
            raise ValueError(f"{typed.quoted('classifier_scale')}: of which classifier? Give --classifier=PATH|URL")
        return _network_guides(networks, usual, defaults, recipe)
    others = bool(networks.gnet or networks.reference or (usual is not None and usual.networks))
    of_networks: dict[str, Any] = {}
    of_classifier: dict[str, Any] = {}
    for name in ("weight", "guidance_interval", "guidance_sigma"):
        values = getattr(networks, name)
        if len(values) > 1 and not others:
            raise ValueError(f"{typed.quoted(name)}: the classifier is the only guide; give it once")
        of_networks[name] = (values if len(values) == 1 else values[:-1]) if others else ()
        of_classifier[name] = values[-1:]
    guides = _network_guides(replace(networks, **of_networks), usual, defaults, recipe)
    return (*guides, _classifier_guide(replace(networks, **of_classifier), usual, defaults, recipe))


def _classifier_guide(networks: NetworkOptions, usual: Usual | None, defaults: GuideDefaults, recipe: Recipe) -> Guide:
    """networks: whose weight and interval, if any, are the classifier's."""
    known = None if usual is None else usual.classifier
    net = None if networks.classifier is None else NetworkRef(_existing(networks.classifier, "classifier"))
    if net is None and usual is not None and known is not None and known.net is not None:
        net = _found(usual, known.net, "--classifier")
    assert net is not None  # `_guides` asks for none without
    scale = networks.classifier_scale
    if scale is None and usual is not None and known is not None:
        scale = _usual_scale(usual, known, recipe)
    scale = defaults.scale if scale is None else scale
    if scale is None:
        raise ValueError(f"{typed.quoted('classifier')}: a classifier needs a scale; give --classifier-scale=S")
    (schedule,) = networks.weight or (None,)
    if schedule is not None and schedule.stated:
        raise ValueError(f"--weight={schedule}: a classifier's w is 1 + --classifier-scale; leave w out")
    intervals = _intervals(networks) or ([] if usual is None or known is None else [usual.interval(known, recipe)])
    interval = next(iter(intervals), EVERYWHERE)
    guide = classifier_guide(net, scale, recipe.sampler, None if isinstance(interval, str) else interval)
    if schedule is None and usual is not None and known is not None and _same_form(usual, recipe):
        schedule = known.weight
    weight = guide.weight if schedule is None else schedule.with_fields({"w": 1 + scale})
    return replace(guide, weight=weight, never=interval == NOWHERE)


def _same_form(usual: Usual, recipe: Recipe) -> bool:
    """Whether a classifier's scale means the same under both samplers."""
    ours, theirs = (catalog.CLASSIFIER_WEIGHTS.get(each.sampler.kind) for each in (recipe, usual.recipe))
    return ours == theirs


def _usual_scale(usual: Usual, known: Guide, recipe: Recipe) -> float:
    """The scale of the usual classifier; says where it is of another sampler."""
    if not _same_form(usual, recipe):
        note(
            f"the scale of {usual.name} is for the sampler {usual.recipe.sampler}, and no measure of one for "
            f"{recipe.sampler.kind}: give --classifier-scale=S"
        )
    return known.scale


def _network_guides(
    networks: NetworkOptions, usual: Usual | None, defaults: GuideDefaults, recipe: Recipe
) -> tuple[Guide, ...]:
    nets: list[NetworkRef | None] = [NetworkRef(net) for net in networks.gnet]
    weights: list[float | None] = list(networks.guidance)
    stated = any(schedule.moves for schedule in networks.weight)
    schedules, references = list(networks.weight), list(networks.reference)
    intervals = _intervals(networks)
    if usual is not None and usual.networks:
        known = usual.networks
        nets = nets or [guide.net for guide in known]
        weights = weights or _for_all(_usual_weights(known, schedules), nets)
        schedules = schedules or [guide.weight.with_fields({"w": 1.0}) for guide in known]
        intervals = intervals or [usual.interval(guide, recipe) for guide in known]
        references = references or [guide.reference for guide in known]
    nets = _nets_of(nets, references)
    if not nets:
        _check_nothing_to_guide(networks, intervals)
        return ()
    defaults = _of_the_interval_paper(defaults, bool(weights) or stated, bool(intervals))
    schedules = schedules or [constant(1.0)]
    if not weights and not all(schedule.moves for schedule in schedules):
        if defaults.weight is None or stated:
            said = next(name for name in ("gnet", "reference", "weight") if getattr(networks, name))
            raise ValueError(f"{typed.quoted(said)}: a guide needs a weight; give it as --guidance=W (1 = off)")
        weights = [defaults.weight] * len(nets)
    intervals = intervals or [on_schedule(defaults.interval, Recipe(recipe.net).levels(), recipe.levels())]
    references = references or [Reference.parse("network")]
    intervals, references = _for_all(intervals, nets), _for_all(references, nets)
    schedules = _for_all(schedules, nets)
    each = (nets, weights or [None] * len(nets), intervals, references, schedules)
    if any(len(values) != len(nets) for values in each):
        lengths = {"guide": len(nets), "weight": len(weights), "interval": len(intervals), "reference": len(references)}
        found = ", ".join(counted(length, noun) for noun, length in lengths.items())
        raise ValueError(
            f"{found}, {len(schedules)} of --weight: repeat --gnet, --guidance and the others once per guide, in the "
            "same order; --reference, --weight and the interval may be given once for all, and references that ask the "
            "main network take no --gnet"
        )
    return tuple(
        Guide(
            net=net and _guide_file(net, networks, usual),
            weight=_weight(schedule, weight),
            interval=None if isinstance(interval, str) else interval,
            reference=reference,
            never=interval == NOWHERE,
        )
        for net, weight, interval, reference, schedule in zip(*each, strict=True)
    )


def _nets_of(nets: list[NetworkRef | None], references: Sequence[Reference]) -> list[NetworkRef | None]:
    """The networks of guides: where more references are given than networks, these are of the references that need one.

    The others ask the main network.
    """
    needs = [not reference.of_main for reference in references]
    if not nets:
        return [None] * len(references)
    if len(references) <= len(nets) or needs.count(True) != len(nets):
        return nets
    named = iter(nets)
    return [next(named) if each else None for each in needs]


def _usual_weights(known: Sequence[Guide], schedules: Sequence[Weight]) -> list[float | None]:
    """w of the usual guides, unless other schedules say it themselves, or a function of the user's own has none."""
    none = any(guide.weight.moves and guide.weight.w == 1 for guide in known)
    if any(schedule.stated for schedule in schedules) or (schedules and none):
        return []
    return [guide.weight.w for guide in known]


def _guide_file(net: NetworkRef, networks: NetworkOptions, usual: Usual | None) -> NetworkRef:
    """A guide's network that is there: one that was given, or a usual one."""
    if usual is not None and not networks.gnet:
        return _found(usual, net, "--gnet")
    _existing(net.source)
    return net


def _for_all(values: list[Value], nets: Sequence[object]) -> list[Value]:
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
    """The recipe with this weight on its guide (--weights of a grid). ValueError unless exactly one is a network."""
    count = [guide.of_classifier for guide in recipe.guides].count(False)
    if count != 1:
        needed = "--weights needs methods with one guide that is a network"
        raise ValueError(f"{needed}, and that of {recipe.net.name} has {count}: leave out one of the two")
    return recipe_at(recipe, {"weight": weight})


def with_scale(recipe: Recipe, scale: float) -> Recipe:
    """The recipe with this scale of its classifier (columns of a grid). ValueError if it has none."""
    if not any(guide.of_classifier for guide in recipe.guides):
        needed = "--scales needs methods with a classifier"
        raise ValueError(f"{needed}, and that of {recipe.net.name} has none: give --classifier=PATH|URL")
    return recipe_at(recipe, {"scale": scale})
