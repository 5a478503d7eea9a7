"""A recipe as the options of a command line that give it, to paste. No torch here."""

import shlex
from dataclasses import fields

from dnnlib.places import short_name
from edm2_guidance.recipe.recipe import Recipe, SamplerSpec, SigmaInterval


def recipe_flags(recipe: Recipe) -> str:
    """The options by which generate_images.py, generate_zip.py and `calculate_metrics.py gen` take this recipe.

    What has its default value is left out. Quoted for a shell.
    """
    flags = [f"--net={short_name(recipe.net.source)}"]
    for guide in recipe.guides:
        flags += [f"--gnet={short_name(guide.net.source)}", f"--guidance={_number(guide.weight)}"]
    flags += _interval_flags(recipe)
    names = {"num_steps": "steps"}
    for field in fields(SamplerSpec):
        value, default = getattr(recipe.sampler, field.name), getattr(SamplerSpec(), field.name)
        if value != default:
            text = value if isinstance(value, str) else _number(value)
            flags.append(f"--{names.get(field.name, field.name)}={text}")
    if isinstance(recipe.labels, int):
        flags.append(f"--class={recipe.labels}")
    elif recipe.labels == "balanced":
        flags.append("--labels=balanced")
    if recipe.noise_device != "device":
        flags.append(f"--noise-device={recipe.noise_device}")
    return " ".join(map(shlex.quote, flags))


def _interval_flags(recipe: Recipe) -> list[str]:
    intervals = [guide.interval for guide in recipe.guides]
    if all(interval is None for interval in intervals):
        return []
    flags = []
    by_sigma = any(isinstance(interval, SigmaInterval) for interval in intervals)
    for interval in intervals:
        if interval is None:
            flags.append(f"--guidance{'-sigma' if by_sigma else '_interval'}=None")
        elif isinstance(interval, SigmaInterval):
            flags.append(f"--guidance-sigma={_number(interval.lo)},{_number(interval.hi)}")
        else:
            flags.append(f"--guidance_interval={interval.first},{interval.last}")
    return flags


def _number(value: float) -> str:
    """The shortest text that stands for this very number."""
    return repr(value).removesuffix(".0")
