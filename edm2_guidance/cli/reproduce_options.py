"""The options of reproduce.py's run and search. No torch here."""

import functools
from collections.abc import Callable
from typing import Any

import click

from edm2_guidance.cli.command import keeps, stack
from edm2_guidance.cli.metric_options import REFERENCE, OneMetric, again_option, reference_from
from edm2_guidance.cli.run_options import batch_option, run_options
from edm2_guidance.cli.seeds import seed_option
from edm2_guidance.papers.presets import Preset
from edm2_guidance.papers.tables import NETWORKS

_count = click.IntRange(min=1)
_images = click.IntRange(min=2)

networks_option = click.option(
    "--networks", metavar="DIR", default=NETWORKS, show_default=True, help="Where reconstructed networks are"
)

work_options = stack(
    [
        batch_option(64),
        click.option(
            "--shard-size", metavar="INT", type=_count, default=128, show_default=True, help="Images a kill can cost"
        ),
        click.option("--results", metavar="DIR", default="results", show_default=True, help="Where unfinished work is"),
        click.option("--keep-images", is_flag=True, help="Keep them: a ZIP per block in DIR/images, scored if there"),
        again_option,
        networks_option,
        run_options,
    ]
)

block_options = stack(
    [
        click.option("--num", "--num_images", metavar="INT", type=_images, help="Per block  [default: as the paper]"),
        click.option("--blocks", metavar="INT", type=_count, help="Seed blocks  [default: 3 for a minimum of three]"),
        seed_option,
        click.option("--labels", type=click.Choice(["random", "balanced"]), help="Another label rule than the paper's"),
    ]
)  # fmt: skip

target_options = stack(
    [
        click.option(
            "--metric", "--metrics", "metric", type=OneMetric(), help="[default: the preset's]"
        ),
        click.option("--ref", metavar="PATH|URL|NAME", help=f"{REFERENCE}  [default: the preset's]"),
        click.option("--name", metavar="NAME", help="In ledger and plots  [default: the preset's]"),
        click.option(
            "--num", "--num_images", metavar="INT", type=_images, default=5000, show_default=True, help="Images a point"
        ),
        click.option("--final-num", metavar="INT", type=_images, help="Images per block at the best  [default: --num]"),
        click.option("--blocks", metavar="INT", type=_count, default=3, show_default=True, help="Blocks at the best"),
        seed_option,
    ]
)  # fmt: skip

plot_options = stack(
    [
        click.option("--kind", type=click.Choice(["weight", "interval", "ema"]), required=True, help="The x axis"),
        click.option(
            "--num",
            "--num_images",
            "num",
            metavar="INT",
            type=_images,
            required=True,
            help="The scores at so many images",
        ),
        click.option("--out", metavar="PNG|PDF|SVG", required=True, help="The picture"),
        click.option("--overwrite", is_flag=True, help="Replace the picture that is there"),
    ]
)


def goes_on(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command of these options, which tells an interrupt what it leaves behind."""

    @functools.wraps(command)
    def run(**params: Any) -> Any:
        kept = f"what was scored is in {params['ledger']}, unfinished work in {params['results']}"
        with keeps(lambda: f"{kept}; the same command goes on"):
            return command(**params)

    return run


def target_from(params: dict[str, Any], preset: Preset | None) -> tuple[str, str, str]:
    """(name, metric, reference) of a search, given or of its preset. Usage errors."""
    name = params["name"] or (preset.name if preset is not None else "")
    metric = params["metric"] or (preset.metric if preset is not None else "")
    needed = {"--name": name, "--metric": metric, "--ref": params["ref"] or preset}
    missing = [option for option, value in needed.items() if not value]
    if missing:
        raise click.UsageError(f"without a --preset, a search needs {', '.join(missing)}")
    return name, metric, reference_from(params["ref"], preset)
