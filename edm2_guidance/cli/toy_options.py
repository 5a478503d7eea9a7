"""Options of `toy_example.py`. No torch here."""

from pathlib import Path
from typing import Any

import click

from edm2_guidance.cli.lists import IntList

PUBLISHED = "https://nvlabs-fi-cdn.nvidia.com/edm2/toy-example"
SHIPPED = {"net": "toy/main", "gnet": "toy/weak", "uncond_net": "toy/unconditional"}
FIGURES = {"sheet": (10, 5.4), "fig1": (15, 3.4), "fig2": (12.5, 2.9), "fig9": (8, 8), "gi1d": (13, 3)}  # inches


def option(names: str, metavar: str, kind: Any, default: Any, text: str) -> Any:
    """One row of the tables below."""
    shown = default is not None
    return click.option(*names.split(), metavar=metavar, type=kind, default=default, show_default=shown, help=text)


INT, FROM_0, FLOAT, FILE = click.IntRange(min=1), click.IntRange(min=0), click.FLOAT, click.Path(path_type=Path)
CLASSES, FIGURE, EXAMPLE = click.Choice(["A", "B", "AB"]), click.Choice(list(FIGURES)), click.Choice(["2d", "1d"])

# fmt: off
TRAIN_OPTIONS = [
    option("--outdir",        "DIR",    FILE,    None,   "Write networks here, every 256 iterations; default: nowhere"),
    option("--cls classes",   "A|B|AB", CLASSES, "A",    "Classes to learn; AB makes an unconditional network"),
    option("--layers",        "INT",    INT,     4,      "Hidden layers"),
    option("--dim",           "INT",    INT,     64,     "Their width"),
    option("--iterations",    "INT",    INT,     4096,   "How long; does not change what came before"),
    option("--batch",         "INT",    INT,     4096,   "Points per iteration"),
    option("--seed",          "INT",    FROM_0,  0,      "Seed of weights and points"),
    option("--viz",           "BOOL",   bool,    True,   "With --outdir: a picture beside every network"),
    option("--device",        "NAME",   str,     "auto", "cpu, cuda, cuda:1, mps; auto = the best"),
]
GUIDANCE_OPTIONS = [
    option("--guidance",      "FLOAT",  FLOAT,   3,      "Weight of --gnet (1 = off)"),
    option("--cfg",           "FLOAT",  FLOAT,   4,      "Weight of --uncond-net (1 = off)"),
]
PLOT_OPTIONS = [
    option("--figure",        "NAME",    FIGURE, "sheet", "sheet, fig1, fig2 or fig9 of the autoguidance paper, gi1d"),
    option("--net",           "PKL|URL", str,    f"{PUBLISHED}/clsA-layers04-dim64/iter4096.pkl", "Main network"),
    option("--gnet",          "PKL|URL", str,    f"{PUBLISHED}/clsA-layers04-dim32/iter0512.pkl", "Guiding network"),
    option("--uncond-net",    "PKL|URL", str,    f"{PUBLISHED}/clsAB-layers04-dim32/iter0512.pkl",
           "Guide of classifier-free guidance: fig1, fig2, fig9"),
    *GUIDANCE_OPTIONS,
    option("--save",          "PNG|PDF", FILE,   None,   "File to write; default, without --show: out/toy-NAME.png"),
    click.option("--show", is_flag=True, help="Display it in a window"),
    click.option("--shipped", is_flag=True, help="The project's own networks, for all that are not given"),
]
SCORE_OPTIONS = [
    option("--example",       "2d|1d",   EXAMPLE, "2d",  "2d: the methods of fig1; 1d: the intervals of gi1d"),
    option("--net",           "PKL|URL", str,    SHIPPED["net"],        "Main network"),
    option("--gnet",          "PKL|URL", str,    SHIPPED["gnet"],       "Guiding network"),
    option("--uncond-net",    "PKL|URL", str,    SHIPPED["uncond_net"], "Guide of classifier-free guidance"),
    *GUIDANCE_OPTIONS,
    option("--seeds",         "LIST",    IntList(), "0-4",   "One set of samples each; errors are over these"),
    option("--num",           "INT",     click.IntRange(min=100), 16384, "Samples in a set"),
    option("--save",          "JSON",    FILE,   None,   "Write the scores of every seed"),
]
# fmt: on
