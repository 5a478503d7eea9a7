"""Options that describe a recipe; `recipe_args.recipe_from` makes it of them. No torch here."""

import dataclasses
import math
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click

from dnnlib.user_code import UserCode
from edm2_guidance.cli.class_names import Class
from edm2_guidance.cli.intervals import Sigmas, Steps
from edm2_guidance.cli.option_group import COUNT, Declared, Field, OptionGroup, option, several_options
from edm2_guidance.cli.param_type import Name, ParamType, show_if_list
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.around import Around
from edm2_guidance.recipe.class_names import ClassName
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from edm2_guidance.recipe.parts import Reference, Rule, Sampler, Schedule, Weight
from edm2_guidance.recipe.spec import About, Spec, listing


class Kind(ParamType):
    """A spec of an axis, in its text form, or a function as one; `list` prints what there is, and ends."""

    name = "kind[:field=value]..."

    def __init__(self, axis: str) -> None:
        self.axis = axis

    def parse(self, text: str) -> Any:
        show_if_list(text, partial(listing, self.axis))
        if self.axis == "weight" and re.search(r":w=\+?1(\.0*)?(:|$)", text):
            raise ValueError("w=1 is off: give --guidance=1, or leave the guide out")
        own = re.fullmatch(r"(.+\.py):(\w+)((?::[^:]+)*)", text)
        if own is None and re.search(r"\.py(:|$)", text):
            raise ValueError(f"{text}: name a function of the file, FILE.py:FUNCTION or FILE.py:FUNCTION:FIELD=VALUE")
        if own is not None:
            return self._function(Path(own[1]).expanduser().absolute(), own[2], own[3].split(":")[1:])
        try:
            spec: Spec = catalog.find(self.axis, text.split(":")[0]).parse(text)
        except ValueError as error:
            shows = f"--{self.axis}=list shows which"
            raise ValueError(f"{error}; give KIND or KIND:FIELD=VALUE:FIELD=VALUE, {shows}") from None
        return spec

    def _function(self, path: Path, name: str, fields: list[str]) -> Spec:
        """The kind that a function of FILE.py is, which runs."""
        if self.axis not in catalog.OF_FUNCTIONS:
            raise ValueError(f"a function can be a {', a '.join(catalog.OF_FUNCTIONS)}, no {self.axis}")
        if not path.is_file():
            raise ValueError(f"no file at '{path}', whose function {name} is to be the {self.axis}")
        function, _ = UserCode(f"{path.name}:{name}", path).function(name)
        spec: Spec = (
            catalog.find(self.axis, catalog.OF_FUNCTIONS[self.axis]).of(function, later=True).with_texts(fields)
        )
        return spec


class Kinds(Kind):
    """Specs of an axis, comma-separated; `none` for none."""

    name = "kind[:field=value]...,..."

    def parse(self, text: str) -> Any:
        if text.lower() == "none":
            return ()
        return tuple(super(Kinds, self).parse(each.strip()) for each in text.split(","))


def kind_option(axis: str, default: str | None, help: str, *, multiple: bool = False) -> Field:
    """The option that chooses a kind of an axis, with its fields: --sampler=heun:S_churn=40. A field of a group."""
    about = f"{help}; list = which there are"
    return option(about, type=Kind(axis), default=default, multiple=multiple)


def field_names(axis: str, kind: str) -> list[str]:
    """The fields of a kind."""
    return [each.name for each in dataclasses.fields(catalog.find(axis, kind))]


def field_options(axis: str, kind: str) -> dict[str, Declared]:
    """An option for every field of a kind, all of them numbers: --rho=7."""
    usual = catalog.find(axis, kind)()
    return {
        each.name: _number_option(f"--{each.name}", each.metadata["about"], getattr(usual, each.name))
        for each in dataclasses.fields(usual)
    }


def _number_option(name: str, about: About, default: float) -> Declared:
    low = max(about.low, about.above)
    numbers = click.FLOAT if low == -math.inf else click.FloatRange(min=low, min_open=about.above == low)
    shown = int(default) if default.is_integer() else default
    return name, {"metavar": "FLOAT", "type": numbers, "default": shown, "help": about.help}


def listed_presets() -> str:
    """All presets, a line each."""
    return "\n".join(f"{preset.name:32}{preset.describe()}" for preset in all_presets().values())


