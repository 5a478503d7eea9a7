"""The environment hook that makes whole command lines small for tests."""

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dnnlib.test_cuts import VARIABLE
from edm2_guidance.cli.command import Command, Group
from edm2_guidance.metrics.detectors import DETECTORS, find_spec, load_detector
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.scoring import open_reference, score


@click.group(cls=Group)
def main():
    pass


@main.command(name="gen")
@click.option("--num", type=int)
def gen(num):
    click.echo(f"num={num}")


@main.command(name="ref")
@click.option("--num", type=int)
def ref(num):
    click.echo(f"num={num}")


@click.command(cls=Command)
@click.option("--num_images", default=50000)
@click.option("--seeds", default=None, type=click.UNPROCESSED)
@click.option("--steps", default=32)
def images(**params):
    click.echo(" ".join(f"{name}={value}" for name, value in sorted(params.items())))


@click.command(cls=Command)
@click.option("--duration", type=int)
@click.option("--lr", type=float)
@click.option("--channels", default=192)
@click.pass_context
def train(context, **params):
    source = context.get_parameter_source("channels")
    click.echo(f"{params['duration']} {params['lr']} {params['channels']} {source.name}")


def run(command, *args):
    return CliRunner().invoke(command, list(args))


def test_off_unless_set(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert run(main, "gen").output == "num=None\n"
    assert run(images).output == "num_images=50000 seeds=None steps=32\n"
    assert run(train).output == "None None 192 DEFAULT\n"
    assert find_spec("fid") is DETECTORS["fid"]


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        (main, ["gen"], "num=4"),
        (main, ["gen", "--num=3"], "num=3"),
        (main, ["gen", "--num=9"], "num=4"),
        (main, ["ref"], "num=None"),
        (images, [], "num_images=4 seeds=None steps=32"),
        (images, ["--num_images=2"], "num_images=2 seeds=None steps=32"),
        (images, ["--seeds=abcdef"], "num_images=4 seeds=abcd steps=32"),
        (train, ["--duration=99999999", "--lr=0.5"], "1024 0.5 8 COMMANDLINE"),
    ],
)
def test_cuts_and_says_so_once(monkeypatch, command, args, expected):
    monkeypatch.setenv(VARIABLE, "4")
    result = run(command, *args)
    assert result.stdout == expected + "\n"
    assert result.stderr == (
        "warning: EDM2_TEST_CUTS=4 is set: image counts, training and detectors are cut for tests, "
        "results mean nothing\n"
    )


@pytest.mark.parametrize("value", ["yes", "1", "0", "-4", "2.5"])
def test_no_other_value_is_taken_for_on_or_off(monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    result = run(images)
    assert result.exit_code == 2
    assert f"EDM2_TEST_CUTS={value}" in result.stderr


def test_detectors_are_tiny_and_every_score_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, "4")
    assert find_spec("fd_mnist") is DETECTORS["fd_mnist"]
    detector = load_detector("fid")
    assert detector.feature_dim == find_spec("fid").feature_dim == find_spec("fd_dinov2").feature_dim == 32
    assert not detector.identity["published"]
    np.savez(tmp_path / "ref.npz", mu=np.zeros(32), sigma=np.eye(32))
    reference = open_reference(tmp_path / "ref.npz", ["fid"])
    ours = Moments(torch.ones(32).double(), torch.eye(32).double(), 50000)
    (result,) = score(reference, {"fid": ours}, {"fid": detector.identity}, {})
    assert "EDM2_TEST_CUTS=4 is set" in result.flags[0]
    monkeypatch.delenv(VARIABLE)
    (result,) = score(reference, {"fid": ours}, {"fid": detector.identity}, {})
    assert not any(VARIABLE in flag for flag in result.flags)
