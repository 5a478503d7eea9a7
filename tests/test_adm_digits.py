"""The ADM network of digits, guided by the classifier, through everything that any network goes through."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edm2_guidance.commands import calculate_metrics, generate_images, reproduce
from edm2_guidance.metrics import ledger
from tests.running import zip_by_three_workers_and_a_kill
from tests.words import last_of_each

LIST = "--schedule=timesteps:steps=4"  # in place of 50
GUIDED = ["--preset=adm-mnist16-g", LIST]


def run(command, *words, code=0):
    result = CliRunner().invoke(command, last_of_each(words))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_zip_by_three_workers_and_a_kill(monkeypatch):
    whole = zip_by_three_workers_and_a_kill(GUIDED, monkeypatch)
    assert "evaluations per image: 4 main + 4 classifier 1 (and back) = 8" in whole.stderr


def test_a_grid_of_scales_and_both_samplers():
    run(generate_images.main, *GUIDED, "--grid=scales.png", "--scales=0,8", "--seeds=0")
    plain = ["--preset=adm-mnist16", LIST, "--grid=plain.png", "--seeds=0"]
    run(generate_images.main, *plain, "--preset=adm-mnist16")
    scales = np.asarray(Image.open("scales.png").convert("L"))
    assert scales.std() > 20, "digits, black and white"
    run(generate_images.main, "--preset=adm-mnist16-g-ddim", LIST, "--outdir=ddim", "--seeds=0-1")
    run(generate_images.main, "--preset=adm-mnist16-ddim", LIST, "--outdir=unguided", "--seeds=0-1")
    guided, unguided = (np.asarray(Image.open(f"{name}/000000.png")).astype(int) for name in ("ddim", "unguided"))
    assert 1 < abs(guided - unguided).mean() < 100


def test_a_score_from_networks_is_found_again_and_a_search_goes_over_scales():
    words = ["--num=4", "--batch=4", "--ledger=l.jsonl"]
    score = ["gen", *GUIDED, "--ref=mnist16", "--metrics=fd_mnist", *words]
    run(calculate_metrics.main, *score)
    run(calculate_metrics.main, *score)
    (line,) = ledger.read("l.jsonl")
    assert "ddpm" in line["recipe"]["sampler"]
    search = ["search", *GUIDED, "--over=scale", "--scales=0,1,2", "--stride=1", "--blocks=1", *words]
    said = run(reproduce.main, *search)
    found = [each["search"]["point"]["scale"] for each in ledger.read("l.jsonl") if "search" in each]
    assert sorted(found) == [0, 1, 2]
    assert "scale" in said.stdout
