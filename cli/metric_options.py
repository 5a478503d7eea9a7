"""Options of calculate_metrics.py. No torch here."""

from collections.abc import Callable
from typing import Any

import click

from cli.options import Names

METRICS = ("fid", "fd_dinov2", "fd_mnist")
STANDARD_NUM = 50000  # images that published scores are made of
LEDGER = "results/ledger.jsonl"


def _stack(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


ref_option = click.option("--ref", metavar="PKL|NPZ|URL", required=True, help="Reference statistics")

metrics_option = click.option(
    "--metrics",
    metavar="LIST",
    type=Names(METRICS),
    default="fid,fd_dinov2",
    show_default=True,
    help=", ".join(METRICS),
)

num_option = click.option(
    "--num", metavar="INT", type=click.IntRange(min=2), help=f"How many images  [default: {STANDARD_NUM}]"
)


def batch_option(default: int) -> Callable[[Any], Any]:
    return click.option(
        "--batch",
        metavar="INT",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Images at a time",
    )


stored_options = _stack(
    click.option("--seed", metavar="INT", type=int, default=0, show_default=True, help="Which, if there are more"),
    batch_option(64),
    click.option(
        "--workers", metavar="INT", type=click.IntRange(min=0), default=2, expose_value=False,
        help="Ignored: images are decoded by one thread per core",
    ),
)  # fmt: skip

detector_options = _stack(
    click.option(
        "--weights", metavar="METRIC=PATH", multiple=True,
        help="A detector's weights; so does EDM2_FID_WEIGHTS=PATH and the like in the environment  [default: fetched]",
    ),
    click.option(
        "--dinov2-resize", type=click.Choice(["torch", "pil"]), default="torch", show_default=True,
        help="torch: as EDM2 and the guidance papers; pil: as the paper that introduced FD-DINOv2",
    ),
)  # fmt: skip

ledger_options = _stack(
    click.option("--ledger", metavar="JSONL", default=LEDGER, show_default=True, help="Where results are appended"),
    click.option("--note", metavar="TEXT", help="Your words for these rows of the ledger"),
)

device_options = _stack(
    click.option("--device", metavar="NAME", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps"),
    click.option("--offline", is_flag=True, help="Never download; say what is missing"),
)

#: The interval-guidance repository's form, without a command.
plain_options = _stack(
    click.option("--gen_zip", metavar="ZIP|DIR|NPZ", help="Images to score, all of them"),
    click.option("--ref_path", metavar="PKL|NPZ|URL", help="Reference statistics"),
    click.option("--results_dir", metavar="DIR", default="./results", show_default=True, help="Folder of the ledger"),
    click.option(
        "--metric",
        metavar="NAME",
        type=click.Choice(METRICS),
        default="fid",
        show_default=True,
        help=", ".join(METRICS),
    ),
    click.option(
        "--batch_size",
        metavar="INT",
        type=click.IntRange(min=1),
        default=128,
        show_default=True,
        help="Images at a time",
    ),
)

#: What that form cannot say: the defaults of `calc`.
PLAIN_DEFAULTS = {"weights": (), "dinov2_resize": "torch", "device": "auto", "offline": False, "note": None}


def weights_by_metric(entries: tuple[str, ...]) -> dict[str, str]:
    """Values of --weights as metric -> path. A usage error for another form or an unknown metric."""
    weights = {}
    for entry in entries:
        metric, _, path = entry.partition("=")
        metric = metric.strip().replace("-", "_")
        if metric not in METRICS or path == "":
            raise click.UsageError(f"--weights={entry}: write METRIC=PATH with one of {', '.join(METRICS)}")
        weights[metric] = path
    return weights
