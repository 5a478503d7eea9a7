"""Options that describe a recipe; `recipe_args.recipe_from` makes it of them. No torch here.

Both reference vocabularies parse: --net or --cond_pkl, --gnet or --uncond_pkl, --guidance or --guidance_scale.
"""

from collections.abc import Callable
from typing import Any

import click

from edm2_guidance.cli.class_names import Class, class_names_option
from edm2_guidance.cli.command import stack
from edm2_guidance.cli.intervals import Sigmas, Steps
from edm2_guidance.cli.spec_options import field_names, field_options, kind_option


def network_options(*, presets: bool = True) -> Callable[[Any], Any]:
    """--preset, networks, guidance and its intervals; the arguments that `recipe_from` takes."""
    preset = click.option(
        "--preset", metavar="NAME", multiple=True, help="Networks, guidance and steps of a paper's row"
    )
    options = [
        click.option(
            "--net", "--cond_pkl", metavar="PATH|URL", help="Main network, or FILE.py:FUNCTION that makes one"
        ),
        click.option(
            "--gnet", "--uncond_pkl", metavar="PATH|URL", multiple=True, help="Guiding network; one per guide"
        ),
        click.option(
            "--guidance",
            "--guidance_scale",
            metavar="FLOAT",
            type=float,
            multiple=True,
            help="Guidance weight w, needed with a guide; 1 = off, one per guide",
        ),
        click.option(
            "--guidance_interval",
            metavar="FIRST,LAST",
            type=Steps(),
            multiple=True,
            help="Guide at these sampling steps only, both included, 0 = noisiest; None = all",
        ),
        click.option(
            "--guidance-sigma",
            metavar="LO,HI",
            type=Sigmas(),
            multiple=True,
            help="Guide at noise levels in (LO, HI] only, decided once per step",
        ),
        kind_option("reference", None, "What D is moved away from, one per guide  [default: network]", multiple=True),
        kind_option("weight", None, "How w goes over the steps, one per guide  [default: constant]", multiple=True),
        kind_option("rule", "linear", "How main network and references make D"),
    ]
    return stack([preset, *options] if presets else options)


#: The options that stand for fields of the default kinds, by axis.
FIELD_OPTIONS = {axis: field_names(axis, kind) for axis, kind in (("schedule", "edm"), ("sampler", "heun"))}

sampler_options = stack(
    [
        click.option("--steps", metavar="INT", type=click.IntRange(min=1), default=32, show_default=True, help="Steps"),
        kind_option("schedule", "edm", "Noise levels of the steps"),
        *field_options("schedule", "edm"),
        kind_option("sampler", "heun", "How a step is made"),
        *field_options("sampler", "heun"),
        click.option(
            "--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True,
            help="Precision of the sampler's state",
        ),
    ]
)  # fmt: skip


label_options = stack(
    [
        click.option(
            "--class", "class_idx", metavar="INT|NAME", type=Class(), help="One class for all images; 0 counts"
        ),
        class_names_option,
        click.option(
            "--labels",
            type=click.Choice(["random", "balanced"]),
            help="Classes: drawn per seed, as in the papers (default), or seed mod classes",
        ),
    ]
)
