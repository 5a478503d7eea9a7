"""Change guidance by hand in a browser, and see at once what comes of it."""

import socket
from functools import partial
from pathlib import Path

import click

from dnnlib.atomic import check_destination
from dnnlib.extras import need
from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.grid import of_known_class
from edm2_guidance.cli.lists import first_seeds, seed_option
from edm2_guidance.cli.option_group import OptionGroup, flag, option, takes_options
from edm2_guidance.cli.recipe_args import recipe_from
from edm2_guidance.cli.recipe_options import Method, NetworkOptions, SamplingOptions
from edm2_guidance.cli.report import describe
from edm2_guidance.cli.run_options import RunOptions, sampling_batch_option
from edm2_guidance.cli.say import say, say_notes
from edm2_guidance.cli.typed import given, quoted
from edm2_guidance.papers.lookup import find_preset

INSTALL = "pip install 'edm2-guidance[explore]'"
USUAL = "mnist16-interval"  # what is explored if nothing is named
HOST = "127.0.0.1"  # whoever reaches the page runs networks here and writes files
_LEAST_PORT, _LAST_PORT = 1024, 65535


class ExploreOptions(OptionGroup, heading="Page"):
    """What the page begins with, and where it is."""

    networks: NetworkOptions
    sampling: SamplingOptions
    seed: int = seed_option()
    port: int = option("Of the page", type=click.IntRange(_LEAST_PORT, _LAST_PORT), default=8642, first=True)
    browser: bool = flag("Open a browser at the page", first=True)
    outdir: str = option("Where figures go", metavar="DIR", default="out/explore", heading="Output", first=True)
    batch: int | None = sampling_batch_option(32)
    run: RunOptions

    @property
    def method(self) -> Method:
        """What describes the recipe."""
        return Method(self.networks, self.sampling, self.run.noise_device)


@click.command(cls=Command)
@takes_options
def main(asked: ExploreOptions) -> None:
    """Change guidance by hand in a browser, on this machine alone.

    Without networks those of the preset mnist16-interval, which ship. Needs pip install 'edm2-guidance[explore]'.

    \b
    python explore.py --browser
    python explore.py --preset=mnist16-autog --steps=32 --browser
    python explore.py --preset=edm2-img512-s-guid-dino --device=cuda
    python explore.py --net=PATH --gnet=PATH --guidance=1.5
    """  # fmt: skip
    try:
        need("nicegui", INSTALL)
    except ImportError as error:
        raise click.UsageError(str(error)) from error
    with bad_input():
        check_free(asked.port)
        check_destination(Path(asked.outdir, "figure.png"))
    named = asked.networks.preset or asked.networks.recipe or asked.networks.net
    recipe = recipe_from(asked.method, None if named else find_preset(USUAL))
    from edm2_guidance.explorer.page import serve
    from edm2_guidance.explorer.session import MAX_IMAGES, Explorer
    from edm2_guidance.sampling.opening import opener
    from torch_utils.distributed import require_one_process

    with bad_input():
        require_one_process("explore.py")
        open_ = opener(asked.run.device, **asked.run.opening)
        recipe = of_known_class(recipe, asked.sampling.class_names)
        seeds = first_seeds(asked.seed, MAX_IMAGES)
        explorer = Explorer(recipe, seeds, open_, batch=asked.batch, options=options_of_bits())
        generation = open_(recipe)
    say(describe(generation.recipe))
    say_notes(generation.notes)
    where = f"http://{HOST}:{asked.port} shows it, to this machine alone; Ctrl-C ends it"
    told = partial(click.echo, where)
    serve(explorer, Path(asked.outdir), HOST, asked.port, show=asked.browser, started=told)


def options_of_bits() -> list[str]:
    """The options of this command line that touch bits, which a command that makes the same again needs, too."""
    names = ("device", "network_form", "precision", "deterministic", "trust_pickle")
    return [quoted(name) for name in names if given(name)]


def check_free(port: int) -> None:
    """ValueError for a port that another program has."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ValueError(f"port {port}: {error.strerror}; give another, --port=N") from error
