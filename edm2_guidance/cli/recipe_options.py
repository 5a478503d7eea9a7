"""Options that describe a recipe; `recipe_args.recipe_from` makes it of them. No torch here.

Both reference vocabularies parse: --net or --cond_pkl, --gnet or --uncond_pkl, --guidance or --guidance_scale.
"""

import math
from collections.abc import Callable
from typing import Any

import click

from edm2_guidance.cli.class_names import Class, class_names_option
from edm2_guidance.cli.command import stack
from edm2_guidance.cli.intervals import Sigmas, Steps


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
    ]
    return stack([preset, *options] if presets else options)


_positive = click.FloatRange(min=0, min_open=True)


sampler_options = stack(
    [
        click.option("--steps", metavar="INT", type=click.IntRange(min=1), default=32, show_default=True, help="Steps"),
        click.option(
            "--sigma_min", metavar="FLOAT", type=_positive, default=0.002, show_default=True, help="Lowest noise level"
        ),
        click.option(
            "--sigma_max", metavar="FLOAT", type=_positive, default=80, show_default=True, help="Highest noise level"
        ),
        click.option("--rho", metavar="FLOAT", type=_positive, default=7, show_default=True, help="Schedule exponent"),
        click.option(
            "--S_churn", "S_churn", metavar="FLOAT", type=click.FloatRange(min=0), default=0, show_default=True,
            help="Stochasticity, over all steps",
        ),
        click.option(
            "--S_min", "S_min", metavar="FLOAT", type=click.FloatRange(min=0), default=0, show_default=True,
            help="Churn at or above this noise level",
        ),
        click.option(
            "--S_max", "S_max", metavar="FLOAT", type=click.FloatRange(min=0), default=math.inf, show_default="inf",
            help="Churn at or below this noise level",
        ),
        click.option(
            "--S_noise", "S_noise", metavar="FLOAT", type=float, default=1, show_default=True,
            help="Scale of the churned noise",
        ),
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
