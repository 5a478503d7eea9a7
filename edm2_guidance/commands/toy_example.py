"""The 2D toy of the autoguidance paper: train its networks, draw its figures, put numbers on them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from dnnlib import figures
from dnnlib.atomic import atomic_path, check_destination
from edm2_guidance.cli.command import Group, bad_input
from edm2_guidance.cli.lists import IntList
from edm2_guidance.cli.option_group import COUNT, Field, OptionGroup, flag, option, takes_options
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.run_options import device_option
from edm2_guidance.cli.typed import given, quoted
from edm2_guidance.papers import gallery
from edm2_guidance.papers.gallery import Entry
from edm2_guidance.recipe.recipe import Recipe

if TYPE_CHECKING:
    from edm2_guidance.toy.network import ToyModel

PUBLISHED = "https://nvlabs-fi-cdn.nvidia.com/edm2/toy-example"
SHIPPED = {"net": "toy/main", "gnet": "toy/weak", "uncond_net": "toy/unconditional"}
FIGURES = {"sheet": (10, 5.4), "fig1": (15, 3.4), "fig2": (12.5, 2.9), "fig9": (8, 8), "gi1d": (13, 3)}  # inches
KINDS = ("kinds", "solvers")  # figures and tables of all that the catalogue has


FILE = click.Path(path_type=Path)


class TrainOptions(OptionGroup):
    """A network of the toy, and its training."""

    outdir: Path | None = option(
        "Write networks here, every 256 iterations; default: nowhere", metavar="DIR", type=FILE
    )
    cls: Literal["A", "B", "AB"] = option(
        "Classes to learn; AB makes an unconditional network", metavar="A|B|AB", default="A"
    )
    layers: int = option("Hidden layers", type=COUNT, default=4)
    dim: int = option("Their width", type=COUNT, default=64)
    iterations: int = option("How long; does not change what came before", type=COUNT, default=4096)
    batch: int = option("Points per iteration", type=COUNT, default=4096)
    seed: int = option("Seed of weights and points", type=click.IntRange(min=0), default=0)
    viz: bool = option("With --outdir: a picture beside every network", type=click.BOOL, default=True)
    device: str = device_option()


def _net_option(help: str, default: str) -> Field:
    return option(help, metavar="PKL|URL", default=default)


class WeightOptions(OptionGroup):
    """Weights of the guides."""

    guidance: float = option("Weight of --gnet (1 = off)", type=click.FLOAT, default=3)
    cfg: float = option("Weight of --uncond-net (1 = off)", type=click.FLOAT, default=4)


class FigureOptions(OptionGroup):
    """What is drawn, of which networks, and where."""

    figure: str = option(
        "sheet, fig1, fig2 or fig9 of the autoguidance paper, gi1d; kinds, solvers: every one of the catalogue",
        metavar="NAME", type=click.Choice([*FIGURES, *KINDS]), default="sheet"
    )  # fmt: skip
    net: str = _net_option("Main network", f"{PUBLISHED}/clsA-layers04-dim64/iter4096.pkl")
    gnet: str = _net_option("Guiding network", f"{PUBLISHED}/clsA-layers04-dim32/iter0512.pkl")
    uncond_net: str = _net_option(
        "Guide of classifier-free guidance: fig1, fig2, fig9, kinds, solvers",
        f"{PUBLISHED}/clsAB-layers04-dim32/iter0512.pkl",
    )
    weights: WeightOptions
    out: Path | None = option("File to write; default, without --show: out/toy-NAME.png", metavar="PNG|PDF", type=FILE)
    show: bool = flag("Display it in a window")
    shipped: bool = flag("The project's own networks, for all that are not given")


class ScoreOptions(OptionGroup):
    """What is scored, and by how many samples."""

    example: Literal["2d", "1d", "kinds", "solvers"] = option(
        "2d: the methods of fig1; 1d: the intervals of gi1d; kinds, solvers: every one of the catalogue", default="2d"
    )
    net: str = _net_option("Main network", SHIPPED["net"])
    gnet: str = _net_option("Guiding network", SHIPPED["gnet"])
    uncond_net: str = _net_option("Guide of classifier-free guidance", SHIPPED["uncond_net"])
    weights: WeightOptions
    seeds: list[int] = option("One set of samples each; errors are over these", type=IntList(), default="0-4")
    num_samples: int = option("Samples in a set", type=click.IntRange(min=100), default=16384)
    out: Path | None = option("Write the scores of every seed", metavar="JSON", type=FILE)


def of_name(name: str, *, lacking: bool = False) -> list[Entry]:
    """What a figure or table shows of the catalogue, none for another name; lacking: what it cannot show."""
    if name not in KINDS:
        return []
    return [
        each for each in gallery.entries() if each.solves == (name == "solvers") and bool(each.not_on_points) == lacking
    ]


def recipes_of(
    entries: list[Entry], main: "ToyModel", weak: "ToyModel", unconditional: "ToyModel"
) -> dict[str, Recipe]:
    """Their recipes by title, after the one without guidance."""
    from edm2_guidance.toy.recipes import network

    nets = {"main": network(main), "weak": network(weak), "unconditional": network(unconditional)}
    return {"unguided": gallery.unguided(nets), **{entry.title: entry.of_points(nets) for entry in entries}}


def check_no_weights(name: str) -> None:
    """ValueError for weights that a figure or table does not take."""
    for option_name in ("guidance", "cfg"):
        if name in KINDS and given(option_name):
            raise ValueError(f"{quoted(option_name)} is of the papers' figures: {name} have weights of their own")


@click.group(cls=Group)
def main() -> None:
    """Guidance in two dimensions, where the true density is known (arXiv 2406.02507, Figs. 1, 2 and 9).

    \b
    python toy_example.py plot --figure=fig1 --shipped --out=out/fig1.png
    python toy_example.py score
    python toy_example.py train --outdir=runs/toy
    """  # fmt: skip


@main.command()
@takes_options
def train(asked: TrainOptions) -> None:
    """Train a log-density network by exact score matching.

    Files are DIR/iter{NNNN}.pkl, in the form of the published networks.
    """
    with bad_input():
        from edm2_guidance.toy import network_io, plots, training
        from torch_utils.distributed import pick_device

        config = training.ToyTraining(asked.cls, asked.layers, asked.dim, asked.iterations, asked.batch, asked.seed)
        where, outdir = pick_device(asked.device), asked.outdir
        if outdir is not None:
            check_destination(outdir / "iter0000.pkl")
            if any(outdir.glob("iter*.pkl")):
                raise ValueError(f"{outdir} holds networks already: give another --outdir")
            figure = plots.new_figure((8, 4)) if asked.viz else None
    with progress_bar(config.iterations, "toy", unit="iter") as advance:
        for snapshot in training.train(config, where, advance):
            click.echo(f"iteration {snapshot.iteration:4d}  loss {snapshot.loss:.4f}")
            if outdir is not None:
                file = outdir / f"iter{snapshot.iteration:04d}.pkl"
                network_io.save_model(file, snapshot.net)
                if figure is not None:
                    plots.draw_training(figure, snapshot.net, config.classes)
                    figures.save(figure, file.with_suffix(".png"), plots.DPI)
                    figure.clear()


@main.command()
@takes_options
def plot(asked: FigureOptions) -> None:
    """Draw a figure: samples, learned densities, their ratios and sampling paths.

    sheet shows --net guided by --gnet in eight panels. gi1d is the 1D example of the interval paper (arXiv
    2404.07724, Figs. 1 and 2) and needs no network. kinds shows every rule, weight and reference that points can have,
    solvers every sampler and schedule: where samples lie, and their paths.
    """
    files = {"net": asked.net, "gnet": asked.gnet, "uncond_net": asked.uncond_net}
    if asked.shipped:
        files |= {name: file for name, file in SHIPPED.items() if not given(name)}
    save = Path("out", f"toy-{asked.figure}.png") if asked.out is None and not asked.show else asked.out
    with bad_input():
        from edm2_guidance.toy import plots
        from edm2_guidance.toy.network_io import load_model

        if save is not None:
            figures.check_target(save)
        entries = of_name(asked.figure)
        check_no_weights(asked.figure)
        size = plots.recipes_size(1 + len(entries)) if entries else FIGURES[asked.figure]
        canvas = plots.new_figure(size, asked.show)
        nets = {name: load_model(files[name]) for name in (files if entries else plots.NEEDS[asked.figure])}
    if entries:
        plots.draw_recipes(canvas, recipes_of(entries, *nets.values()))
    else:
        plots.draw(asked.figure, canvas, nets, asked.weights.cfg, asked.weights.guidance)
    if save is not None:
        figures.save(canvas, save, plots.DPI)
        click.echo(save)
    if asked.show:
        plots.show()


@main.command()
@takes_options
def score(asked: ScoreOptions) -> None:
    """Put numbers on the figures: outliers, coverage, density and distance to the truth, for every method.

    Prints a table, mean and standard deviation over seeds. outside: samples outside the contour that holds 99 % of
    the truth. far: further than 0.05 from all true samples. covered: branches (1d: modes) that get at least half of
    their samples. ln p: of the truth, mean over samples. energy distance: to as many samples of the truth.
    """
    with bad_input():
        if asked.out is not None:
            check_destination(asked.out)
        from edm2_guidance.toy import methods, one_dim, recipes, scoring
        from edm2_guidance.toy.network_io import load_model

        entries = of_name(asked.example)
        check_no_weights(asked.example)
        if asked.example == "1d":
            truth, samplers = one_dim.class_mixture(), one_dim.samplers()
        else:
            truth, nets = methods.truth(), [load_model(file) for file in (asked.net, asked.gnet, asked.uncond_net)]
            if entries:
                samplers = recipes.samplers(recipes_of(entries, *nets))
            else:
                samplers = methods.samplers(methods.Networks(*nets), asked.weights.cfg, asked.weights.guidance)
    num, seeds = asked.num_samples, asked.seeds
    with progress_bar(len(seeds) * (len(samplers) + 1), "score", unit="set") as advance:
        scores = scoring.score_methods(samplers, truth, num, seeds, advance)
    lacking = {entry.title: f"not on points: {entry.not_on_points}" for entry in of_name(asked.example, lacking=True)}
    click.echo(scoring.as_table(scores, lacking))
    if asked.out is not None:
        with atomic_path(asked.out) as temporary:
            temporary.write_text(
                json.dumps({"num": num, "seeds": seeds, "scores": scoring.as_json(scores)}, indent=1), encoding="utf-8"
            )
