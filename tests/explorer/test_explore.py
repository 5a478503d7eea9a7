"""The command of the explorer, as far as it comes without its library: what is refused before anything opens."""

import socket
import sys
from types import ModuleType

import pytest
from click.testing import CliRunner

from edm2_guidance.commands import explore


def refused(*words):
    done = CliRunner().invoke(explore.main, [*words])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    return line


def test_without_its_library_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nicegui", None)
    assert refused().endswith("needed for this: pip install 'edm2-guidance[explore]'")


def test_a_port_that_is_taken_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "nicegui", ModuleType("nicegui"))
    with socket.create_server((explore.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        assert refused(f"--port={port}") == f"Error: port {port}: Address already in use; give another, --port=N"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port=80"], "--port=80: give a whole number from 1024 to 65535"),
        (["--port=x"], "--port=x: give a whole number"),
        (["--preset=mnist16-cgf"], "mnist16-cfg"),
        (["--net=mnist16-cond", "--gnet=mnist16-weak"], "weight"),
        (["--preset=mnist16-cfg", "--class=10"], "has classes 0 to 9"),
        (["--outdir=setup.py/x"], "setup.py"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(words, message, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "nicegui", ModuleType("nicegui"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "setup.py").write_text("")
    assert message in refused(*words)
