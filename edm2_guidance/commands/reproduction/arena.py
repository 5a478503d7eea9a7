"""Methods and solvers beside each other, each at its own best setting."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dnnlib.atomic import atomic_path, check_destination
from edm2_guidance.cli import reproduce_options as opt
from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.metric_options import REFERENCE, Metrics, ref_option, reference_from
from edm2_guidance.cli.option_group import COUNT, OptionGroup, flag, option, takes_options
from edm2_guidance.cli.progress import Agenda
from edm2_guidance.cli.run_options import StealingOptions, threads_for
from edm2_guidance.cli.say import say, say_notes
from edm2_guidance.commands.reproduction.runs import runner_from, settings_from
from edm2_guidance.metrics.catalog import check_counts, find_metric, value_text
from edm2_guidance.papers import arena as arenas
from edm2_guidance.papers import standings
from edm2_guidance.papers.arena import Arena, Entry
from edm2_guidance.papers.arena_lines import Lines, lines_of
from edm2_guidance.papers.listing import as_markdown, as_text
from edm2_guidance.papers.search import expected_points

if TYPE_CHECKING:
    from edm2_guidance.papers.listing import Cells
    from edm2_guidance.papers.standings import Standing


class ArenaOptions(OptionGroup, heading="Arena"):
    """What competes, and by how many images."""

    arena: str = option(
        f"Its name ({', '.join(arenas.names())}), or a file of your own", metavar="NAME|TOML", default="mnist16",
        first=True,
    )  # fmt: skip
    only: str | None = option("Entries of these names alone: fdg/*,linear/weak/*", metavar="PATTERN,...", first=True)
    list_entries: bool = flag("Show the entries, and how many images they take", "--list", first=True)
    report: str | None = option("Write tables and plots out of the ledger alone", metavar="DIR", first=True)
    time: int | None = option(
        "Instead, how long entries take: so many images, in turn with the unguided base, on a quiet machine",
        metavar="IMAGES", type=COUNT,
    )  # fmt: skip
    metrics: list[str] | None = option(
        "What is searched for, and scored beside it  [default: the arena's]", type=Metrics(), heading="Scoring"
    )
    ref: str | None = ref_option(f"{REFERENCE}  [default: the arena's]")
    num: int | None = option(
        "Images a point of a search  [default: the arena's]", "--num-images", type=click.IntRange(min=2)
    )
    final_num: int | None = option("Images per block of the final scores", type=click.IntRange(min=2))
    work: opt.WorkOptions
    workers: StealingOptions

    def chosen(self) -> Arena:
        """The arena, with what the command line changes. ValueError or OSError."""
        found = arenas.load(self.arena)
        search, final = found.search, found.final
        for metric in self.metrics or found.metrics:
            find_metric(metric)
        return replace(
            found,
            metrics=tuple(self.metrics or found.metrics),
            reference=self.ref or found.reference,
            search=replace(search, num_images=self.num or search.num_images),
            final=replace(final, num_images=self.final_num or final.num_images),
        )


@click.command("arena", cls=Command)
@takes_options
def run_arena(asked: ArenaOptions) -> None:
    """Compare methods of guidance and solvers, each at its own best setting.

    The setting of each method is searched on the same grid with the same images; the best is scored in images of other
    seeds, with 95 % intervals, and with differences between pairs of images of the same seeds. What the ledger has is
    not made again: the same command goes on where it stopped. Under torchrun or srun, or started several times with
    --worker=I/N, the workers share every block of images; the first of them, 0/N, writes what becomes of it.

    \b
    python reproduce.py arena --list
    python reproduce.py arena --only=linear/*,fdg/* --results-dir=results --ledger=results/arena.jsonl
    python reproduce.py arena --ledger=results/arena.jsonl --report=results/arena
    """
    with bad_input():
        arena = asked.chosen()
        entries = arena.chosen([] if asked.only is None else [each.strip() for each in asked.only.split(",")])
    if asked.list_entries:
        return click.echo(list_text(arena, entries))
    if asked.report is not None:
        return write_report(arena, entries, asked.work.ledger, Path(asked.report))
    with asked.work.goes_on():
        return hold(arena, entries, asked)


def images_to_come(arena: Arena, entry: Entry) -> int:
    """How many images an entry takes, about, without the further blocks of the best."""
    if entry.axis is None:
        return arena.final.num_images
    start = {entry.axis.name: entry.axis.values[0]}
    points = expected_points(start, [[entry.axis]], stride=arena.search.stride)
    return points * arena.search.num_images + arena.final.num_images


def list_text(arena: Arena, entries: Sequence[Entry]) -> str:
    """The entries with what makes them, and how many images they take."""
    rows: list[list[object]] = [["entry", "guidance and solver", "searched", "evaluations", "images"]]
    for entry in entries:
        axis = entry.searched.axis
        recipe = entry.at({} if axis is None else {axis.name: axis.values[len(axis.values) // 2]})
        calls = " + ".join(f"{count} {name}" for name, count in recipe.evaluations().items() if count)
        what = ", ".join([*(guide.name for guide in recipe.guides), *filter(None, [recipe.unusual_text()])])
        searched = "" if axis is None else axis.name if entry.of is None else f"as {entry.of.name}"
        rows.append([entry.name, what or "unguided", searched, calls, f"{images_to_come(arena, entry):,}"])
    total = sum(images_to_come(arena, entry) for entry in entries)
    more = (
        (arena.final.blocks - 1)
        * min(arena.final.best, sum(entry.of is None for entry in entries))
        * arena.final.num_images
    )
    return f"{arena.title}: {len(entries)} entries, {total + more:,} images\n\n{as_text(rows)}"


def hold(arena: Arena, entries: Sequence[Entry], asked: ArenaOptions) -> None:
    """Search and score what is missing, then show how things stand; or take the time."""
    with bad_input():
        workers = asked.workers.place()
    settings = settings_from(asked.work, workers)
    threads_for([entry.recipe.net.source for entry in entries], arena.metrics)
    arena = replace(arena, reference=reference_from(arena.reference))
    with bad_input():
        standings.read_pairs(standings.pairs_path(asked.work.ledger))
        standings.read_times(standings.times_path(asked.work.ledger))
        check_counts(arena.metrics, min(arena.search.num_images, arena.final.num_images))
        agenda = Agenda(sum(images_to_come(arena, entry) for entry in entries), quiet=not workers.speaks)
        runner = runner_from(settings, agenda)
        runner.scorer(arena.metrics, arena.reference)
        for entry in entries:
            runner.open(entry.recipe)
    from edm2_guidance.reproduction.arena import Contest, Teller

    def told(entry: Entry, point: Mapping[str, float], score: float) -> None:
        if workers.speaks:
            click.echo(f"{entry.name}  {setting_text(point)}  {arena.metrics[0]} {value_text(arena.metrics[0], score)}")

    def begun(entry: Entry, point: Mapping[str, float], number: int) -> None:
        if workers.speaks:
            say(f"{entry.name} at {setting_text(point)}, block {number + 1}")

    contest = Contest(arena, runner, Teller(told, begun))
    if asked.time is not None:
        with bad_input():
            stands(arena, entries, read_lines(arena, asked.work.ledger), asked.work.ledger)
        return contest.time(entries, asked.time)
    contest.run(entries)
    if workers.index == 0:
        contest.compare()
        lines = contest.lines()
        say_notes(lines.notes)
        found = stands(arena, entries, lines, asked.work.ledger)
        made = tables(arena, entries, found, asked.work.ledger)
        click.echo("\n\n".join(as_text(rows) for rows in made.values()))
    return None


_FIRST = "run it without --report and --time first"


def setting_text(point: Mapping[str, float]) -> str:
    """A setting in words."""
    return ", ".join(f"{name} {value:g}" for name, value in point.items()) or "its only setting"


def stands(arena: Arena, entries: Sequence[Entry], lines: Lines, ledger: str) -> "list[Standing]":
    """How all entries stand, by the lines of a ledger. ValueError if it has none of those that are asked for."""
    found = standings.standings(arena, lines)
    if not {each.entry.name for each in found} & {entry.name for entry in entries}:
        among = "" if len(entries) == len(arena.entries) else "these entries of "
        raise ValueError(
            f"{ledger} has no score of {among}the arena {arena.name} with {arena.final.num_images} images per block: "
            f"{_FIRST}, or give the --final-num and --metrics that it was run with"
        )
    return found


def tables(arena: Arena, entries: Sequence[Entry], found: "Sequence[Standing]", ledger: str) -> "dict[str, Cells]":
    """A table of each group, by its name, of these entries among all that were found. ValueError or OSError."""
    pairs = standings.differences(found, standings.read_pairs(standings.pairs_path(ledger)))
    times = standings.read_times(standings.times_path(ledger))
    shown = {entry.name for entry in entries}
    groups = dict.fromkeys(each.entry.group for each in found if each.entry.name in shown)
    return {group: standings.table(arena, found, pairs, times, group, shown) for group in groups}


def read_lines(arena: Arena, ledger: str) -> Lines:
    """Of the arena in a ledger; says which are left out. ValueError or OSError."""
    from edm2_guidance.metrics.ledger import read

    if not Path(ledger).exists():
        raise FileNotFoundError(f"there is no ledger {ledger} yet: {_FIRST}")
    lines = lines_of(arena, read(ledger))
    say_notes(lines.notes)
    return lines


def write_report(arena: Arena, entries: Sequence[Entry], ledger: str, folder: Path) -> None:
    """Tables and plots of these entries into a folder."""
    from edm2_guidance.papers import arena_plots

    with bad_input():
        check_destination(folder / "tables.md")
        lines = read_lines(arena, ledger)
        found = stands(arena, entries, lines, ledger)
        made = tables(arena, entries, found, ledger)
    some = "" if len(entries) == len(arena.entries) else "Some of the entries: ties and differences are among all.\n"
    parts = [f"## {group}\n\n{as_markdown(rows)}\n" for group, rows in made.items()]
    with atomic_path(folder / "tables.md") as path:
        path.write_text("\n".join([f"# {arena.title}\n", *filter(None, [some]), *parts]), encoding="utf-8")
    click.echo(folder / "tables.md")
    drawn = [each for each in found if each.entry.name in {entry.name for entry in entries}]
    for picture in arena_plots.draw(arena, entries, lines, drawn, folder):
        click.echo(picture)
