"""Work that the version before began: half of each is there, as its worker 0 of 2 left it, with recipes of format 1."""

import json
import zipfile
from itertools import chain
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from edm2_guidance.commands import calculate_metrics, generate_images, generate_zip, reproduce
from edm2_guidance.metrics import ledger
from edm2_guidance.sampling.generation import GeneratedImages

DATA = Path(__file__).resolve().parents[1] / "data" / "begun-before.zip"
SEEDS = [f"{seed:06d}.png" for seed in range(6)]
COMMON = ["--net=mnist16-weak", "--steps=2", "--batch=2", "--device=cpu"]
ROW = ["run", "mnist16-unguided", "--num=6", "--blocks=1", "--batch=2", "--shard-size=2", "--device=cpu"]
GEN = ["gen", *COMMON, "--metrics=fd_mnist", "--ref=mnist16", "--num=6", "--shard-size=2"]


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """The current folder, with what was captured: seeds 0, 1, 4 and 5 of six."""
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(DATA) as file:
        file.extractall(tmp_path)
    Path("row-scores").rename(Path("results", "work"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def made(monkeypatch):
    """The seeds that are sampled."""
    batches, plain = [], GeneratedImages._make
    monkeypatch.setattr(GeneratedImages, "_make", lambda self, seeds: batches.append(seeds) or plain(self, seeds))
    return batches


def run(command, *args):
    result = CliRunner().invoke(command, args)
    assert result.exit_code == 0, result.output
    return result


def members(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_a_zip_goes_on(begun, made):
    before = members("a.zip.shards/shard-00000.zip") | members("a.zip.shards/shard-00002.zip")
    run(generate_zip.main, *COMMON, "--num_images=6", "--shard-size=2", "--out=a.zip")
    assert list(chain(*made)) == [2, 3]
    after = members("a.zip")
    assert list(after) == [*SEEDS, "dataset.json", "recipe.json"]
    assert all(after[name] == data for name, data in before.items() if name.endswith(".png"))
    assert not Path("a.zip.shards").exists()
    assert "finished before" in run(generate_zip.main, *COMMON, "--num_images=6", "--out=a.zip").stdout


def test_a_folder_goes_on(begun, made):
    before = {path.name: path.read_bytes() for path in Path("png").glob("*.png")}
    assert "2 images in png" in run(generate_images.main, *COMMON, "--seeds=0-5", "--outdir=png").stdout
    assert list(chain(*made)) == [2, 3]
    after = {path.name: path.read_bytes() for path in Path("png").iterdir()}
    assert sorted(after) == [*SEEDS, "recipe.json"]
    assert before.items() <= after.items()


def score_of(path):
    (record,) = ledger.read(path)
    return record["value"], record["images"]["num_images"]


@pytest.mark.parametrize(
    ("command", "arguments", "folder"),
    [(calculate_metrics.main, GEN, "work"), (reproduce.main, ROW, "results/work")],
)
def test_a_score_goes_on(begun, made, command, arguments, folder):
    at = "--workdir" if command is calculate_metrics.main else "--results"
    run(command, *arguments, f"{at}={Path(folder) if at == '--workdir' else 'results'}", "--ledger=l.jsonl")
    assert list(chain(*made)) == [2, 3]
    assert not list(Path(folder).iterdir())
    run(command, *arguments, f"{at}=anew", "--ledger=anew.jsonl")
    assert score_of("l.jsonl") == pytest.approx(score_of("anew.jsonl"), rel=1e-3)


def test_kept_images_go_on(begun, made):
    """Their shards hold no features: the ZIP is scored once it is there."""
    (folder,) = Path("results/images").iterdir()
    run(reproduce.main, *ROW, "--results=results", "--ledger=l.jsonl", "--keep-images")
    assert list(chain(*made)) == [2, 3]
    (path,) = Path("results/images").iterdir()
    assert path.name == folder.name.removesuffix(".shards")
    assert list(members(path))[:6] == SEEDS
    run(reproduce.main, *ROW, "--results=anew", "--ledger=anew.jsonl")
    assert score_of("l.jsonl") == pytest.approx(score_of("anew.jsonl"), rel=1e-3)
    assert json.loads(members(path)["recipe.json"])["seeds"] == "0-5"
