"""Around on the command line: several at once, beside guides, through workers, resumed, and made again."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from edm2_guidance.commands import generate_images, generate_zip
from edm2_guidance.sampling.generation import GeneratedImages
from edm2_guidance.work.again import read_recipe


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """In a folder of its own, with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    yield
    torch.set_num_threads(threads)


def run(command, *args, code=0):
    done = CliRunner().invoke(command, [str(each) for each in args])
    assert done.exit_code == code, done.output
    return done


def guided(networks, *more):
    return [
        f"--net={networks['cond']}", f"--gnet={networks['weak']}", "--guidance=1.8", "--steps=6", "--num-images=5",
        "--shard-size=2", "--batch=2", *more,
    ]  # fmt: skip


def test_a_composition_by_three_workers_with_a_kill(tiny_networks, monkeypatch):
    args = guided(tiny_networks, "--guidance-sigma=0.05,20", "--rule=fdg:low=2", "--around=cads,erk:w_con=0.1")
    run(generate_zip.main, *args, "--out=one.zip")
    monkeypatch.setenv("WORLD_SIZE", "3")
    for worker in (1, 0, 0, 2):
        monkeypatch.setenv("RANK", str(worker))
        with monkeypatch.context() as patch:
            if worker == 1:  # it dies in its first batch
                patch.setattr(GeneratedImages, "_make", lambda self, seeds: 1 / 0)
                assert CliRunner().invoke(generate_zip.main, [*args, "--out=many.zip"]).exit_code != 0
                continue
            run(generate_zip.main, *args, "--out=many.zip")
    monkeypatch.setenv("RANK", "1")
    run(generate_zip.main, *args, "--out=many.zip")
    assert Path("many.zip").read_bytes() == Path("one.zip").read_bytes()
    with zipfile.ZipFile("one.zip") as file:
        stored = json.loads(file.read("recipe.json"))
    assert stored["recipe"]["around"] == ["erk:w_con=0.1", "cads"]


def test_legs_are_made_again(tiny_networks):
    here = {name: shutil.copy(path, path.name) for name, path in tiny_networks.items()}
    args = guided(here, "--guidance-sigma=0.05,20", "--around=restart,higs")
    run(generate_zip.main, *args, "--out=one.zip")
    run(generate_zip.main, "--recipe=one.zip", "--out=two.zip")
    assert Path("one.zip").read_bytes() == Path("two.zip").read_bytes()
    run(generate_zip.main, "--recipe=one.zip", "--around=none", "--guidance-sigma=None", "--out=three.zip")
    assert read_recipe("three.zip").around == ()
    assert Path("one.zip").read_bytes() != Path("three.zip").read_bytes()


def test_refusals_are_one_line(tiny_networks):
    net = f"--net={tiny_networks['cond']}"
    done = run(generate_images.main, net, "--sampler=unipc", "--around=erk", "--outdir=out", code=2)
    assert "erk compares two values of D in a step" in done.stderr
    net = f"--net={tiny_networks['uncond']}"
    done = run(generate_images.main, net, "--around=cads", "--outdir=out", code=2)
    assert "cads is of images with classes, and these are made without" in done.stderr
