"""Recipes out of files: of this format, and of the one before. No torch here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edm2_guidance.recipe.around import Around
from edm2_guidance.recipe.files import ImageSet, NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from edm2_guidance.recipe.parts import Reference, Rule, Sampler, Schedule, Weight, constant
from edm2_guidance.recipe.recipe import FORMAT, Recipe
from edm2_guidance.recipe.spec import digest

MAX_STEPS = 10**5  # of a recipe out of a file, whose levels are computed when it is read
MAX_STAGES = 4  # of the same, each of which enlarges the images of the one before
_SCHEDULE = ("sigma_min", "sigma_max", "rho")
_CHURN = ("S_churn", "S_min", "S_max", "S_noise")


def read_recipe(data: Mapping[str, Any], stages: int = MAX_STAGES) -> Recipe:
    """The recipe that `Recipe.to_json` wrote, of format 1 or 2. ValueError for anything else, and for more stages."""
    try:
        known = data.get("format", 1)
        if known not in (1, FORMAT):
            raise ValueError(f"format {known} is not known: a newer version of this program wrote it")
        if not isinstance(data["guides"], list) or not isinstance(data["encoder"], Mapping):
            raise TypeError("guides are a list, and the encoder an object")
        parts = _parts_of_format_1(data) if known == 1 else _parts(data)
        if type(parts["num_steps"]) is not int or parts["num_steps"] > MAX_STEPS:
            raise ValueError(f"{parts['num_steps']} steps: expected a number up to {MAX_STEPS}")
        return Recipe(
            net=_net(data["net"]),
            labels=data["labels"],
            seed_rule=data["seed_rule"],
            noise_device=data["noise_device"],
            encoder=data["encoder"],
            base=_base(data.get("base"), stages),
            prompts=data.get("prompts", ()),
            **parts,
        )
    except KeyError as error:
        raise ValueError(f"is no recipe: {error} is missing") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"is no recipe: something in it is of another type ({error})") from error


def upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """A file's `recipe` and `recipe_hash`, beside whatever else it says, in today's format.

    The hash is computed from the recipe. What holds no recipe of ours, such as one of another program, stays as it is.
    """
    recipe = content.get("recipe")
    if not isinstance(recipe, Mapping) or recipe.get("format") == FORMAT:
        return dict(content)
    try:
        read = read_recipe(recipe)
    except ValueError:
        return dict(content)
    form = {"format": FORMAT} if "format" in content else {}
    return {**content, "recipe": read.to_json(), "recipe_hash": read.hash, **form}


def begun(recipe: Recipe, path_of: Callable[[str], Path]) -> Path:
    """`path_of(hash)` of what has a recipe's hash in its name; as the version before named it if that was begun."""
    old = hash_of_format_1(recipe)
    before = None if old is None else path_of(old)
    if before is not None and (before.exists() or before.with_name(f"{before.name}.shards").exists()):
        return before
    return path_of(recipe.hash)


def hash_of_format_1(recipe: Recipe) -> str | None:
    """The hash that the version before gave this recipe, which folders and files of then have in their names.

    None if that version could not make such images.
    """
    recipe, _ = recipe.resolved()
    kinds = (recipe.sampler.kind, recipe.schedule.kind, recipe.rule.kind)
    usual = all(
        guide.net is not None and (guide.weight.kind, guide.reference.kind) == ("constant", "network")
        for guide in recipe.guides
    )
    if kinds != ("heun", "edm", "linear") or not usual or recipe.base is not None or recipe.around or recipe.prompts:
        return None
    fields = {name: getattr(recipe.sampler, name) for name in _CHURN}
    fields |= {name: getattr(recipe.schedule, name) for name in _SCHEDULE}
    data = recipe.to_json()
    return digest({
        "net": _net_of_format_1(recipe.net),
        "guides": [
            {"net": _net_of_format_1(guide.net), "weight": guide.weight.w, "steps": written["steps"]}
            for guide, written in zip(recipe.guides, data["guides"], strict=True)
            if guide.net is not None
        ],
        "sampler": {**fields, "num_steps": recipe.num_steps, "dtype": recipe.dtype},
        **{name: data[name] for name in ("labels", "seed_rule", "noise_device", "encoder")},
    })  # fmt: skip


def _parts(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "guides": tuple(
            Guide(
                net=None if guide["net"] is None else _net(guide["net"]),
                weight=Weight.parse(_whole(guide["weight"])),
                reference=Reference.parse(guide["reference"]),
                **_where(guide["steps"], guide.get("sigmas")),
            )
            for guide in data["guides"]
        ),
        "rule": Rule.parse(data["rule"]),
        "sampler": Sampler.parse(data["sampler"]),
        "schedule": Schedule.parse(_whole(data["schedule"])),
        "num_steps": data["num_steps"],
        "dtype": data["dtype"],
        "around": tuple(Around.parse(each) for each in data.get("around", [])),
    }


def _whole(text: str) -> str:
    """The same. ValueError for a choice that names a file here: recipes hold the numbers of such files."""
    if ":file=" in text:
        raise ValueError(f"'{text}' names a file, and recipes that are stored hold what was in it")
    return text


def _parts_of_format_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """One sampler over one schedule, and weights that are numbers."""
    sampler = {**data["sampler"], "S_max": float(data["sampler"]["S_max"])}  # "inf"
    return {
        "guides": tuple(
            Guide(_net(guide["net"]), constant(guide["weight"]), **_where(guide["steps"])) for guide in data["guides"]
        ),
        "sampler": Sampler.parse("heun").with_fields({name: sampler[name] for name in _CHURN}),
        "schedule": Schedule.parse("edm").with_fields({name: sampler[name] for name in _SCHEDULE}),
        "num_steps": sampler["num_steps"],
        "dtype": sampler["dtype"],
    }


def _net_of_format_1(net: NetworkRef) -> dict[str, Any]:
    return {"source": net.name, "sha256": None} if net.sha256 is None else {"sha256": net.sha256}


def _net(data: Mapping[str, Any]) -> NetworkRef:
    return NetworkRef(*_file(data))


def _file(data: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """The fields of a `FileRef`, whose source is the name that it had."""
    found = data.get("found")
    return str(data["source"]), data["sha256"], found if isinstance(found, str) else None


def _base(data: Mapping[str, Any] | None, stages: int) -> ImageSet | Recipe | None:
    """The images that a network enlarges: a recipe has a network."""
    if data is None:
        return None
    if stages < 2:
        raise ValueError(f"more than {MAX_STAGES} networks that enlarge the images of each other")
    return read_recipe(data, stages - 1) if "net" in data else ImageSet(*_file(data))


def _where(steps: Any, sigmas: Any = None) -> dict[str, Any]:
    """The steps at which a guide is on: null = all, [] = none; or, of legs, the noise levels if there are some."""
    if sigmas is not None:
        lo, hi = (float(end) for end in sigmas)
        return {"interval": SigmaInterval(lo, hi), "never": steps == []}
    if steps is None or steps == []:
        return {"never": steps == []}
    first, last = steps
    if type(first) is not int or type(last) is not int:
        raise ValueError(f"steps {steps}: expected two integers")
    return {"interval": StepInterval(first, last)}
