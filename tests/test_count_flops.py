"""count_flops.py: what it counts and prints, and how it ends."""

import json

import pytest
from click.testing import CliRunner

from dnnlib.places import EMBEDDED
from edm2_guidance.commands import count_flops


def run(*arguments):
    return CliRunner().invoke(count_flops.main, [str(argument) for argument in arguments])


def test_size_by_name():
    result = run("mnist16-weak")
    assert result.exit_code == 0, result.output
    assert "parameters  45,859\n" in result.stdout
    assert "Gflops      0.005341\n" in result.stdout
    of_file = run(EMBEDDED / "mnist16-weak.pkl").stdout
    assert of_file.splitlines()[1:] == result.stdout.splitlines()[1:]


def test_file_and_preset(tiny_networks):
    for source in ("mnist16-cfg", tiny_networks["cond"]):
        report = json.loads(run(source, "--json").stdout)
        assert report["multiply_adds"] == sum(report["by_kind"].values()) == round(report["gflops"] * 1e9)
    assert "input       1 x 3 x 8 x 8\n" in run(tiny_networks["cond"]).stdout


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("edm2-img512-y", "'edm2-img512-y' is neither a size nor a preset, a file or a URL; near it: edm2-img512-"),
        ("edm2-img512-xxl-intervl-fid", "near it: edm2-img512-xxl-interval-fid"),
        ("?", "sizes are edm2-img512-xxs, "),
        ("missing.pkl", "there is no file missing.pkl"),
    ],
)
def test_what_is_not_there(source, message):
    result = run(source)
    assert result.exit_code == 2
    assert message in result.stderr


def test_file_that_is_refused(tmp_path):
    path = tmp_path / "bad.pkl"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    result = run(path)
    assert result.exit_code == 2
    assert "bad.pkl: " in result.stderr
    assert "system" in result.stderr


def test_url_that_is_not_cached():
    result = run("http://127.0.0.1:9/net.pkl", "--offline")
    assert result.exit_code == 2
    assert "offline" in result.stderr
