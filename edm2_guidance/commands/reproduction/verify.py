"""The published files and this machine, tried: one report for whoever maintains the program."""

import shlex
from collections.abc import Mapping
from pathlib import Path

import click

from dnnlib.atomic import check_destination
from dnnlib.places import near
from dnnlib.terminal import counted
from dnnlib.workers import launched
from edm2_guidance.cli.command import Command, bad_input, keeps
from edm2_guidance.cli.lists import check_once
from edm2_guidance.cli.option_group import OptionGroup, flag, option, takes_options
from edm2_guidance.cli.param_type import ParamType, show_if_list
from edm2_guidance.cli.run_options import device_option, offline_option
from edm2_guidance.cli.say import warn
from edm2_guidance.cli.start import as_started
from edm2_guidance.papers.listing import as_text
from edm2_guidance.reproduction.verification import report
from edm2_guidance.reproduction.verification.check import CHECKS
from edm2_guidance.reproduction.verification.run import Outcome, Settings, load, save, taken, verify, wanted

OUTDIR = "verify"


class CheckNames(ParamType):
    """Names of checks, joined by commas; `list` prints which there are, and ends."""

    name = "list"

    def parse(self, text: str) -> list[str]:
        show_if_list(text, listing)
        names = check_once([part.strip() for part in text.split(",")])
        for name in names:
            if name not in CHECKS:
                raise ValueError(f"there is no check '{name}'{near(name, CHECKS)} (all: --checks=list)")
        return [name for name in CHECKS if name in names]


def listing() -> str:
    """Every check in a table."""
    header = ("check", "what it asks", "minutes at most", "with --quick")
    rows = [(each.name, each.asks, f"{each.minutes:g}", f"{each.in_quick or '-'}") for each in CHECKS.values()]
    return as_text([header, *rows])


class VerifyOptions(OptionGroup):
    """What is checked, and where the report goes."""

    quick: bool = flag("In ten minutes: without DINOv2 and scores of 5,000 images")
    checks: list[str] | None = option("Only these; `list` prints all", type=CheckNames())
    outdir: str = option("Of the report, and of what checks make", metavar="DIR", default=OUTDIR)
    again: bool = flag("Make checks again that an earlier start found ok")
    device: str = device_option()
    offline: bool = offline_option()


@click.command("verify", cls=Command)
@takes_options
def verify_machine(asked: VerifyOptions) -> None:
    """Try the published files and this machine, and write a report: within the hour on one GPU.

    The smallest published networks, statistics, VAE and detectors are fetched (2.7 GB; 1 GB with --quick) and compared
    with what is known of them, the device's numbers with the CPU's; speed, memory, a kill, two workers and scores
    follow. Checks that fail are told in DIR/report.md and DIR/report.json, and the others go on. Run again, it makes
    what is not ok.

    \b
    python reproduce.py verify
    python reproduce.py verify --quick
    python reproduce.py verify --checks=networks,precision
    """
    folder, names = Path(asked.outdir), asked.checks or wanted(asked.quick)
    settings = Settings(folder, names, asked.device, asked.quick, asked.offline, asked.again)
    with bad_input():
        if launched().count > 1:
            raise ValueError("verify starts processes of its own: start it without torchrun or srun")
        check_destination(folder / "report.json")
        known = load(folder)
    kept = f"what was found is in {folder / 'report.md'}; the same command goes on"
    problem, writer = None, Writer(asked, names)
    with keeps(lambda: kept):
        for name, outcome in verify(settings, known):
            click.echo(report.line(name, outcome, earlier=outcome is known.get(name)))
            known = taken(known, name, outcome)
            problem = writer.write(known)
    if problem is not None:
        click.echo(writer.text(known))
        raise problem
    failed = [name for name in names if known[name].status == "FAILED"]
    if failed:
        failures = f"{counted(len(failed), 'check')} of {len(names)} failed: {', '.join(failed)}"
        raise RuntimeError(f"{failures}; please send {folder / 'report.md'} to the maintainers")
    click.echo(f"nothing failed: {folder / 'report.md'}")


class Writer:
    """Writes the report after every check, so that whatever ends the run leaves it."""

    def __init__(self, asked: VerifyOptions, names: list[str]) -> None:
        """names: of the checks of this run."""
        self._folder, self._names = Path(asked.outdir), names
        given = {"outdir": OUTDIR, "device": "auto"}
        words = [f"--{name}={getattr(asked, name)}" for name, usual in given.items() if getattr(asked, name) != usual]
        words += ["--quick"] * asked.quick + ["--offline"] * asked.offline
        self._options = "".join(f" {shlex.quote(word)}" for word in words)

    def text(self, known: Mapping[str, Outcome]) -> str:
        """The report."""
        return as_started(report.markdown(known, self._names, self._options))

    def write(self, known: Mapping[str, Outcome]) -> OSError | None:
        """The error, which is told and does not end the run, if it cannot be written."""
        try:
            save(self._folder, known, self.text(known))
        except OSError as error:
            warn(f"the report cannot be written now: {error}")
            return error
        return None
