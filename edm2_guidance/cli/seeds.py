"""Which seeds a command line asks for. No torch here."""

import click

from edm2_guidance.cli.lists import MAX_SEED
from edm2_guidance.cli.option_group import Field, option
from edm2_guidance.cli.typed import given


def seed_option() -> Field:
    """--seed: the first one."""
    return option("First seed", type=click.IntRange(min=0), default=0)


def seeds_from(seeds: list[int] | None, first: int, num: int) -> list[int]:
    """The seeds of --seeds, or `num` of them from --seed on; a usage error for both."""
    if seeds is None or given("seed") or given("num_images"):
        if given("seeds"):
            raise click.UsageError("--seeds says which and how many: leave out --seed and --num_images")
        return list(first_seeds(first, num))
    return list(seeds)


def first_seeds(first: int, num: int) -> range:
    """So many seeds; a usage error if generators do not take them all."""
    last = first + num - 1
    if last > MAX_SEED:
        raise click.UsageError(f"seeds up to {last}: they go up to {MAX_SEED}")
    return range(first, last + 1)
