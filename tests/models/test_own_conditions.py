"""Prompts as the classes of a network: the one of examples/own_conditions.py, exact, and through the commands."""

import dataclasses
import io
import json
import math
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import edm2_guidance as eg
from edm2_guidance.commands import calculate_metrics, generate_images, generate_zip
from edm2_guidance.models import open_model
from edm2_guidance.recipe.files import ImageSet, NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.stored import read_recipe
from edm2_guidance.sampling import seeds as seeding
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.opening import open_recipe, opener
from tests.functions import shrinks

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_conditions.py"
BLOBS = f"{EXAMPLE}:make"
STD = 0.1
PLACES = [(0.3, -0.2), (-0.5, 0.5), (0.0, 0.1)]  # x, y
TEXTS = [f"x={x} y={y}" for x, y in PLACES]


def blob(x, y):
    """The picture without noise, [32, 32], float64."""
    rows, columns = np.mgrid[-1:1:32j, -1:1:32j]
    return torch.tensor(2 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 0.05) - 1)


def exact(seeds, num_steps=24):
    """Samples of the texts that say all: Gaussians of mean `blob` and standard deviation STD."""
    _, noise, _ = seeding.start(seeds, (3, 32, 32), 0, "none")
    means = torch.stack([blob(*PLACES[seed % 3]) for seed in seeds])[:, None]
    return means + (80 * noise.double() - means) * shrinks(num_steps, STD)


def run(command, *args, code=0):
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def with_texts(*texts, **more):
    return Recipe(NetworkRef(BLOBS), prompts=texts, noise_device="cpu", **more)


# ----------------------------------------------------------------------------
# The example, against its exact answers.


def test_a_text_that_says_half_is_a_mixture():
    """D is the mean of all blobs at x = 0.3, weighed by how likely x is from each."""
    model = open_model(BLOBS).prompted(["x=0.3", ""])
    noisy, sigma = blob(0.3, 0.2) + 0.5 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0)), 0.5
    total = STD**2 + sigma**2
    spots = [-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6]
    likely, parts = [], []
    for y in spots:
        mean = blob(0.3, y).expand(3, -1, -1)
        likely.append(math.exp(-float(((noisy - mean) ** 2).sum()) / (2 * total) + 1500))
        parts.append((STD**2 * noisy + sigma**2 * mean) / total)
    wanted = sum(weight * part for weight, part in zip(likely, parts, strict=True)) / sum(likely)
    made = model.predict(noisy[None], torch.tensor(sigma).double(), model.conditions([0], torch.device("cpu")))
    assert (made.denoised[0] - wanted).abs().max() < 1e-5
    y = [model.conditions(labels, torch.device("cpu")) for labels in ([1], None)]
    assert torch.equal(*y), "nothing said is no prompt"


def test_samples_are_the_exact_ones_by_seed():
    generation = open_recipe(with_texts(*TEXTS, num_steps=24, dtype="float64"), "cpu")
    made, labels = sample(generation, [0, 1, 5])
    assert labels == [0, 1, 2]
    assert (made - exact([0, 1, 5])).abs().max() < 1e-5
    alone, _ = sample(open_recipe(with_texts(TEXTS[2], num_steps=24, dtype="float64"), "cpu"), [5])
    assert (alone - made[2:]).abs().max() < 1e-9, "other prompts and batches change nothing"


def test_in_python_and_by_number():
    blobs = eg.open_model(BLOBS)
    batch = eg.generate(eg.Recipe(blobs, prompts=TEXTS, num_steps=3), [4, 0])
    assert batch.labels == (1, 0)
    assert eg.generate(eg.Recipe(blobs, prompts=TEXTS, num_steps=3, labels=2), 2).labels == (2, 2)
    none = eg.generate(eg.Recipe(blobs, prompts=TEXTS, num_steps=3, labels="none"), 1)
    assert none.labels is None
    assert torch.equal(none.images, eg.generate(eg.Recipe(blobs, prompts=[""], num_steps=3), 1).images)
    assert (blobs.prompts, blobs.num_classes) == ((), 0), "it is left as it was"


# ----------------------------------------------------------------------------
# What a network of one's own gets, and what is refused.


class Said:
    """Takes what is said as it is."""

    shape, takes_prompts = (3, 8, 8), True

    def __init__(self, **more):
        self.__dict__.update(more)

    def predict(self, x, sigma, y):
        return x * (0 if y is None else len(y[0]) / 100)


class Classes:
    shape, num_classes = (3, 8, 8), 2

    def predict(self, x, sigma, y):
        return x * 0


def test_without_conditions_of_its_own_it_gets_the_texts():
    model = open_recipe(Recipe(Said(), prompts=["four", ""]), "cpu").main
    assert model.conditions([1, 0, 0], torch.device("cpu")) == ["", "four", "four"]
    assert model.conditions(None, torch.device("cpu")) is None
    assert (model.class_names, model.num_classes) == (("four", ""), 2)


