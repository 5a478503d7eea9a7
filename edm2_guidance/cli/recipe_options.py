"""Options that describe a recipe; `recipe_args.recipe_from` makes it of them. No torch here.

Both reference vocabularies parse: --net or --cond_pkl, --gnet or --uncond_pkl, --guidance or --guidance_scale.
"""

from dataclasses import dataclass
from typing import Literal

import click

from edm2_guidance.cli.class_names import Class
from edm2_guidance.cli.intervals import Sigmas, Steps
from edm2_guidance.cli.option_group import COUNT, OptionGroup, option, several_options
from edm2_guidance.cli.spec_options import field_options, kind_option
from edm2_guidance.recipe.class_names import ClassName
from edm2_guidance.recipe.parts import Reference, Rule, Sampler, Schedule, Weight
from edm2_guidance.recipe.recipe import SigmaInterval, StepInterval


class NetworkOptions(OptionGroup):
    """--preset, networks, guidance and its intervals."""

    preset: tuple[str, ...] = option("Networks, guidance and steps of a paper's row", metavar="NAME", multiple=True)
    net: str | None = option(
        "Main network, or FILE.py:FUNCTION that makes one", "--net", "--cond_pkl", metavar="PATH|URL"
    )
    gnet: tuple[str, ...] = option(
        "Guiding network; one per guide", "--gnet", "--uncond_pkl", metavar="PATH|URL", multiple=True
    )
    guidance: tuple[float, ...] = option(
        "Guidance weight w, needed with a guide; 1 = off, one per guide",
        "--guidance",
        "--guidance_scale",
        type=click.FLOAT,
        multiple=True,
    )
    guidance_interval: tuple[StepInterval | str, ...] = option(
        "Guide at these sampling steps only, both included, 0 = noisiest; None = all",
        "--guidance_interval",
        type=Steps(),
        multiple=True,
    )
    guidance_sigma: tuple[SigmaInterval | str, ...] = option(
        "Guide at noise levels in (LO, HI] only, decided once per step", type=Sigmas(), multiple=True
    )
    reference: tuple[Reference, ...] = kind_option(
        "reference", None, "What D is moved away from, one per guide  [default: network]", multiple=True
    )
    weight: tuple[Weight, ...] = kind_option(
        "weight", None, "How w goes over the steps, one per guide  [default: constant]", multiple=True
    )
    rule: Rule = kind_option("rule", "linear", "How main network and references make D")


class SamplingOptions(OptionGroup):
    """Steps, schedule and sampler, whose default kinds' fields are options as well; classes of the images."""

    steps: int = option("Steps", type=COUNT, default=32)
    schedule: Schedule = kind_option("schedule", "edm", "Noise levels of the steps")
    schedule_fields: dict[str, float] = several_options(field_options("schedule", "edm"))
    sampler: Sampler = kind_option("sampler", "heun", "How a step is made")
    sampler_fields: dict[str, float] = several_options(field_options("sampler", "heun"))
    dtype: Literal["float32", "float64"] = option("Precision of the sampler's state", default="float32")
    class_idx: int | ClassName | None = option("One class for all images; 0 counts", "--class", type=Class())
    class_names: str | None = option(
        "Names of classes 0, 1, ...: one per line, or a dataset.json with class_names  [default: the network's]",
        metavar="FILE",
    )
    labels: Literal["random", "balanced"] | None = option(
        "Classes: drawn per seed, as in the papers (default), or seed mod classes"
    )


@dataclass(frozen=True)
class Method:
    """All options that describe a recipe. noise_device: of the options of a run."""

    networks: NetworkOptions
    sampling: SamplingOptions
    noise_device: str | None
