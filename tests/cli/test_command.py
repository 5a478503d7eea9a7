"""What all command lines share: ~ in any path, exit codes, signals, and errors without secrets."""

import errno
import os
import signal
import time
from contextlib import nullcontext, suppress

import click
import pytest
from click.testing import CliRunner

from dnnlib.errors import DownloadError
from dnnlib.versions import project_version
from edm2_guidance.cli.command import Command, Group, bad_input
from edm2_guidance.cli.option_group import takes_options
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.reproduce_options import WorkOptions
from edm2_guidance.cli.signals import stop_signals
from edm2_guidance.commands import calculate_metrics, generate_images, network_tool


@click.command(cls=Command)
@click.option("--net", multiple=True)
@click.option("--weights", nargs=1)
@click.option("--note")
@click.argument("paths", nargs=-1)
def show(**params):
    click.echo(repr(params))


def shown(*args, command=show):
    done = CliRunner().invoke(command, list(args))
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--net=~/a.pkl", "--net", "~/b.pkl"], "('/home/me/a.pkl', '/home/me/b.pkl')"),
        (["--weights=fd-dinov2=~/w.pth"], "'fd-dinov2=/home/me/w.pth'"),
        (["--weights", "fid=~/w.pth"], "'fid=/home/me/w.pth'"),
        (["~", "~/x y", "a~/b", "./~"], "('/home/me', '/home/me/x y', 'a~/b', './~')"),
        (["--note=~/as typed"], "'~/as typed'"),
        (["--net=~no-such-user/a"], "~no-such-user/a"),
    ],
)
def test_a_tilde_is_the_home_folder_in_every_option(args, expected, home):
    assert expected in shown(*args)


def test_it_is_so_in_subcommands(home):
    group = Group("tool", commands={"show": show})
    assert "('/home/me/a',)" in shown("show", "--net=~/a", command=group)


