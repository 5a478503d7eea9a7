"""A point of a search as a recipe. No torch here."""

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TypeVar

from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.own import OwnFunction
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.spec import Spec

_OF_GUIDES = ("weight", "alpha", "scale", "first", "last", "ema", "guide_ema")
AnySpec = TypeVar("AnySpec", bound=Spec)


def valid(point: Mapping[str, float]) -> bool:
    """Whether the interval's ends do not cross."""
    return "last" not in point or "first" not in point or point["first"] <= point["last"]


def recipe_at(recipe: Recipe, point: Mapping[str, float]) -> Recipe:
    """The recipe with a point's weight, interval, EMA lengths and blend (arXiv 2406.02507, Eq. 6) put in.

    These are of guiding networks; its scale is of classifiers, and so is its interval. Other names are of fields of
    its rule, weights, around, sampler and schedule, or of parameters of the user's own functions; ValueError for one of
    none.
    """
    recipe = _with_fields(recipe, {name: value for name, value in point.items() if name not in _OF_GUIDES})
    net = recipe.net
    guides = [guide for guide in recipe.guides if not guide.of_classifier]
    classifiers = [guide for guide in recipe.guides if guide.of_classifier]
    if "alpha" in point:
        beyond = point["weight"] - 1
        shares = (1 - point["alpha"], point["alpha"])
        guides = [_weighted(guide, share * beyond + 1) for guide, share in zip(guides, shares, strict=True)]
    elif "weight" in point:
        guides = [_weighted(guide, point["weight"]) for guide in guides]
    if "guide_ema" in point:
        guides = [
            guide if guide.net is None else replace(guide, net=with_ema(guide.net, point["guide_ema"]))
            for guide in guides
        ]
    if "scale" in point:
        classifiers = [_weighted(guide, 1 + point["scale"]) for guide in classifiers]
    guides += classifiers
    if "first" in point or "last" in point:
        last_step = recipe.num_steps - 1
        first, last = int(point.get("first", 0)), int(point.get("last", last_step))
        everywhere = (first, last) == (0, last_step)
        guides = [replace(guide, interval=None if everywhere else StepInterval(first, last)) for guide in guides]
    if "ema" in point:
        net = with_ema(net, point["ema"])
    return replace(recipe, net=net, guides=tuple(guides))


def _with_fields(recipe: Recipe, values: Mapping[str, float]) -> Recipe:
    """The recipe with every field of these names, whatever part has it."""
    for name in values:
        _parts_with(recipe, name)

    def changed(part: AnySpec) -> AnySpec:
        return part.with_fields({name: value for name, value in values.items() if _has(part, name)})

    guides = tuple(replace(guide, weight=changed(guide.weight)) for guide in recipe.guides)
    parts = (changed(recipe.rule), changed(recipe.sampler), changed(recipe.schedule))
    around = tuple(map(changed, recipe.around))
    return replace(recipe, guides=guides, rule=parts[0], sampler=parts[1], schedule=parts[2], around=around)


def field_of(recipe: Recipe, name: str) -> float:
    """The value of a field of this name, of the first part that has it. ValueError if none has, or it has no value."""
    part = _parts_with(recipe, name)[0]
    found = part.value(name) if isinstance(part, OwnFunction) else getattr(part, name)
    if isinstance(found, int | float):
        return found
    raise ValueError(f"'{name}' has no number to start from: give it a default, or a value with the function")


def _parts_with(recipe: Recipe, name: str) -> list[Spec]:
    weights = (guide.weight for guide in recipe.guides)
    parts = (recipe.rule, *weights, *recipe.around, recipe.sampler, recipe.schedule)
    found = [part for part in parts if _has(part, name)]
    if not found:
        raise ValueError(f"'{name}': no part of this recipe has it, neither its functions nor its kinds")
    return found


def _has(part: Spec, name: str) -> bool:
    if isinstance(part, OwnFunction):
        return name in part.defaults
    return name != "w" and name in {each.name for each in fields(part)}


def _weighted(guide: Guide, w: float) -> Guide:
    return replace(guide, weight=guide.weight.with_fields({"w": w}))


_EMA = re.compile(r"-(\d\.\d{3})(?=\.(?:pkl|safetensors)$)")


def ema_of(net: NetworkRef) -> float:
    """The EMA length in the file's name. ValueError if there is none."""
    match = _EMA.search(net.source)
    if match is None:
        raise ValueError(
            f"{net.source}: no EMA length in the name. Such a search takes files like NAME-0000163-0.050.pkl, "
            "one per length, side by side (reconstruct_phema.py makes them)"
        )
    return float(match[1])


def with_ema(net: NetworkRef, ema: float) -> NetworkRef:
    """The file beside this one with another EMA length."""
    ema_of(net)
    return NetworkRef(_EMA.sub(f"-{ema:.3f}", net.source))
