"""The gallery: what every kind does, as pages and pictures."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dnnlib.atomic import atomic_path, check_destination
from dnnlib.places import near
from dnnlib.versions import ROOT
from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.lists import check_once
from edm2_guidance.cli.option_group import OptionGroup, flag, option, takes_options
from edm2_guidance.cli.param_type import ParamType, show_if_list
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.say import note
from edm2_guidance.commands.reproduction.gallery_pages import pages
from edm2_guidance.papers import standings
from edm2_guidance.papers.arena import load
from edm2_guidance.papers.arena_lines import lines_of
from edm2_guidance.papers.gallery import Entry, axes, entries

if TYPE_CHECKING:
    from PIL import Image

    from edm2_guidance.recipe.files import NetworkRef
    from edm2_guidance.recipe.recipe import Recipe
    from edm2_guidance.sampling.generation import Generation

OUTDIR = "docs/gallery"
LEDGER = ROOT / "docs/arena/mnist16.jsonl"  # whose scores pages tell: of a checkout, which alone has it
INCHES, DPI, COLOURS = (4.2, 2.1), 100, 16  # of pictures of the toy
TILE, GREYS = 32, 16  # pixels of a digit's side, and shades


class Kinds(ParamType):
    """Names of kinds, joined by commas, of all axes that have them; `list` prints which there are, and ends."""

    name = "list"

    def parse(self, text: str) -> list[str]:
        show_if_list(text, listing)
        names, known = check_once([part.strip() for part in text.split(",")]), [entry.kind for entry in entries()]
        for name in names:
            if name not in known:
                raise ValueError(f"the gallery has no '{name}'{near(name, known)} (all: --only=list)")
        return names


def listing() -> str:
    """Every kind of the gallery, an axis to a line."""
    return "\n".join(f"{axis}: {', '.join(each.kind for each in entries() if each.axis == axis)}" for axis in axes())


class GalleryOptions(OptionGroup):
    """What is made, and where."""

    outdir: str = option("Of pages and pictures", metavar="DIR", default=OUTDIR)
    only: list[str] | None = option(
        "Only the pages of these kinds, and the one before all; `list` prints all", type=Kinds()
    )
    text: bool = flag("Pages without their pictures")


def fared(ledger: str | Path) -> dict[str, str]:
    """How kinds fared in the arena of a ledger, by the names of their entries; nothing where there is none."""
    if not Path(ledger).exists():
        return {}
    from edm2_guidance.metrics.ledger import read

    arena = load(Path(ledger).stem)
    found = standings.standings(arena, lines_of(arena, read(ledger)))
    pairs = standings.differences(found, standings.read_pairs(standings.pairs_path(ledger)))
    lines = standings.how_kinds_fared(arena, found, pairs)
    return {f"{axis}-{kind}": "\n".join(f"- {line}" for line in each) for (axis, kind), each in lines.items()}


@click.command("gallery", cls=Command)
@takes_options
def make_gallery(asked: GalleryOptions) -> None:
    """Write a page for every rule, weight, reference, solver and schedule: its formula, its fields, what it does.

    Pictures are of the networks that ship, on the CPU: points of the toy, and digits.

    \b
    python reproduce.py gallery
    python reproduce.py gallery --only=linear --outdir=out/gallery
    """
    folder = Path(asked.outdir)
    chosen = [entry for entry in entries() if asked.only is None or entry.kind in asked.only]
    if not LEDGER.exists():
        note(f"{LEDGER} is not there: pages do not say how kinds fared in the arena")
    with bad_input():
        texts = pages(fared(LEDGER))
    wanted = ["index.md", *(f"{entry.name}.md" for entry in chosen)]
    with bad_input():
        check_destination(folder / "index.md")
        painter = None if asked.text else Painter(folder)
    for name in wanted:
        with atomic_path(folder / name) as path:
            Path(path).write_text(texts[name], encoding="utf-8")
    if painter is None:
        return
    with progress_bar(len(chosen), "gallery", unit="page") as advance:
        if asked.only is None:
            painter.unguided()
        for entry in chosen:
            painter.paint(entry)
            advance(1)


class Painter:
    """Draws the pictures of pages."""

    def __init__(self, folder: Path) -> None:
        """Opens networks. ImportError without matplotlib."""
        from edm2_guidance.sampling.opening import opener
        from edm2_guidance.toy import plots
        from edm2_guidance.toy.network_io import load_model
        from edm2_guidance.toy.recipes import network

        self._folder = folder
        self._open: Callable[[Recipe], Generation] = opener("cpu")
        self._nets: Mapping[str, NetworkRef] = {
            role: network(load_model(f"toy/{role}")) for role in ("main", "weak", "unconditional")
        }
        plots.new_figure(INCHES)

    def unguided(self) -> None:
        """The toy without guidance."""
        from edm2_guidance.papers.gallery import unguided

        self._points(unguided(self._nets), "unguided.png")

    def paint(self, entry: Entry) -> None:
        """The pictures of a page."""
        if not entry.not_on_points:
            self._points(entry.of_points(self._nets), f"{entry.name}-points.png")
        if not entry.not_on_digits:
            self._digits(entry)

    def _points(self, recipe: "Recipe", name: str) -> None:
        from PIL import Image

        from edm2_guidance.toy import plots

        figure = plots.new_figure(INCHES)
        above, below = figure.subplots(1, 2)
        plots.draw_recipe(above, below, "", recipe)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="rgba", dpi=DPI)
        size = (round(INCHES[0] * DPI), round(INCHES[1] * DPI))
        self._save(Image.frombytes("RGBA", size, drawn.getvalue()).convert("RGB").quantize(COLOURS), name)

    def _digits(self, entry: Entry) -> None:
        from edm2_guidance.images.grid import compose_grid
        from edm2_guidance.sampling.method_grid import sample_pictures

        rows = [sample_pictures([self._open(entry.of_digits(value))], range(10), 10) for value in entry.values]
        picture = compose_grid(rows, [entry.caption(value) for value in entry.values], tile_size=TILE)
        self._save(picture.convert("L").quantize(GREYS), f"{entry.name}-digits.png")

    def _save(self, picture: "Image.Image", name: str) -> None:
        with atomic_path(self._folder / name) as path:
            picture.save(path, format="PNG", optimize=True)
