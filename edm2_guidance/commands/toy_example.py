"""The 2D toy of the autoguidance paper: train its networks, draw its figures, put numbers on them."""

import json
from pathlib import Path

import click

from dnnlib.atomic import atomic_path, check_destination
from edm2_guidance.cli import toy_options as opt
from edm2_guidance.cli.command import Group, bad_input
from edm2_guidance.cli.option_group import takes_options
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.typed import given


@click.group(cls=Group)
def main() -> None:
    """Guidance in two dimensions, where the true density is known (arXiv 2406.02507, Figs. 1, 2 and 9).

    \b
    python toy_example.py plot --figure=fig1 --shipped --save=out/fig1.png
    python toy_example.py score
    python toy_example.py train --outdir=runs/toy
    """  # fmt: skip


@main.command()
@takes_options
def train(asked: opt.TrainOptions) -> None:
    """Train a log-density network by exact score matching.

    Files are DIR/iter{NNNN}.pkl, in the form of the published networks.
    """
    with bad_input():
        from edm2_guidance.toy import network_io, plots, training
        from torch_utils.distributed import pick_device

        config = training.ToyTraining(asked.classes, asked.layers, asked.dim, asked.iterations, asked.batch, asked.seed)
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
                    plots.save(figure, file.with_suffix(".png"))
                    figure.clear()


@main.command()
@takes_options
def plot(asked: opt.FigureOptions) -> None:
    """Draw a figure: samples, learned densities, their ratios and sampling paths.

    sheet shows --net guided by --gnet in eight panels. gi1d is the 1D example of the interval paper (arXiv
    2404.07724, Figs. 1 and 2) and needs no network.
    """
    files = {"net": asked.net, "gnet": asked.gnet, "uncond_net": asked.uncond_net}
    if asked.shipped:
        files |= {name: file for name, file in opt.SHIPPED.items() if not given(name)}
    save = Path("out", f"toy-{asked.figure}.png") if asked.save is None and not asked.show else asked.save
    with bad_input():
        from edm2_guidance.toy import plots
        from edm2_guidance.toy.network_io import load_model

        if save is not None:
            plots.check_target(save)
        canvas = plots.new_figure(opt.FIGURES[asked.figure], asked.show)
        nets = {name: load_model(files[name]) for name in plots.NEEDS[asked.figure]}
    plots.draw(asked.figure, canvas, nets, asked.weights.cfg, asked.weights.guidance)
    if save is not None:
        plots.save(canvas, save)
        click.echo(save)
    if asked.show:
        plots.show()


@main.command()
@takes_options
def score(asked: opt.ScoreOptions) -> None:
    """Put numbers on the figures: outliers, coverage, density and distance to the truth, for every method.

    Prints a table, mean and standard deviation over seeds. outside: samples outside the contour that holds 99 % of
    the truth. far: further than 0.05 from all true samples. covered: branches (1d: modes) that get at least half of
    their samples. ln p: of the truth, mean over samples. energy distance: to as many samples of the truth.
    """
    with bad_input():
        if asked.save is not None:
            check_destination(asked.save)
        from edm2_guidance.toy import methods, one_dim, scoring
        from edm2_guidance.toy.network_io import load_model

        if asked.example == "1d":
            truth, samplers = one_dim.class_mixture(), one_dim.samplers()
        else:
            nets = methods.Networks(*map(load_model, (asked.net, asked.gnet, asked.uncond_net)))
            truth, samplers = methods.truth(), methods.samplers(nets, asked.weights.cfg, asked.weights.guidance)
    num, seeds = asked.num, asked.seeds
    with progress_bar(len(seeds) * (len(samplers) + 1), "score", unit="set") as advance:
        scores = scoring.score_methods(samplers, truth, num, seeds, advance)
    click.echo(scoring.as_table(scores))
    if asked.save is not None:
        with atomic_path(asked.save) as temporary:
            temporary.write_text(json.dumps({"num": num, "seeds": seeds, "scores": scoring.as_json(scores)}, indent=1))