def test_without_a_home_nothing_is_called_tilde(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    done = CliRunner().invoke(show, ["--net=~/a"])
    assert done.exit_code == 2
    assert "Error: '--net=~/a': there is no home folder here; set HOME" in done.output


def test_errors_show_no_passwords_and_signatures():
    @click.command(cls=Command)
    def fail():
        raise OSError("https://me:secret@host/net.pkl?X-Amz-Signature=secret is gone")

    done = CliRunner().invoke(fail, [])
    assert done.stderr == "Error: https://host/net.pkl?... is gone\n"


def test_a_missing_package_found_late_is_told_with_its_cure():
    @click.command(cls=Command)
    def fail():
        import no_such_package  # noqa: F401

    done = CliRunner().invoke(fail, [])
    assert done.exit_code == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: No module named 'no_such_package': run `")


@pytest.mark.parametrize("file", [None, "a.part"])
def test_a_full_disk_is_told_without_its_number(file):
    @click.command(cls=Command)
    def fail():
        raise OSError(errno.ENOSPC, "No space left on device", file)

    said = CliRunner().invoke(fail, []).stderr
    where = "" if file is None else f"{file}: "
    assert said.startswith(f"Error: {where}No space left on device; what was finished is kept: make room, then run ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("broken\n  file"), 1),
        (OSError(28, "No space left", "x.zip"), 1),
        (ValueError("\x1b[2J"), 1),
        (None, 0),
    ],
)
def test_exit_codes_of_failed_work(error, code):
    @click.group(cls=Group)
    def group():
        pass

    @group.command()
    def work():
        if error is not None:
            raise error

    result = CliRunner().invoke(group, ["work"])
    assert result.exit_code == code
    assert result.stderr.count("\n") == (1 if error is not None else 0)
    assert result.stderr.rstrip("\n").isprintable()  # no escape sequences, whatever a file's names say


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_interrupts_say_so(error):
    @click.command(cls=Command)
    def command():
        raise error

    result = CliRunner().invoke(command, [])
    assert (result.exit_code, result.stderr.strip()) == (130, "Error: interrupted")


@pytest.mark.parametrize(
    ("name", "code"), [("TERM", 143), ("INT", 130), ("HUP", 129), ("USR1", 138), ("USR2", 140), ("XCPU", 152)]
)
def test_signals_end_in_order_whatever_libraries_make_of_them(name, code):
    """torch was seen to make a ValueError of an interrupt that came in the middle of it."""
    left, number = [], signal.Signals[f"SIG{name}"]

    @click.command(cls=Command)
    def command():
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        except BaseException as error:
            raise ValueError("could not determine the shape of an object") from error
        finally:
            left.append("in order")

    before = [signal.getsignal(each) for each in (number, signal.SIGINT)]
    result = CliRunner().invoke(command, [])
    assert (result.exit_code, left) == (code, ["in order"])
    assert result.stderr == ("Error: interrupted\n" if name == "INT" else f"Error: ended by SIG{name}\n")
    assert [signal.getsignal(each) for each in (number, signal.SIGINT)] == before


def test_a_signal_while_the_end_is_told_changes_nothing(monkeypatch):
    from edm2_guidance.cli import command as module

    plain = module._fail

    def slow(message, code):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        return plain(message, code)

    @click.command(cls=Command)
    def command():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr(module, "_fail", slow)
    result = CliRunner().invoke(command, [])
    assert (result.exit_code, result.stderr.strip()) == (130, "Error: interrupted")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_somebody_swallows_ends_the_work_all_the_same(number, code):
    """As destructors and callbacks of the garbage collector do."""
    done = []

    @click.command(cls=Command)
    def command():
        with progress_bar(3, "pieces") as progress:
            for piece in range(3):
                with suppress(BaseException):
                    if piece == 1:
                        os.kill(os.getpid(), number)
                        time.sleep(10)
                progress(1)
                done.append(piece)

    assert CliRunner().invoke(command, []).exit_code == code
    assert done == [0]


def test_an_interrupt_tells_what_is_kept_whatever_libraries_make_of_it():
    @click.command(cls=Command)
    @takes_options
    def command(work: WorkOptions):
        with work.goes_on():
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(10)
            except BaseException as error:
                raise ValueError("could not determine the shape of an object") from error

    said = CliRunner().invoke(command, ["--ledger=a.jsonl", "--results=b"]).stderr
    assert said == "Error: interrupted: what was scored is in a.jsonl, unfinished work in b; the same command goes on\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR2])
@pytest.mark.parametrize("training", [False, True])
def test_a_signal_that_is_ignored_stays_so(number, training):
    """As SIGINT for what a shell runs in the background, SIGHUP under nohup, SIGUSR2 in jobs by --submit."""

    @click.command(cls=Command)
    def command():
        with stop_signals() if training else nullcontext(lambda: None) as stopped:
            os.kill(os.getpid(), number)
            return stopped() or 0

    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert CliRunner().invoke(command, []).exit_code == 0
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_failed_download_is_failed_work():
    @click.command(cls=Command)
    def command():
        with bad_input():
            raise DownloadError("could not fetch https://host/net.pkl")

    result = CliRunner().invoke(command, [])
    assert (result.exit_code, result.stderr) == (1, "Error: could not fetch https://host/net.pkl\n")


def test_bad_input_is_a_usage_error():
    @click.command(cls=Command)
    def command():
        with bad_input():
            raise FileNotFoundError(2, "No such file or directory", "net.pkl")

    result = CliRunner().invoke(command, [])
    assert (result.exit_code, result.stderr) == (2, "Error: net.pkl: No such file or directory\n")


def test_a_program_without_its_command_shows_its_help():
    done = CliRunner().invoke(network_tool.main, [])
    assert (done.exit_code, done.stderr) == (2, "")
    assert done.stdout == CliRunner().invoke(network_tool.main, ["--help"]).stdout


def test_version_of_every_program():
    for page in (calculate_metrics, generate_images):
        result = CliRunner().invoke(page.main, ["--version"])
        assert result.exit_code == 0
        assert result.output.startswith(f"edm2-guidance {project_version()}")
    assert CliRunner().invoke(calculate_metrics.main, ["calc", "--version"]).exit_code == 2
