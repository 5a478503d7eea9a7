"""Options of `toy_example.py`. No torch here."""

from pathlib import Path
from typing import Literal

import click

from edm2_guidance.cli.lists import IntList
from edm2_guidance.cli.option_group import COUNT, Field, OptionGroup, flag, option

PUBLISHED = "https://nvlabs-fi-cdn.nvidia.com/edm2/toy-example"
SHIPPED = {"net": "toy/main", "gnet": "toy/weak", "uncond_net": "toy/unconditional"}
FIGURES = {"sheet": (10, 5.4), "fig1": (15, 3.4), "fig2": (12.5, 2.9), "fig9": (8, 8), "gi1d": (13, 3)}  # inches


FILE = click.Path(path_type=Path)


class TrainOptions(OptionGroup):
    """A network of the toy, and its training."""

    outdir: Path | None = option(
        "Write networks here, every 256 iterations; default: nowhere", metavar="DIR", type=FILE
    )
    classes: Literal["A", "B", "AB"] = option(
        "Classes to learn; AB makes an unconditional network", "--cls", metavar="A|B|AB", default="A"
    )
    layers: int = option("Hidden layers", type=COUNT, default=4)
    dim: int = option("Their width", type=COUNT, default=64)
    iterations: int = option("How long; does not change what came before", type=COUNT, default=4096)
    batch: int = option("Points per iteration", type=COUNT, default=4096)
    seed: int = option("Seed of weights and points", type=click.IntRange(min=0), default=0)
    viz: bool = option("With --outdir: a picture beside every network", type=click.BOOL, default=True)
    device: str = option("cpu, cuda, cuda:1, mps; auto = the best", metavar="NAME", default="auto")


def _net_option(help: str, default: str) -> Field:
    return option(help, metavar="PKL|URL", default=default)


class WeightOptions(OptionGroup):
    """Weights of the guides."""

    guidance: float = option("Weight of --gnet (1 = off)", type=click.FLOAT, default=3)
    cfg: float = option("Weight of --uncond-net (1 = off)", type=click.FLOAT, default=4)


class FigureOptions(OptionGroup):
    """What is drawn, of which networks, and where."""

    figure: str = option(
        "sheet, fig1, fig2 or fig9 of the autoguidance paper, gi1d", metavar="NAME",
        type=click.Choice(list(FIGURES)), default="sheet"
    )  # fmt: skip
    net: str = _net_option("Main network", f"{PUBLISHED}/clsA-layers04-dim64/iter4096.pkl")
    gnet: str = _net_option("Guiding network", f"{PUBLISHED}/clsA-layers04-dim32/iter0512.pkl")
    uncond_net: str = _net_option(
        "Guide of classifier-free guidance: fig1, fig2, fig9", f"{PUBLISHED}/clsAB-layers04-dim32/iter0512.pkl"
    )
    weights: WeightOptions
    save: Path | None = option("File to write; default, without --show: out/toy-NAME.png", metavar="PNG|PDF", type=FILE)
    show: bool = flag("Display it in a window")
    shipped: bool = flag("The project's own networks, for all that are not given")


class ScoreOptions(OptionGroup):
    """What is scored, and by how many samples."""

    example: Literal["2d", "1d"] = option(
        "2d: the methods of fig1; 1d: the intervals of gi1d", metavar="2d|1d", default="2d"
    )
    net: str = _net_option("Main network", SHIPPED["net"])
    gnet: str = _net_option("Guiding network", SHIPPED["gnet"])
    uncond_net: str = _net_option("Guide of classifier-free guidance", SHIPPED["uncond_net"])
    weights: WeightOptions
    seeds: list[int] = option("One set of samples each; errors are over these", type=IntList(), default="0-4")
    num: int = option("Samples in a set", type=click.IntRange(min=100), default=16384)
    save: Path | None = option("Write the scores of every seed", metavar="JSON", type=FILE)
