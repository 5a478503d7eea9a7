#!/usr/bin/env python3
"""The 2D toy of the autoguidance paper: train its networks, draw its figures, put numbers on them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.command import Group, bad_input
from cli.options import Finite, IntList, stack
from cli.progress import progress_bar
from dnnlib.util import atomic_path, check_destination

if TYPE_CHECKING:
    from toy.methods import Networks

PUBLISHED = "https://nvlabs-fi-cdn.nvidia.com/edm2/toy-example"
SHIPPED = Path(__file__).resolve().parent / "pretrained" / "toy"
FIGURES = {"sheet": (12, 6.5), "fig1": (15, 3.4), "fig2": (15, 3.4), "fig9": (11, 11), "gi1d": (16, 3.6)}  # inches


def option(names: str, metavar: str, kind: Any, default: Any, text: str) -> Any:
    """One row of the tables below."""
    shown = default is not None
    return click.option(*names.split(), metavar=metavar, type=kind, default=default, show_default=shown, help=text)


INT, FROM_0, FLOAT, FILE = click.IntRange(min=1), click.IntRange(min=0), Finite(), click.Path(path_type=Path)
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
    option("--net",           "PKL|URL", str,    str(SHIPPED / "main.pkl"),          "Main network"),
    option("--gnet",          "PKL|URL", str,    str(SHIPPED / "weak.pkl"),          "Guiding network"),
    option("--uncond-net",    "PKL|URL", str,    str(SHIPPED / "unconditional.pkl"), "Guide of CFG"),
    *GUIDANCE_OPTIONS,
    option("--seeds",         "LIST",    IntList(), "0-4",   "One set of samples each; errors are over these"),
    option("--num",           "INT",     click.IntRange(min=100), 16384, "Samples in a set"),
    option("--save",          "JSON",    FILE,   None,   "Write the scores of every seed"),
]
# fmt: on


@click.group(cls=Group)
def main() -> None:
    """Guidance in two dimensions, where the true density is known (arXiv 2406.02507, Figs. 1, 2 and 9).

    \b
    python toy_example.py plot --figure=fig1 --shipped --save=out/fig1.png
    python toy_example.py score
    python toy_example.py train --outdir=runs/toy
    """  # fmt: skip


@main.command()
@stack(TRAIN_OPTIONS)
def train(outdir: Path | None, viz: bool, device: str, **settings: Any) -> None:
    """Train a log-density network by exact score matching.

    Files are DIR/iter{NNNN}.pkl, in the form of the published networks.
    """
    with bad_input():
        from torch_utils.distributed import pick_device
        from toy import network_io, plots, training

        names = {"layers": "num_layers", "dim": "hidden_dim", "batch": "batch_size"}
        config = training.ToyTraining(**{names.get(name, name): value for name, value in settings.items()})
        where = pick_device(device)
        if outdir is not None:
            check_destination(outdir / "iter0000.pkl")
            if any(outdir.glob("iter*.pkl")):
                raise ValueError(f"{outdir} holds networks already: give another --outdir")
            figure = plots.new_figure((8, 4)) if viz else None
    with progress_bar(config.iterations, "toy", unit="iter") as advance:
        for snapshot in training.train(config, where, advance):
            click.echo(f"iteration {snapshot.iteration:4d}  loss {snapshot.loss:.4f}")
            if outdir is not None:
                file = outdir / f"iter{snapshot.iteration:04d}.pkl"
                network_io.save_model(file, snapshot.net)
                if figure is not None:
                    plots.draw_training(figure, snapshot.net, config.classes)
                    plots.save(figure, file.with_suffix(".png"))
                    figure.clear()


@main.command()
@stack(PLOT_OPTIONS)
@click.pass_context
def plot(
    context: click.Context, figure: str, guidance: float, cfg: float, save: Path | None, show: bool, **given: Any
) -> None:
    """Draw a figure: samples, learned densities, their ratios and sampling paths.

    sheet shows --net guided by --gnet in eight panels. gi1d is the 1D example of the interval paper (arXiv
    2404.07724, Figs. 1 and 2) and needs no network.
    """
    if given.pop("shipped"):
        for name, file in {"net": "main.pkl", "gnet": "weak.pkl", "uncond_net": "unconditional.pkl"}.items():
            if context.get_parameter_source(name) is click.core.ParameterSource.DEFAULT:
                given[name] = str(SHIPPED / file)
    target = Path("out", f"toy-{figure}.png") if save is None and not show else save
    with bad_input():
        from toy import plots

        if target is not None:
            plots.check_target(target)
        canvas = plots.new_figure(FIGURES[figure], show)
        nets = _networks(**given) if figure != "gi1d" else None
    plots.draw(figure, canvas, nets, cfg, guidance)
    if target is not None:
        plots.save(canvas, target)
        click.echo(target)
    if show:
        plots.show()


@main.command()
@stack(SCORE_OPTIONS)
def score(
    example: str, guidance: float, cfg: float, seeds: list[int], num: int, save: Path | None, **given: str
) -> None:
    """Put numbers on the figures: outliers, coverage, density and distance to the truth, for every method.

    Prints a table, mean and standard deviation over seeds. outside: samples outside the contour that holds 99 % of
    the truth. covered: branches (1d: modes) that get at least half of their samples. ln p: of the truth, mean over
    samples. energy distance: to as many samples of the truth.
    """
    with bad_input():
        if save is not None:
            check_destination(save)
        from toy import methods, one_dim, scoring

        if example == "1d":
            truth, samplers = one_dim.class_mixture(), one_dim.samplers()
        else:
            truth, samplers = methods.truth(), methods.samplers(_networks(**given), cfg, guidance)
    with progress_bar(len(seeds) * (len(samplers) + 1), "score", unit="set") as advance:
        scores = scoring.score_methods(samplers, truth, num, seeds, advance)
    click.echo(scoring.as_table(scores))
    if save is not None:
        with atomic_path(save) as temporary:
            temporary.write_text(json.dumps({"num": num, "seeds": seeds, "scores": scoring.as_json(scores)}, indent=1))


def _networks(net: str, gnet: str, uncond_net: str) -> "Networks":
    from toy.methods import Networks
    from toy.network_io import load_model

    return Networks(load_model(net), load_model(gnet), load_model(uncond_net))


if __name__ == "__main__":
    main()
