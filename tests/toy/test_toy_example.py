"""toy_example.py: what it writes, what it refuses, and that the shipped networks show what the paper says."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from edm2_guidance.commands import toy_example
from edm2_guidance.papers import gallery
from edm2_guidance.toy import methods, plots
from edm2_guidance.toy.distribution import fractal
from edm2_guidance.toy.methods import Networks
from edm2_guidance.toy.network_io import load_model

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ["train", "--layers=1", "--dim=8", "--iterations=3", "--batch=8", "--device=cpu"]


@pytest.fixture
def tool():
    return toy_example


@pytest.fixture
def run(tool, tmp_path, monkeypatch):
    def invoke(*arguments):
        monkeypatch.chdir(tmp_path)
        return CliRunner().invoke(tool.main, [str(argument) for argument in arguments])

    return invoke


def test_training_writes_networks_once(run, tmp_path):
    done = run(*TRAIN, "--outdir=run", "--viz=false")
    assert done.exit_code == 0, done.output
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["iter0003.pkl"]
    assert load_model(tmp_path / "run" / "iter0003.pkl").layers[0].weight.shape == (8, 4)
    again = run(*TRAIN, "--outdir=run", "--viz=false")
    assert again.exit_code == 2
    assert "run holds networks already" in again.output


def test_training_without_a_folder_writes_nothing(run, tmp_path):
    done = run(*TRAIN)
    assert done.exit_code == 0, done.output
    assert "iteration    3  loss" in done.output
    assert not list(tmp_path.iterdir())


def test_training_draws_beside_its_networks(run, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("edm2_guidance.toy.plots._PIXELS", 24)
    monkeypatch.setattr("edm2_guidance.toy.plots.DPI", 20)
    monkeypatch.setattr("edm2_guidance.toy.plots.NUM_STARTS", 32)
    done = run(*TRAIN, "--outdir=run")
    assert done.exit_code == 0, done.output
    assert sorted(path.suffix for path in (tmp_path / "run").iterdir()) == [".pkl", ".png"]


def test_bad_input_ends_before_any_work(run, tmp_path):
    for arguments, message in (
        (["plot", "--shipped", "--save=a.gif"], "a.gif: give a name that ends in .png"),
        (["plot", "--net=nowhere.pkl", "--gnet=nowhere.pkl"], "nowhere.pkl"),
        (["score", "--gnet=nowhere.pkl"], "nowhere.pkl"),
        (["train", "--outdir=file/run"], "file"),
    ):
        (tmp_path / "file").write_text("")
        done = run(*arguments)
        assert (done.exit_code, message in done.output) == (2, True), done.output


def test_a_plot_has_a_name_of_its_own(run, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("edm2_guidance.toy.plots.draw", lambda name, figure, nets, cfg, guidance: None)
    done = run("plot", "--shipped", "--figure=fig2")
    assert done.exit_code == 0, done.output
    assert done.output.strip() == "out/toy-fig2.png"
    assert (tmp_path / "out" / "toy-fig2.png").exists()


def test_scores_are_printed_and_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr("edm2_guidance.toy.one_dim.NUM_STEPS", 8)
    done = run("score", "--example=1d", "--seeds=0-1", "--num=100", "--save=scores.json")
    assert done.exit_code == 0, done.output
    assert "| everywhere |" in done.output
    written = json.loads((tmp_path / "scores.json").read_text())
    assert (written["num"], written["seeds"]) == (100, [0, 1])
    assert len(written["scores"]["unguided"]) == 2


def test_kinds_are_scored_beside_those_that_points_cannot_have(run, monkeypatch):
    monkeypatch.setattr("edm2_guidance.papers.gallery.POINT_STEPS", 2)
    entries = [each for each in gallery.entries() if each.kind in ("apg", "fdg", "euler")]
    monkeypatch.setattr(gallery, "entries", lambda: tuple(entries))
    done = run("score", "--example=kinds", "--seeds=0", "--num=100")
    assert done.exit_code == 0, done.output
    names = [line.split(" | ")[0] for line in done.output.splitlines() if line.startswith("| ")]
    assert names == ["| method", "| truth", "| unguided", "| apg", "| fdg"]
    assert "| fdg | not on points: points have no frequencies |" in done.output


@pytest.mark.parametrize("example", ["kinds", "solvers"])
def test_the_page_has_the_rows_that_the_command_prints(example):
    """Not their numbers, which take minutes."""
    page = (ROOT / "docs" / "toy.md").read_text(encoding="utf-8")
    (table,) = re.findall(rf"^`python toy_example.py score --example={example} .*\n\n((?:\|.*\n)+)", page, re.M)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    titles, others = [each.title for each in toy_example.of_name(example)], toy_example.of_name(example, lacking=True)
    lacking = {each.title: f"not on points: {each.not_on_points}" for each in others}
    assert [row[0] for row in rows] == ["truth", "unguided", *titles, *lacking]
    assert {row[0]: row[1] for row in rows if row[1].startswith("not")} == lacking


def test_kinds_are_drawn(run, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    for name, value in {"NUM_SAMPLES": 64, "NUM_PATHS": 4, "_PIXELS": 24, "DPI": 20}.items():
        monkeypatch.setattr(plots, name, value)
    monkeypatch.setattr("edm2_guidance.papers.gallery.FEW_STEPS", 2)
    entries = [each for each in gallery.entries() if each.kind in ("apg", "euler")]
    monkeypatch.setattr(gallery, "entries", lambda: tuple(entries))
    drawn = []
    monkeypatch.setattr(plots, "draw_recipe", lambda above, below, title, recipe: drawn.append(title))
    done = run("plot", "--shipped", "--figure=solvers")
    assert done.exit_code == 0, done.output
    assert drawn == ["unguided", "euler"]
    assert (tmp_path / "out" / "toy-solvers.png").exists()
    refused = run("plot", "--shipped", "--figure=solvers", "--cfg=2")
    assert (refused.exit_code, "solvers have weights of their own" in refused.output) == (2, True), refused.output


def test_shipped_networks_show_what_the_paper_says():
    """Without guidance most outliers; CFG and truncation lose branches that autoguidance keeps."""
    folder = ROOT / "edm2_guidance" / "pretrained" / "toy"
    nets = Networks(*(load_model(folder / f"{name}.pkl") for name in ("main", "weak", "unconditional")))
    truth, points = fractal("A"), {name: draw(600, 0) for name, draw in methods.samplers(nets).items()}
    level = truth.contour_level(0.99, 4096)
    inside = {name: truth.log_density(x) >= level for name, x in points.items()}
    reached = {name: len(truth.nearest_branch(x[inside[name]]).unique()) for name, x in points.items()}
    assert inside["autoguidance"].float().mean() > inside["unguided"].float().mean()
    assert reached["autoguidance"] > reached["CFG"] > reached["truncation"]
