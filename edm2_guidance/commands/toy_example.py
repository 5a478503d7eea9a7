"""The 2D toy of the autoguidance paper: train its networks, draw its figures, put numbers on them."""

import json
from pathlib import Path
from typing import Any

import click

from dnnlib.atomic import atomic_path, check_destination
from edm2_guidance.cli.command import Group, bad_input, stack
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.toy_options import FIGURES, PLOT_OPTIONS, SCORE_OPTIONS, SHIPPED, TRAIN_OPTIONS


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
        from edm2_guidance.toy import network_io, plots, training
        from torch_utils.distributed import pick_device

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
    context: click.Context, /, figure: str, guidance: float, cfg: float, save: Path | None, show: bool, **given: Any
) -> None:
    """Draw a figure: samples, learned densities, their ratios and sampling paths.

    sheet shows --net guided by --gnet in eight panels. gi1d is the 1D example of the interval paper (arXiv
    2404.07724, Figs. 1 and 2) and needs no network.
    """
    if given.pop("shipped"):
        default = click.core.ParameterSource.DEFAULT
        given |= {name: file for name, file in SHIPPED.items() if context.get_parameter_source(name) is default}
    target = Path("out", f"toy-{figure}.png") if save is None and not show else save
    with bad_input():
        from edm2_guidance.toy import plots
        from edm2_guidance.toy.network_io import load_model

        if target is not None:
            plots.check_target(target)
        canvas = plots.new_figure(FIGURES[figure], show)
        nets = {name: load_model(given[name]) for name in plots.NEEDS[figure]}
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
    the truth. far: further than 0.05 from all true samples. covered: branches (1d: modes) that get at least half of
    their samples. ln p: of the truth, mean over samples. energy distance: to as many samples of the truth.
    """
    with bad_input():
        if save is not None:
            check_destination(save)
        from edm2_guidance.toy import methods, one_dim, scoring
        from edm2_guidance.toy.network_io import load_model

        if example == "1d":
            truth, samplers = one_dim.class_mixture(), one_dim.samplers()
        else:
            nets = methods.Networks(*(load_model(given[name]) for name in SHIPPED))
            truth, samplers = methods.truth(), methods.samplers(nets, cfg, guidance)
    with progress_bar(len(seeds) * (len(samplers) + 1), "score", unit="set") as advance:
        scores = scoring.score_methods(samplers, truth, num, seeds, advance)
    click.echo(scoring.as_table(scores))
    if save is not None:
        with atomic_path(save) as temporary:
            temporary.write_text(json.dumps({"num": num, "seeds": seeds, "scores": scoring.as_json(scores)}, indent=1))