def test_guides_that_take_prompts_get_them_and_others_run_without():
    plain = type("Plain", (), {"shape": (3, 8, 8), "predict": lambda self, x, sigma, y: x * (y is not None)})()
    open_ = opener("cpu")
    told = open_(Recipe(Said(), [Guide(Said(), 2.0), Guide(plain, 2.0)], 2, prompts=["ab"]))
    assert [guide.prompts for guide in told.guides] == [("ab",), ()]
    sample(told, [0])


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (lambda: Recipe(Said()), r"Said draws what prompts say: give --prompt=TEXT, or --prompts=FILE"),
        (lambda: Recipe(Classes(), prompts="a"), r"Classes takes no prompts: leave them out, or name a network"),
        (lambda: Recipe("mnist16-uncond", prompts="a"), "takes no prompts"),
        (lambda: Recipe(Said(), Guide(Classes(), 2.0), prompts="a"), "Said takes prompts, and Classes has 2 classes"),
        (lambda: Recipe(Classes(), Guide(Said(), 2.0)), "Said takes prompts, and Classes has 2 classes"),
        (lambda: Recipe(Said(num_classes=3), prompts="a"), "takes prompts and has 3 classes: prompts are its classes"),
        (lambda: Recipe(Said(), prompts={"count": 3, "sha256": "0" * 64}), "3 prompts, of which it keeps the hash"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(recipe, says):
    with pytest.raises(ValueError, match=says):
        open_recipe(recipe(), "cpu")


class Enlarges:
    """D is a share of x, by the length of what is said, or 0; enlarges images of 8x8."""

    shape, low_res_size = (3, 16, 16), 8

    def __init__(self, takes_prompts):
        self.takes_prompts = takes_prompts

    def conditions(self, texts, device, low_res):
        return texts if self.takes_prompts else None

    def predict(self, x, sigma, y):
        return x * 0 + (0 if y is None else torch.tensor([len(text) / 10 for text in y]).view(-1, 1, 1, 1))


class EnlargesMore(Enlarges):
    shape, low_res_size = (3, 32, 32), 16


def test_two_stages_are_told_the_same(tmp_path):
    texts = ["abc", "", "abcdef"]
    for takes in (True, False):
        base = Recipe(Said(), num_steps=1)
        opened = open_recipe(Recipe(Enlarges(takes), num_steps=2, prompts=texts, base=base), "cpu")
        assert opened.base.main.prompts == tuple(texts)
        (batch,) = opened.images([2, 3], 2)
        assert batch.labels == (2, 0)
        levels_made = batch.images.float().mean((1, 2, 3)).tolist()
        assert levels_made == pytest.approx([204.3, 165.7] if takes else [127.5, 127.5], abs=1)
    stored = tmp_path / "small.zip"
    eg.generate_zip(Recipe(Said(), num_steps=1, prompts=texts), 4, stored)
    enlarged = eg.generate(Recipe(Enlarges(True), num_steps=2, prompts=texts, base=ImageSet(str(stored))), 4)
    assert enlarged.labels == (0, 1, 2, 0)
    with pytest.raises(ValueError, match=r"has images of 3 classes, .* give it all prompts that they have"):
        open_recipe(Recipe(Enlarges(True), prompts=texts[:2], base=ImageSet(str(stored))), "cpu")


def test_stored_images_may_be_enlarged_twice_and_one_prompt_is_of_all_that_have_none(tmp_path):
    texts = ["abc", "", "abcdef"]
    made = tmp_path / "small.zip"
    eg.generate_zip(Recipe(Said(), num_steps=1, prompts=texts), 4, made)
    folder = tmp_path / "photographs"
    with zipfile.ZipFile(made) as images:
        images.extractall(folder, [f"{seed:06d}.png" for seed in range(4)])
    for given, source, labels in ((texts, made, (0, 1, 2, 0)), (["abc"], folder, (0, 0, 0, 0))):
        once = Recipe(Enlarges(True), num_steps=1, base=ImageSet(str(source)))
        assert eg.generate(dataclasses.replace(once, prompts=given), 4).labels == labels
        twice = open_recipe(Recipe(EnlargesMore(True), num_steps=1, base=once, prompts=given), "cpu")
        assert eg.generate(twice, 4).labels == labels
        assert read_recipe(twice.recipe.to_json()).hash == twice.recipe.hash
    with pytest.raises(ValueError, match="photographs has images without classes"):
        open_recipe(Recipe(Enlarges(True), prompts=texts, base=ImageSet(str(folder))), "cpu")


def test_an_object_that_changes_is_noticed_under_prompts():
    said = Said(scale=1)
    generation = open_recipe(Recipe(said, prompts="a"), "cpu")
    generation.check_unchanged()
    said.scale = 2
    with pytest.raises(ValueError, match="Said has changed since the recipe was made"):
        generation.check_unchanged()


# ----------------------------------------------------------------------------
# Through the commands.


def test_zip_by_three_workers_of_which_one_is_lost(tmp_path, monkeypatch):
    """Images and labels are those of one worker, and exact; the recipe has the texts; a score of them finds them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("\n".join(TEXTS) + "\n")
    common = [f"--net={BLOBS}", "--prompts=p.txt", "--steps=24", "--num=12", "--batch=2"]
    making = [*common, "--out=a.zip", "--shard-size=2"]
    for worker in (0, 1, 2):
        run(generate_zip.main, *making, f"--worker={worker}/3")
        if worker == 0:
            shards = sorted(Path("a.zip.shards").glob("*.zip"))
            shards[0].unlink()  # as if it had been killed before
    if not Path("a.zip").exists():
        run(generate_zip.main, *making)
    run(generate_zip.main, *common, "--out=b.zip", "--shard-size=6")
    assert Path("a.zip").read_bytes() == Path("b.zip").read_bytes()
    with zipfile.ZipFile("a.zip") as file:
        recipe = json.loads(file.read("recipe.json"))["recipe"]
        assert (recipe["prompts"], recipe["labels"]) == (TEXTS, "balanced")
        dataset = json.loads(file.read("dataset.json"))
        labels, names = dataset["labels"], dataset["class_names"]
        assert names == TEXTS, "which sheets of it show"
        assert [label for _, label in labels] == [0, 1, 2] * 4
        made = np.stack([np.asarray(Image.open(io.BytesIO(file.read(name)))).astype(int) for name, _ in labels])
    wanted = (exact(range(12)) * 127.5 + 128 - 0.5).clip(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(made - wanted).max() < 0.6

    refused = run(generate_zip.main, *making[:1], "--prompt=x=0.1", *making[2:], code=2)
    assert "recipe.prompts: " in refused.stderr
    again = [f"--recipe={tmp_path / 'a.zip'}", f"--net={BLOBS}"]
    run(generate_images.main, *again, "--seeds=0-2", "--outdir=out")
    assert "of the same recipe" in run(generate_images.main, *again, "--seeds=0-2", "--outdir=out").stdout
    first = np.asarray(Image.open("out/000000.png")).astype(int)
    assert np.abs(first - made[0]).max() <= 1


def test_score_from_networks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "small.py"
    shutil.copy(EXAMPLE, own)
    own.write_text(own.read_text().replace("32", "16"))
    (tmp_path / "p.txt").write_text("\n".join(f"x={number / 200}" for number in range(-60, 60)))
    words = [f"--net={own}:make", "--steps=2", "--num=4", "--ref=mnist16", "--metrics=fd_mnist", "--ledger=l.jsonl"]
    run(calculate_metrics.main, "gen", *words, "--prompts=p.txt")
    record = json.loads((tmp_path / "l.jsonl").read_text())
    assert record["recipe"]["prompts"]["count"] == 120
    assert "already" in run(calculate_metrics.main, "gen", *words, "--prompts=p.txt").stderr
    run(generate_zip.main, *words[:3], "--prompts=p.txt", "--out=a.zip")
    run(calculate_metrics.main, "calc", "--images=a.zip", *words[3:5], "--ledger=c.jsonl")
    stored = json.loads((tmp_path / "c.jsonl").read_text())
    assert (stored["recipe"], stored["recipe_hash"]) == (record["recipe"], record["recipe_hash"])
    said = run(calculate_metrics.main, "gen", "--recipe=l.jsonl:1", f"--net={own}:make", "--ledger=l.jsonl", code=2)
    assert "120 prompts, of which it keeps the hash alone: give them again, --prompts=FILE" in said.stderr
    again = ["--recipe=l.jsonl:1", f"--net={own}:make", "--ledger=l.jsonl", "--prompts=p.txt"]
    assert "already" in run(calculate_metrics.main, "gen", *again).stderr


def test_grid_of_prompts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [f"--net={BLOBS}", "--prompt=x=0.3 y=-0.2", "--prompt=x=-0.5", "--reference=unconditional", "--steps=3"]
    said = run(
        generate_images.main, *words, "--classes=0-1", "--weights=1,2", "--seeds=0-1", "--grid=g.png", "--verbose"
    )
    assert '"x=0.3 y=-0.2"' in said.stderr
    assert "prompt 1, " in said.stderr
    assert "2 rows of 2 cells" in said.stderr
    refused = run(generate_images.main, *words, "--classes=0-2", "--weights=1,2", "--seeds=0", "--grid=h.png", code=2)
    assert "class 2: prompts are the classes, 0 to 1" in refused.stderr
    refused = run(generate_images.main, words[0], "--outdir=out", code=2)
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
