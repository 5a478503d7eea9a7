"""Shared by the tests of options."""

import click
import pytest

from edm2_guidance.cli.command import Command
from edm2_guidance.cli.option_group import takes_options
from edm2_guidance.cli.recipe_args import recipe_from
from edm2_guidance.cli.recipe_options import Method, NetworkOptions, SamplingOptions
from edm2_guidance.cli.run_options import RunOptions


@pytest.fixture
def recipe_command():
    """A command with all options of a recipe, and the list to which it appends the recipe that they describe."""
    recipes = []

    @click.command(cls=Command)
    @takes_options
    def command(networks: NetworkOptions, sampling: SamplingOptions, run: RunOptions):
        recipes.append(recipe_from(Method(networks, sampling, run.noise_device)))

    return command, recipes
