"""What all command lines share: ~ in any path, and errors without secrets."""

import errno

import click
import pytest
from click.testing import CliRunner

from edm2_guidance.cli.command import Command, Group


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
