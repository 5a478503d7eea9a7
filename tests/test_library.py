"""The library as docs/api.md promises it: the same images and scores as the commands, and nothing said unasked."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

import edm2_guidance as eg
from edm2_guidance.commands import calculate_metrics, generate_zip
from edm2_guidance.images.sources import StoredImages
from edm2_guidance.metrics import ledger
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.parts import Sampler, Weight

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def main():
    return eg.open_model("mnist16-cond")


def recipe_of(main, **fields):
    return eg.Recipe(main, eg.Guide("mnist16-weak", 1.5, (0, 1)), num_steps=3, **fields)


@pytest.fixture(scope="module")
def images(main):
    return eg.generate(recipe_of(main), 6)


def test_importing_it_loads_no_torch():
    code = "import sys, edm2_guidance as eg; eg.Recipe('a', eg.Guide('b', 2)); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_page_names_what_is_there():
    text = (ROOT / "docs" / "api.md").read_text()
    named = set(
        re.findall(r"`(\w+)[(`]", "\n".join(line.split("|")[1] for line in text.splitlines() if line[:3] == "| `"))
    )
    assert named == set(eg.__all__)
    for name in eg.__all__:
        assert getattr(eg, name).__doc__
    assert set(eg.__all__) <= set(dir(eg))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = eg.nothing


def test_texts_and_numbers_stand_for_parts():
    plain = eg.Recipe(
        "a.pkl", [eg.Guide("b.pkl", 2, (1, 2)), eg.Guide("c.pkl", "cosine:w=3")], sampler="heun:S_churn=40"
    )
    spelled = eg.Recipe(
        NetworkRef("a.pkl"),
        (
            eg.Guide(NetworkRef("b.pkl"), Weight.parse("constant:w=2"), eg.StepInterval(1, 2)),
            eg.Guide(NetworkRef("c.pkl"), Weight.parse("cosine:w=3")),
        ),
        sampler=Sampler.parse("heun:S_churn=40"),
    )
    assert plain == spelled
    assert plain.hash == spelled.hash


def test_numbers_of_numpy_are_numbers():
    plain = eg.Recipe("a", eg.Guide("b", 2), num_steps=3, labels=1)
    of_numpy = eg.Recipe("a", eg.Guide("b", np.int64(2)), num_steps=np.int32(3), labels=np.uint8(1))
    assert plain == of_numpy
    assert json.dumps(plain.to_json()) == json.dumps(of_numpy.to_json())
    assert eg.Guide("b", np.float32(1.5)) == eg.Guide("b", 1.5)


def test_a_classifier_by_its_name_is_of_the_form_of_the_sampler():
    posterior, plain = (eg.classifier_guide("c.pt", 2, sampler) for sampler in ("ddpm", "heun"))
    assert (posterior.weight.kind, plain.weight.kind) == ("posterior", "constant")
    assert posterior.scale == plain.scale == 2
    assert plain.of_classifier


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: eg.Guide("a", 2, (0.5, 2.0)), r"SigmaInterval\(LO, HI\)"),
        (lambda: eg.Guide("a", "cosin"), "cosine"),
        (lambda: eg.Recipe("a", sampler="huen"), "heun"),
        (lambda: eg.generate(eg.Recipe("mnist16-cond"), []), "no seeds"),
        (lambda: eg.generate(eg.Recipe("mnist16-cond"), [1.5]), "seeds are integers"),
        (lambda: eg.generate(eg.Recipe("mnist16-cond"), [3, -1]), "seed -1: at least 0"),
        (lambda: eg.generate(eg.Recipe("mnist16-cond"), [2**32]), "seed 4294967296: at most 4294967295"),
        (lambda: eg.generate(eg.Recipe("mnist16-cond"), 2, batch=0), "batch=0: give an integer of at least 1"),
        (lambda: eg.generate_zip(eg.Recipe("mnist16-cond"), 2, "a.zip", batch=1.5), "batch=1.5: give an integer"),
        (lambda: eg.generate_zip(eg.Recipe("mnist16-cond"), 2, "a.zip", shard_size=None), "shard_size=None: give an"),
        (lambda: eg.score(eg.Recipe("mnist16-cond"), "mnist16", num=1), "num=1: give an integer of at least 2"),
        (lambda: eg.score(eg.Recipe("mnist16-cond"), "mnist16", num=2, seed=-1), "seed -1: at least 0"),
        (lambda: eg.score("mnist16-test-500", eg.Recipe("a")), "a reference is a name or a path, no Recipe"),
        (lambda: eg.score("mnist16-test-500", "mnist16", []), "no metrics: name some"),
        (lambda: eg.score(torch.zeros(2, 3, 16, 16), "mnist16", "fd_mnist"), r"tensor.* is no recipe"),
        (lambda: eg.decode(eg.Recipe("mnist16-cond"), torch.zeros(1, 3, 16, 16)), "a Tensor is no Latents"),
        (lambda: eg.generate("mnist16-cond", 1), r"'mnist16-cond' is no recipe: write Recipe\(NETWORK\)"),
        (
            lambda: eg.Recipe("mnist16-cond", "mnist16-weak"),
            r"'mnist16-weak' is no guide: write Guide\(NETWORK, WEIGHT\)",
        ),
        (lambda: eg.Recipe(3), "3 is no network"),
        (lambda: eg.Recipe("mnist16-cond", num_steps="many"), "'many' sampling steps"),
        (lambda: eg.Guide("a", None), "None is no weight: give a number, a function or a text"),
        (lambda: eg.Recipe("a", rule=None), "None is no rule: give a function or a text such as 'linear'"),
        (lambda: eg.Recipe("a", sampler=3), "3 is no sampler: give a text such as 'heun'"),
        (lambda: eg.Recipe("a", dtype="float16"), "dtype=float16: one of float32, float64"),
        (lambda: eg.Recipe("a", seed_rule="edm"), "seed_rule=edm: one of edm2, figure"),
        (lambda: eg.Recipe("a", labels=[1, 2]), "write random, balanced, none or a class"),
        (lambda: eg.Recipe("a", labels=None), "write random, balanced, none or a class"),
        (lambda: eg.Recipe("a", labels=True), "write random, balanced, none or a class"),
        (lambda: eg.score(eg.Recipe("mnist16-cond"), "mnist16"), "give num="),
        (lambda: eg.score("mnist16-test-500", "mnist16", "fd_mnits"), "fd_mnist"),
    ],
)
def test_mistakes_are_value_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_an_open_network_is_the_named_one(main, images):
    assert torch.equal(eg.generate(recipe_of("mnist16-cond"), 6).images, images.images)
    opened = eg.open_recipe(recipe_of(main))
    assert opened.main is main
    assert opened.recipe.hash == eg.open_recipe(recipe_of("mnist16-cond")).recipe.hash
    alone = eg.generate(opened, [4, 1], batch=1)
    assert alone.seeds == (4, 1)
    assert (alone.images.int() - images.select([4, 1]).images.int()).abs().max() <= 2  # of another batch, last bits


def test_networks_and_classifiers_are_not_taken_for_each_other(main):
    classifier = eg.open_classifier("mnist16-classifier")
    for recipe in (eg.Recipe(classifier), eg.Recipe(main, eg.Guide(classifier, 2))):
        with pytest.raises(ValueError, match=r"mnist16-classifier is a classifier: classifier_guide"):
            eg.generate(recipe, 1)
    with pytest.raises(ValueError, match=r"mnist16-cond is no classifier: Guide\(NETWORK, WEIGHT\)"):
        eg.generate(eg.Recipe(main, eg.classifier_guide(main, 1, "heun")), 1)


def test_seeds_are_any_integers(main):
    recipe = eg.Recipe(main, num_steps=1)
    for seeds in (np.int64(2), range(2), np.arange(2), torch.arange(2), (n for n in (0, 1))):
        assert eg.generate(recipe, seeds, batch=np.int64(2)).seeds == (0, 1)


def test_networks_on_two_devices_are_refused(main, monkeypatch):
    other = eg.open_model("mnist16-weak")
    monkeypatch.setattr(other, "device", torch.device("meta"))
    with pytest.raises(ValueError, match="mnist16-weak was opened on meta"):
        eg.generate(eg.Recipe(main, eg.Guide(other, 2)), 2)


def test_zips_are_those_of_the_command(main, images, tmp_path, capfd):
    path = eg.generate_zip(recipe_of(main), 6, tmp_path / "ours.zip", shard_size=6)
    assert capfd.readouterr() == ("", "")
    (stored,) = StoredImages(path)
    assert torch.equal(stored.images, images.images)
    assert (stored.seeds, stored.labels) == (images.seeds, images.labels)
    generate_zip.main(
        [
            "--net=mnist16-cond", "--gnet=mnist16-weak", "--guidance=1.5", "--guidance-interval=0,1",
            "--steps=3", "--num=6", "--batch=64", f"--out={tmp_path / 'theirs.zip'}", "--shard-size=6",
        ],
        standalone_mode=False,
    )  # fmt: skip
    assert path.read_bytes() == (tmp_path / "theirs.zip").read_bytes()
    assert eg.generate_zip(recipe_of(main), 6, path, shard_size=6) == path


def test_scores_are_those_of_the_command(main, images, tmp_path, capfd):
    path = eg.generate_zip(recipe_of(main), 6, tmp_path / "a.zip")
    found = eg.score(path, "mnist16", ledger=tmp_path / "ours.jsonl", note="mine")
    assert capfd.readouterr() == ("", "")
    calculate_metrics.main(
        ["calc", str(path), "mnist16", f"--ledger={tmp_path / 'theirs.jsonl'}", "--note=mine"], standalone_mode=False
    )
    (ours,), (theirs,) = (ledger.read(tmp_path / f"{name}.jsonl") for name in ("ours", "theirs"))
    kept = {key for key in ours if key != "time"}
    assert {key: ours[key] for key in kept - {"flags"}} == {key: theirs[key] for key in kept - {"flags"}}
    assert list(found) == ["fd_mnist"]
    for other in (
        eg.score(images, "mnist16", "fd_mnist"),
        eg.score(recipe_of(main), "mnist16", ["fd_mnist"], num=6),
        eg.score(images, "mnist16", num=6),
    ):
        assert other["fd_mnist"].value == pytest.approx(found["fd_mnist"].value, rel=1e-6)
    assert str(found["fd_mnist"]).startswith("fd_mnist@6 ")
    assert any("singular" in flag for flag in found["fd_mnist"].flags)


def test_a_command_finds_the_score_of_a_recipe(main, tmp_path, capfd):
    scores = tmp_path / "scores.jsonl"
    eg.score(recipe_of(main), "mnist16", num=6, ledger=scores, progress=True)
    assert "6/6" in capfd.readouterr().err
    before = scores.read_bytes()
    calculate_metrics.main(
        [
            "gen", "--net=mnist16-cond", "--gnet=mnist16-weak", "--guidance=1.5", "--guidance-interval=0,1",
            "--steps=3", "--ref=mnist16", "--num=6", f"--ledger={scores}", f"--workdir={tmp_path}",
        ],
        standalone_mode=False,
    )  # fmt: skip
    assert scores.read_bytes() == before
    assert "already" in capfd.readouterr().err


def test_batches_are_pictures(images):
    assert [image.size for image in images.pil()] == [(16, 16)] * 6
    assert images.grid(columns=4, tile_size=16).size == images.select([0, 1, 2, 3, 4]).grid(4, 16).size
    assert isinstance(images.grid(), Image.Image)
    assert images._repr_png_().startswith(b"\x89PNG")
    both = eg.ImageBatch.joined([images, images.select([2])])
    assert both.seeds == (0, 1, 2, 3, 4, 5, 2)
    assert torch.equal(both.images[6], images.images[2])
    assert eg.ImageBatch.joined([images, eg.ImageBatch(images.images)]).seeds is None


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.name, marks=[] if path.name == "sample_and_show.py" else pytest.mark.slow)
        for path in sorted((ROOT / "examples").glob("*.py"))
    ],
)
def test_examples_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert capsys.readouterr().out.count("\n") >= 2
    assert len((ROOT / "examples" / name).read_text().splitlines()) < 40
    assert list(tmp_path.iterdir()) or name == "own_rule.py"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.read(ROOT / "examples" / "digits.ipynb", as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in book.cells)  # kept without
    NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in book.cells for output in cell.get("outputs", ())]
    assert [output.output_type for output in shown] == ["display_data"] * 3 + ["execute_result"]
    assert all("image/png" in output.data for output in shown[:3])
    assert "fd_mnist@100" in shown[3].data["text/plain"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
def test_pages_show_what_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    known = {}
    for number, block in enumerate(re.findall(r"```python\n(.+?)```", (ROOT / page).read_text(), re.DOTALL)):
        source = tmp_path / f"{number}.py"  # a rule is known by its file
        source.write_text(block)
        exec(compile(block, source, "exec"), known)
    if page.endswith("api.md"):
        assert len(eg.generate(known["recipe"], 1)) == 1
    assert capsys.readouterr().out.startswith("fd_mnist@100 ")
    assert Image.open("digits.png").size[0] > 200
