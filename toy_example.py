#!/usr/bin/env python3
"""The 2D toy of the autoguidance paper: train its networks, draw its figures, put numbers on them."""

import functools
from pathlib import Path
from typing import Any

import click

from cli.command import Group, bad_input
from cli.progress import progress_bar


@click.group(cls=Group)
def main() -> None:
    """Guidance in two dimensions, where the true density is known (arXiv 2406.02507, Figs. 1, 2 and 9).

    \b
    python toy_example.py plot --figure=fig1 --save=fig1.png
    python toy_example.py score
    python toy_example.py train --outdir=runs/toy
    """  # fmt: skip


def option(names: str, metavar: str, kind: Any, default: Any, text: str) -> Any:
    """One row of the tables below."""
    shown = default is not None
    return click.option(*names.split(), metavar=metavar, type=kind, default=default, show_default=shown, help=text)


INT, FROM_0, CLASSES = click.IntRange(min=1), click.IntRange(min=0), click.Choice(["A", "B", "AB"])
FILE = click.Path(path_type=Path)

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
# fmt: on


def with_options(rows: list[Any]) -> Any:
    """Put a table on a command."""
    return lambda function: functools.reduce(lambda wrapped, row: row(wrapped), reversed(rows), function)


@main.command()
@with_options(TRAIN_OPTIONS)
def train(outdir: Path | None, viz: bool, device: str, **settings: Any) -> None:
    """Train a log-density network by exact score matching.

    Files are DIR/iter{NNNN}.pkl, in the form of the published networks. About ten minutes on one core as it stands.
    """
    with bad_input():
        from torch_utils.distributed import pick_device
        from toy import network_io, training

        names = {"layers": "num_layers", "dim": "hidden_dim", "batch": "batch_size"}
        config = training.ToyTraining(**{names.get(name, name): value for name, value in settings.items()})
        where = pick_device(device)
        if outdir is not None and any(outdir.glob("iter*.pkl")):
            raise ValueError(f"{outdir} holds networks already: give another --outdir")
    with progress_bar(config.iterations, "toy", unit="iter") as advance:
        for snapshot in training.train(config, where, advance):
            click.echo(f"iteration {snapshot.iteration:4d}  loss {snapshot.loss:.4f}")
            if outdir is not None:
                network_io.save_model(outdir / f"iter{snapshot.iteration:04d}.pkl", snapshot.net)


if __name__ == "__main__":
    main()
