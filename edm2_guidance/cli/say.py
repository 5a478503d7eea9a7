"""What commands say on stderr, as loud as --quiet and --verbose ask for. Results go to stdout, by click.echo.

Where stderr is a log, lines get the time from `dnnlib.terminal`.
"""

from collections.abc import Iterable

import click

from dnnlib.terminal import is_quiet, is_verbose, printable


def say(text: str) -> None:
    """Say it, unless --quiet was given."""
    if not is_quiet():
        click.echo(text, err=True)


def detail(text: str) -> None:
    """Say it if --verbose was given."""
    if is_verbose():
        click.echo(text, err=True)


def note(text: str) -> None:
    """Say what the user should know."""
    say(f"note: {printable(text)}")


def say_notes(notes: Iterable[str]) -> None:
    """Say what the user should know, a line each."""
    for text in notes:
        note(text)


def warn(text: str) -> None:
    """Say what a result must not be taken for; --quiet does not silence it."""
    click.echo(f"warning: {text}", err=True)
