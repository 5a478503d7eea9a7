"""count_flops.py: what it counts and prints, and how it ends."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from dnnlib.places import EMBEDDED
from dnnlib.published import PUBLISHED
from edm2_guidance.commands import count_flops
from edm2_guidance.papers.costs import all_networks


def run(*arguments):
    return CliRunner().invoke(count_flops.main, [str(argument) for argument in arguments])


def test_size_by_name():
    result = run("mnist16-weak")
    assert result.exit_code == 0, result.output
    assert "parameters  45,859\n" in result.stdout
    assert "Gflops      0.005341\n" in result.stdout
    of_file = run(EMBEDDED / "mnist16-weak.pkl").stdout
    assert of_file.splitlines()[1:] == result.stdout.splitlines()[1:]


def test_a_file_that_ships_comes_before_a_preset_of_its_name():
    assert "parameters  325,834\n" in run("mnist16-classifier").stdout
    assert "parameters  181,691\n" in run("mnist16-cfg").stdout


def test_published_networks_of_adm_need_no_file():
    report = json.loads(run("adm-64-classifier", "--json").stdout)
    assert report["parameters"] == all_networks()["64x64_classifier"].params
    assert report["gflops"] == pytest.approx(all_networks()["64x64_classifier"].gflops, rel=1e-5)


@pytest.mark.slow
def test_gflops_of_all_networks_of_adm():
    """arXiv 2212.09748, Table 4, prints 1120 Gflops for ADM, and 742 for ADM-U, which is two networks."""
    names = {Path(url).stem: name for name, (url, _) in PUBLISHED.items()}
    for stem in (
        stem for stem in all_networks() if stem.endswith(("_diffusion", "_classifier", "_upsampler", "uncond"))
    ):
        if stem in names:
            report = json.loads(run(names[stem], "--json").stdout)
            assert report["gflops"] == pytest.approx(all_networks()[stem].gflops, rel=1e-5), stem
    assert round(all_networks()["256x256_diffusion"].gflops) == 1120
    assert round(all_networks()["64x64_diffusion"].gflops + all_networks()["64_256_upsampler"].gflops) == 741


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


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "net.pkl").touch()
    result = run(tmp_path / "net.pkl")
    assert result.exit_code == 2
    assert f"{tmp_path / 'net.pkl'}: the file is empty" in result.stderr
