"""Shared by the tests of options."""

import click
import pytest

from edm2_guidance.cli.command import Command
from edm2_guidance.cli.recipe_args import recipe_from
from edm2_guidance.cli.recipe_options import label_options, network_options, sampler_options
from edm2_guidance.cli.run_options import run_options


@pytest.fixture
def recipe_command():
    """A command with all options of a recipe, and the list to which it appends the recipe that they describe."""
    recipes = []

    @click.command(cls=Command)
    @network_options()
    @sampler_options
    @label_options
    @run_options
    def command(**params):
        recipes.append(recipe_from(params))

    return command, recipes
