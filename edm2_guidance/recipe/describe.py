"""A stored recipe in a few words."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from edm2_guidance.recipe.prompts import prompt_text, prompts_text
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.stored import read_recipe

#: What recipes with the same networks, guides and kinds may still differ in, and the words for it.
DETAILS: Mapping[str, Callable[[Recipe], str]] = {
    "num_steps": lambda recipe: f"{recipe.num_steps} step{'' if recipe.num_steps == 1 else 's'}",
    "noise_device": lambda recipe: f"noise from {recipe.noise_device}",
}


def describe_recipe(stored: Mapping[str, Any] | None, also: Collection[str] = ()) -> str:
    """A few words on how images were made: network, guides with weight and steps, and what is not usual; "-" if
    unknown. also: fields of the recipe that are said even so, "num_steps" or "noise_device"."""
    try:
        recipe = read_recipe(stored or {})
    except ValueError:  # those beside stored images may be anybody's
        return "-"
    parts = [recipe.name if recipe.base is None else f"{recipe.name} of {recipe.base.name}"]
    for guide in recipe.guides:
        where = "" if guide.interval is None else f" {guide.interval}"
        parts.append(f"{guide.short}{' never' if guide.never else where}")
    details = [words(recipe) for name, words in DETAILS.items() if name in also]
    prompts = [labels_text(recipe)] if recipe.prompts else []
    dtype = [] if recipe.dtype == "float32" else [recipe.dtype]
    return ", ".join([" + ".join(parts), *details, *prompts, *dtype, *map(str, recipe.unusual())])


def labels_text(recipe: Recipe) -> str:
    """The label rule; with prompts, which of them."""
    labels, prompts = recipe.labels, recipe.prompts
    if prompts and labels == "balanced":
        return prompts_text(prompts)
    if prompts and labels == "stored":
        return f"{prompts_text(prompts).removesuffix(', by seed')}, by stored class"
    if isinstance(labels, int):
        return prompt_text(prompts, labels) if prompts else f"class {labels}"
    return str(labels)
