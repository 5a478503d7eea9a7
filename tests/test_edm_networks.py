"""Networks of EDM through everything that any network goes through: small ones, with random weights."""

import json
import os
import zipfile

import pytest

from edm2_guidance.commands import calculate_metrics, generate_images, generate_zip, network_tool
from edm2_guidance.images.decode import text_in_png
from edm2_guidance.images.picture_file import RECIPE_KEY
from edm2_guidance.images.zips import read_recipe
from edm2_guidance.metrics import ledger
from edm2_guidance.recipe.intervals import SigmaInterval
from edm2_guidance.recipe.parts import Schedule
from tests.edm_pickles import write_small
from tests.interruptions import terminated_at
from tests.running import pixels, run, zip_by_three_workers_and_a_kill


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    kinds = {
        "cond": ("EDMPrecond", {"label_dim": 10}),
        "uncond": ("EDMPrecond", {}),
        "ve": ("VEPrecond", {"label_dim": 10}),
        "iddpm": ("iDDPMPrecond", {"label_dim": 10}),
    }
    return {
        name: write_small(folder / f"{name}.pkl", kind, seed, **more)
        for seed, (name, (kind, more)) in enumerate(kinds.items())
    }


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_grid_of_weights_and_perturbed_attention(networks):
    words = [f"--network={networks['cond']}", "--seeds=0-1", "--steps=3"]
    run(generate_images.main, *words, f"--gnet={networks['uncond']}", "--weights=1,2", "--grid=weights.png")
    run(generate_images.main, *words, "--outdir=plain")
    run(generate_images.main, *words, "--reference=attention", "--guidance=3", "--outdir=perturbed")
    assert pixels("weights.png").std() > 10
    assert 0.1 < abs(pixels("plain/000000.png") - pixels("perturbed/000000.png")).mean() < 100


def test_a_zip_by_three_workers_and_a_kill(networks, monkeypatch):
    """Of a network for levels from 0.02 on, by EDM's own sampler: what is recorded is what all of them used."""
    words = [f"--network={networks['ve']}", "--sampler=heun-edm", "--S_churn=2", "--S_min=0.05", "--S_max=50"]
    said = zip_by_three_workers_and_a_kill([*words, "--dtype=float64", "--steps=3"], monkeypatch).stderr
    assert "ve.pkl is for noise levels from 0.02 to 100: the schedule is edm:sigma_min=0.02" in said
    recipe = read_recipe("whole.zip")["recipe"]
    assert (recipe["schedule"], recipe["dtype"]) == ("edm:sigma_min=0.02", "float64")
    again = run(generate_zip.main, "--recipe=whole.zip", f"--net={networks['ve']}", "--out=again.zip")
    assert "is for noise levels" not in again.stderr
    with zipfile.ZipFile("whole.zip") as ours, zipfile.ZipFile("again.zip") as theirs:
        assert ours.read("000005.png") == theirs.read("000005.png")


def test_a_score_from_networks_is_found_again(networks):
    words = ["gen", f"--network={networks['iddpm']}", "--steps=4", "--ref=mnist16", "--metrics=fd_mnist"]
    words += ["--num=4", "--batch=4", "--ledger=l.jsonl"]
    run(calculate_metrics.main, *words)
    said = run(calculate_metrics.main, *words).stderr
    assert "the result is in l.jsonl already" in said
    (line,) = ledger.read("l.jsonl")
    assert line["recipe"]["schedule"].startswith("edm:sigma_min=0.00642")


def test_a_folder_that_was_interrupted_goes_on(networks, monkeypatch):
    words = [f"--network={networks['cond']}", "--class=3", "--steps=3", "--batch=1", "--seeds=0-2"]
    with terminated_at(2, monkeypatch):
        run(generate_images.main, *words, "--outdir=parts", code=143)
    first = os.stat("parts/000000.png")
    run(generate_images.main, *words, "--outdir=parts")
    run(generate_images.main, *words, "--outdir=whole")
    for seed in range(3):
        assert (pixels(f"parts/{seed:06d}.png") == pixels(f"whole/{seed:06d}.png")).all()
    kept = os.stat("parts/000000.png")
    assert (kept.st_ino, kept.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


def figure(folder, *words):
    """The recipes of the pictures in a figure whose interval is of steps 17 to 22, of 32 down to 0.002."""
    said = run(generate_images.main, "--figs=fig8b", "--results-dir=results", *words).stderr
    assert "not of ImageNet: its 10 classes stand in" in said
    (path,) = (folder / "results").rglob("*.png")
    assert pixels(path).std() > 5
    return json.loads(text_in_png(path, RECIPE_KEY))["recipes"]


def test_a_figure(networks, tmp_path):
    recipes = figure(tmp_path, f"--network={networks['cond']}", f"--gnet={networks['uncond']}", "--steps=3")
    assert [recipe["guides"][0]["weight"] for recipe in recipes] == ["constant", "constant:w=3", "constant:w=5"]


@pytest.mark.slow
def test_the_interval_of_a_figure_is_of_the_levels_that_a_network_is_sampled_at(networks, tmp_path):
    recipes = figure(tmp_path, f"--network={networks['ve']}", f"--gnet={networks['uncond']}")
    steps, _ = SigmaInterval(0.1886, 1.609).steps(Schedule.parse("edm:sigma_min=0.02").levels(32))
    assert [recipe["guides"][0]["steps"] for recipe in recipes] == [[steps.first, steps.last]] * 3
    assert (steps.first, steps.last) != (17, 22)


def test_what_is_of_edm2s_networks_is_refused_in_words(networks):
    said = run(network_tool.main, "convert", networks["ve"], "--format=safetensors", code=2).stderr
    assert "ve.pkl is no network of EDM2: only those are written in another form" in said
    words = [f"--net={networks['iddpm']}", "--reference=attention", "--guidance=2", "--steps=2", "--outdir=out"]
    assert "iddpm.pkl has no layer for it" in run(generate_images.main, *words, code=2).stderr


def test_errors_are_measured_where_a_network_is_of_noise_levels(networks):
    run(generate_zip.main, f"--net={networks['ve']}", "--steps=1", "--num=2", "--out=a.zip")
    words = ["entropy", f"--net={networks['ve']}", "--data=a.zip", "--points=2"]
    note = "ve.pkl is for noise levels from 0.02 to 100: measure it there, by --sigma_min and --sigma_max"
    assert note in run(network_tool.main, *words, "--out=a.json").stderr
    assert note not in run(network_tool.main, *words, "--sigma_min=0.02", "--out=b.json").stderr
