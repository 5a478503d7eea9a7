"""Which seeds a command line asks for. No torch here."""

from typing import Any

import click

from edm2_guidance.cli.lists import MAX_SEED
from edm2_guidance.cli.typed import given

seed_option = click.option(
    "--seed", metavar="INT", type=click.IntRange(min=0), default=0, show_default=True, help="First seed"
)


def seeds_from(params: dict[str, Any], num: int) -> list[int]:
    """The seeds of --seeds, or those from --seed on, --num_images or `num` of them; a usage error for both."""
    if params["seeds"] is not None and not (given("seed") or given("num_images")):
        return list(params["seeds"])
    if given("seeds"):
        raise click.UsageError("--seeds says which and how many: leave out --seed and --num_images")
    last = params["seed"] + (params["num_images"] or num) - 1
    if last > MAX_SEED:
        raise click.UsageError(f"seeds up to {last}: they go up to {MAX_SEED}")
    return list(range(params["seed"], last + 1))
