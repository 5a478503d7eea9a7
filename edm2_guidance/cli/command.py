"""What every script's command line shares: one-line errors, exit codes, and options in either spelling.

Exit code 2: the command line asks for something that cannot be (found before any work). Exit code 1: work failed.
Exit code 128 + N: signal N ended it, in order, before the work was done: 129 SIGHUP, 130 SIGINT, 143 SIGTERM.
"""

import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from dnnlib.errors import DownloadError, Refused
from dnnlib.terminal import loudness, printable
from dnnlib.urls import without_secrets
from dnnlib.versions import PROJECT, git_commit, project_version
from edm2_guidance.cli import help_page, settings, spelling, typed
from edm2_guidance.cli.config import CONFIG, with_config
from edm2_guidance.cli.signals import Terminated, termination
from edm2_guidance.cli.start import as_started, cure

_FROM_HOME = re.compile(r"((?:--?[\w-]+=)?(?:[\w-]+=)?)(~.*)", re.DOTALL)  # [--option=][METRIC=]~...


def _at_home(argument: str) -> str:
    """~/x and ~user/x as a shell would give them: it leaves those in --option=~/x alone.

    A usage error where nobody knows where home is: a folder named "~" is never what was meant.
    """
    found = _FROM_HOME.fullmatch(argument)
    if found is None or argument.startswith("--note="):
        return argument
    path = os.path.expanduser(found[2])
    if path.split("/")[0] == "~":
        raise click.UsageError(f"'{argument}': there is no home folder here; set HOME, or write the path out")
    return found[1] + path


@contextmanager
def bad_input() -> Iterator[None]:
    """Inside, ValueError and OSError mean that the user asked for something impossible: exit code 2.

    A download that fails, and a disk that does, are not the user's doing, and stay failed work.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if isinstance(error, DownloadError) or getattr(error, "errno", None) in _DISK_TROUBLE:
            raise
        raise click.UsageError(_one_line(error)) from error


def _one_line(error: BaseException) -> str:
    text = "; ".join(" ".join(line.split()) for line in str(error).splitlines() if line.strip())
    text = text.replace(":;", ":")
    if isinstance(error, ModuleNotFoundError):
        return cure(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        text += "; what was finished is kept: make room, then run the same command again"
    return text or type(error).__name__


def _tell_version(ctx: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked:
        commit = git_commit()
        click.echo(f"{PROJECT} {project_version() or '(version unknown)'}" + (f", commit {commit}" if commit else ""))
        ctx.exit()


def _remember(ctx: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked:
        ctx.meta[str(option.name)] = True  # of a subcommand as well, if a group was told


_QUIET = help_page.shared("--quiet", "Say no more than warnings and errors, beside the results", _remember)
_VERBOSE = help_page.shared("--verbose", "Say more", _remember)
_VERSION = help_page.shared("--version", "Say which version this is, and exit", _tell_version)


class _OneLineErrors(click.Command):
    """Shows an error as one line on stderr and ends with its exit code. What click hands through is Any, as there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {})
        kwargs["context_settings"].setdefault("token_normalize_func", typed.either_spelling)
        kwargs["context_settings"].setdefault("help_option_names", ["-h", "--help"])
        kwargs["context_settings"].setdefault("max_content_width", 120)
        super().__init__(*args, **kwargs)
        self.params += [CONFIG, _QUIET, _VERBOSE, help_page.HELP_ALL]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            with bad_input():
                args = with_config(ctx, spelling.in_our_words(args))
            typed.remember(ctx, args)
            rest = super().parse_args(ctx, [_at_home(argument) for argument in args])
            typed.check_finite(ctx)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise
        return rest

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """With --version, of a whole program."""
        params = super().get_params(ctx)
        return params if ctx.parent is not None else [*params[:-1], _VERSION, *params[-1:]]  # --help is last

    def get_help(self, ctx: click.Context) -> str:
        return as_started(super().get_help(ctx))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        help_page.write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        help_page.write_rest(self, ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        quiet, verbose = (each.name in ctx.meta for each in (_QUIET, _VERBOSE))
        if quiet and verbose:
            raise click.UsageError("--quiet and --verbose say two things: leave one of them out")
        with loudness(quiet=quiet, verbose=verbose), settings.deterministic(bool(ctx.params.get("deterministic"))):
            typed.note_repeated(ctx)
            return super().invoke(ctx)

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        settings.configure()
        run: Any = super().main
        if not standalone_mode:
            return run(*args, standalone_mode=False, **kwargs)
        try:
            with termination() as signalled:
                try:
                    result = run(*args, standalone_mode=False, **kwargs)
                except (Exception, KeyboardInterrupt, Terminated) as error:
                    sys.exit(_end(error, signalled()))
        except (KeyboardInterrupt, Terminated) as error:  # it came when all was done, or as the end was being told
            sys.exit(_end(error, None))
        sys.exit(result if isinstance(result, int) else 0)


@contextmanager
def keeps(what: Callable[[], str]) -> Iterator[None]:
    """Around long work: what ends it in the middle carries a note of what it leaves behind, which an interrupt tells.

    what: such as "3 of 16 images are in out; the same command goes on", asked for at the end.
    """
    try:
        yield
    except BaseException as error:
        with suppress(OSError):
            error.add_note(what())
        raise


def _kept(error: BaseException | None) -> str:
    """What `keeps` noted, whatever libraries made of the exception since; empty if nothing."""
    while error is not None:
        for note in reversed(getattr(error, "__notes__", [])):  # the outermost says most
            return f": {note}"
        error = error.__cause__ or error.__context__
    return ""


_MAX_MESSAGE = 4000  # characters
_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)
_FAILURES = (ValueError, ArithmeticError, OSError, RuntimeError, ImportError, MemoryError)


def _end(error: BaseException, signalled: int | None) -> int:
    """Say why the command ends, in one line, and give its exit code; raises an error that is no failure but a bug.

    signalled: the signal that came, if any. An error is then its work: libraries may make another of the exception
    that it raised in the middle of them. Of an interrupt click makes an Abort, a RuntimeError.
    """
    if signalled is None and isinstance(error, Terminated):
        signalled = error.number
    if signalled is not None and signalled != signal.SIGINT:
        return _fail(f"ended by {signal.Signals(signalled).name}{_kept(error)}", 128 + signalled)
    if signalled == signal.SIGINT or isinstance(error, click.Abort | KeyboardInterrupt):
        return _fail(f"interrupted{_kept(error)}", 128 + signal.SIGINT)
    if isinstance(error, click.ClickException):
        if error.__cause__ is not None and settings.tracebacks():
            traceback.print_exception(error.__cause__)
        return _fail(typed.in_words(error), error.exit_code)
    if not isinstance(error, _FAILURES) or settings.tracebacks():
        raise error
    return _fail(_one_line(error), 2 if isinstance(error, Refused) else 1)


def _fail(message: str, exit_code: int) -> int:
    line = without_secrets(as_started(" ".join(message.split())))
    shown = line if len(line) <= _MAX_MESSAGE else f"{line[:_MAX_MESSAGE]} ..."  # a file may have names of any length
    click.echo(f"Error: {printable(shown)}", err=True)
    return exit_code


class Command(_OneLineErrors):
    """click.Command with this project's manners."""


class Group(_OneLineErrors, click.Group):
    """click.Group with this project's manners; its subcommands share them."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Of nothing at all the help page, as lines: click's own, an error, would be one."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)