class MainNetworks(OptionGroup, heading="Networks"):
    """--preset, and networks."""

    preset: tuple[str, ...] = option(
        "Networks, guidance and steps of a paper's row; list = which there are",
        type=Name(listed_presets),
        metavar="NAME",
        multiple=True,
        first=True,
    )
    recipe: str | None = option(
        "Make it again, with what else is given changed: a ZIP, recipe.json, a grid, or a score, LEDGER.jsonl:LINE",
        metavar="FILE",
        first=True,
    )
    net: str | None = option(
        "Main network: a file, a pipeline of diffusers (a folder, hf://ORG/REPO), or FILE.py:FUNCTION that makes one",
        metavar="PATH|URL",
        first=True,
    )
    gnet: tuple[str, ...] = option("Guiding network; one per guide", metavar="PATH|URL", multiple=True, first=True)
    upsample: str | None = option(
        "Images that the main network enlarges, by seed: a ZIP, a folder or an .npz, or a preset to sample them",
        metavar="IMAGES|PRESET",
    )


class NetworkOptions(MainNetworks, heading="Guidance"):
    """Networks; guidance by networks and by a classifier, and its intervals."""

    guidance: tuple[float, ...] = option(
        "Guidance weight w, needed with a guide; 1 = off, one per guide",
        type=click.FLOAT,
        multiple=True,
        first=True,
    )
    weight: tuple[Weight, ...] = kind_option(
        "weight",
        None,
        "How w goes over the steps, or FILE.py:FUNCTION; one per guide, a classifier's last  [default: constant]",
        multiple=True,
    )
    guidance_interval: tuple[StepInterval | str, ...] = option(
        "Guide at these sampling steps only, both included, 0 = noisiest; None = all",
        type=Steps(),
        multiple=True,
        first=True,
    )
    guidance_sigma: tuple[SigmaInterval | str, ...] = option(
        "Guide at noise levels in (LO, HI] only, decided once per step", type=Sigmas(), multiple=True
    )
    classifier: str | None = option(
        "Classifier of noisy images whose gradient guides too, or FILE.py:FUNCTION that makes one", metavar="PATH|URL"
    )
    classifier_scale: float | None = option(
        "How far, needed with it; 0 = off. Of the step's variance under ddpm, else of D: the scales are not the same",
        type=click.FLOAT,
    )
    reference: tuple[Reference, ...] = kind_option(
        "reference", None, "What D is moved away from, one per guide  [default: network]", multiple=True
    )
    rule: Rule = kind_option("rule", "linear", "How main network and references make D, or FILE.py:FUNCTION")
    around: tuple[Around, ...] = option(
        "What else is done to labels, D or the order of steps, comma-separated; list = which there are",
        type=Kinds("around"),
        default="none",
    )


class SamplingOptions(OptionGroup, heading="Sampling"):
    """Steps, schedule and sampler, whose default kinds' fields are options as well; classes of the images."""

    steps: int = option("Steps", type=COUNT, default=32, first=True)
    schedule: Schedule = kind_option("schedule", "edm", "Noise levels of the steps")
    schedule_fields: dict[str, float] = several_options(field_options("schedule", "edm"))
    sampler: Sampler = kind_option("sampler", "heun", "How a step is made")
    sampler_fields: dict[str, float] = several_options(field_options("sampler", "heun"))
    dtype: Literal["float32", "float64"] = option("Precision of the sampler's state", default="float32")
    class_idx: int | ClassName | None = option(
        "One class for all images; 0 counts", "--class", type=Class(), first=True
    )
    class_names: str | None = option(
        "Names of classes 0, 1, ...: one per line, or a dataset.json with class_names  [default: the network's]",
        metavar="FILE",
    )
    labels: Literal["random", "balanced"] | None = option(
        "Classes: drawn per seed, as in the papers (default), or seed mod classes"
    )
    prompt: tuple[str, ...] = option(
        "What a network that takes text is to draw; several are its classes, seed mod prompts", metavar="TEXT",
        multiple=True,
    )  # fmt: skip
    prompts: str | None = option("The same out of a text file, a line each", metavar="FILE")


@dataclass(frozen=True)
class Method:
    """All options that describe a recipe. noise_device: of the options of a run."""

    networks: NetworkOptions
    sampling: SamplingOptions
    noise_device: str | None
