"""A recipe as the options of a command line that give it, to paste. No torch here."""

import shlex
from collections.abc import Sequence
from dataclasses import replace

from dnnlib.places import short_name
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.recipe.catalog import CLASSIFIER_WEIGHTS
from edm2_guidance.recipe.files import ImageSet
from edm2_guidance.recipe.intervals import SigmaInterval
from edm2_guidance.recipe.parts import Reference, Weight, constant
from edm2_guidance.recipe.prompts import Prompts, PromptsRef
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.spec import Spec

MAX_PROMPT_OPTIONS = 20


def recipe_flags(recipe: Recipe) -> str:
    """The options by which generate_images.py, generate_zip.py and `calculate_metrics.py gen` take this recipe.

    What has its default value is left out. Quoted for a shell. More prompts than one would paste are
    --prompts=FILE, for the user to name it. ValueError for a base that no preset makes.
    """
    flags = [f"--net={short_name(recipe.net.source)}"]
    if recipe.base is not None:
        flags.append(f"--upsample={_base(recipe, recipe.base)}")
    classifier = next((guide for guide in recipe.guides[-1:] if guide.of_classifier), None)
    others = recipe.guides if classifier is None else recipe.guides[:-1]
    for guide in others:
        flags += [] if guide.net is None else [f"--gnet={short_name(guide.net.source)}"]
        flags += [f"--guidance={_number(guide.weight.w)}"] if any(_has_w(other.weight) for other in others) else []
    if classifier is not None and classifier.net is not None:
        flags.append(f"--classifier={short_name(classifier.net.source)}")
        flags.append(f"--classifier-scale={_number(classifier.scale)}")
    count = len(others)
    flags += _kind_flags("--reference", [guide.reference for guide in others], [Reference.parse("network")] * count)
    of_classifier = Weight.parse(CLASSIFIER_WEIGHTS.get(recipe.sampler.kind, "constant"))
    weights = [*[constant(1.0)] * count, of_classifier][: len(recipe.guides)]
    flags += _kind_flags("--weight", [guide.weight.with_fields({"w": 1.0}) for guide in recipe.guides], weights)
    flags += _interval_flags(recipe)
    if recipe.num_steps != Recipe(recipe.net, schedule=recipe.schedule).num_steps:
        flags.append(f"--steps={recipe.num_steps}")
    for spec, usual in ((recipe.schedule, "edm"), (recipe.sampler, "heun"), (recipe.rule, "linear")):
        if spec.kind != usual:
            flags.append(f"--{spec.axis}={spec.flag}")
        else:
            flags += [f"--{name}={_number(value)}" for name, value in spec.changed().items()]
    if recipe.around:
        flags.append(f"--around={','.join(each.flag for each in recipe.around)}")
    if recipe.dtype != "float32":
        flags.append(f"--dtype={recipe.dtype}")
    if isinstance(recipe.labels, int):
        flags.append(f"--class={recipe.labels}")
    elif recipe.labels == "balanced" and not recipe.prompts:
        flags.append("--labels=balanced")
    flags += _prompt_flags(recipe.prompts)
    if recipe.noise_device != "device":
        flags.append(f"--noise-device={recipe.noise_device}")
    return " ".join(map(shlex.quote, flags))


def commands_again(recipe: Recipe, metric: str, reference: str | None, num_images: int | None) -> list[str]:
    """The command line that samples by a recipe, and that which scores so many of its images. ValueError as above."""
    flags = recipe_flags(recipe)
    commands = [f"python generate_images.py {flags} --outdir=out --seeds=0-63"]
    if reference is not None:
        count = [] if num_images is None else [f"--num-images={num_images}"]
        score = [f"--ref={reference}", f"--metrics={metric}", *count]
        commands.append(f"python calculate_metrics.py gen {flags} {' '.join(map(shlex.quote, score))}")
    return commands


def _base(recipe: Recipe, base: ImageSet | Recipe) -> str:
    """Where the images that are enlarged lie, or the preset that makes them."""
    if isinstance(base, ImageSet):
        return short_name(base.source)
    near = (preset for preset in all_presets().values() if preset.net == base.net.source)
    for preset in near:
        if replace(recipe, base=preset.recipe()).resolved() == recipe.resolved():
            return preset.name
    raise ValueError(f"no options give these images of {base.name}, which are enlarged: take the recipe as a file")


def _prompt_flags(prompts: Prompts) -> list[str]:
    if isinstance(prompts, PromptsRef) or len(prompts) > MAX_PROMPT_OPTIONS:
        return ["--prompts=FILE"]
    return [f"--prompt={prompt}" for prompt in prompts]


def _kind_flags(option: str, specs: Sequence[Spec], usual: Sequence[Spec]) -> list[str]:
    """An option that is given once per guide, unless all are as usual."""
    return [] if list(specs) == list(usual) else [f"{option}={spec.flag}" for spec in specs]


def _interval_flags(recipe: Recipe) -> list[str]:
    intervals = [guide.interval for guide in recipe.guides]
    if all(interval is None for interval in intervals):
        return []
    flags = []
    by_sigma = any(isinstance(interval, SigmaInterval) for interval in intervals)
    for interval in intervals:
        if interval is None:
            flags.append(f"--guidance-{'sigma' if by_sigma else 'interval'}=None")
        elif isinstance(interval, SigmaInterval):
            flags.append(f"--guidance-sigma={_number(interval.lo)},{_number(interval.hi)}")
        else:
            flags.append(f"--guidance-interval={interval.first},{interval.last}")
    return flags


def _has_w(weight: Weight) -> bool:
    """Whether w says how far: not of a function without one, which moves at w = 1."""
    return weight.w != 1 or not weight.moves


def _number(value: float) -> str:
    """The shortest text that stands for this very number."""
    return repr(value).removesuffix(".0")
