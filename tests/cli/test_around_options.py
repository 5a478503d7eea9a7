"""--around: what it takes, lists and refuses."""

from click.testing import CliRunner

from edm2_guidance.cli.recipe_flags import recipe_flags
from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.intervals import SigmaInterval
from edm2_guidance.recipe.recipe import Recipe

BOTH = "cads:s=0.1,erk:w_stiff=2"


def test_options(recipe_command):
    command, made = recipe_command

    def recipe(*words):
        made.clear()
        done = CliRunner().invoke(command, ["--net=mnist16-cond", *words])
        return made[0] if made else done

    given = recipe(f"--around={BOTH}")
    assert given.around == Recipe("net", around=BOTH).around
    assert recipe(*recipe_flags(given).split()[1:]).around == given.around
    assert recipe("--around=none") == recipe()
    wrong = recipe("--around=erk:w=3")
    assert wrong.exit_code == 2
    assert "erk has no 'w'; it takes w_stiff, w_con" in wrong.stderr
    lines = recipe("--around=list").stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [*catalog.kinds("around"), "With"]
    sigmas = recipe("--gnet=mnist16-uncond", "--guidance=2", "--guidance-sigma=0.2,3", "--around=restart")
    assert sigmas.resolved()[0].guides[0].interval == SigmaInterval(0.2, 3.0)
    counted = recipe("--gnet=mnist16-uncond", "--guidance=2", "--guidance-interval=2,5", "--around=restart")
    assert "whose steps no interval counts" in counted.stderr
