"""How networks compute (--form, --precision, --batch=auto): said, chosen, kept by the plan, recorded, refused."""

import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import edm2_guidance as eg
from dnnlib import inference
from dnnlib.inference import Inference
from edm2_guidance.commands import calculate_metrics, generate_images, generate_zip
from edm2_guidance.models import edm2
from edm2_guidance.sampling import tuning
from edm2_guidance.sampling.generation import GeneratedImages, open_recipe
from training import inference_form

COMMON = ["--net=mnist16-weak", "--steps=2", "--device=cpu"]
ZIP = [*COMMON, "--num-images=4", "--shard-size=2", "--out=a.zip"]
PNG = [*COMMON, "--seeds=0-3", "--outdir=png"]
GEN = ["gen", *COMMON, "--metrics=fd_mnist", "--ref=mnist16", "--num=4", "--shard-size=2", "--ledger=ledger.jsonl"]
SCRIPTS = {"zip": (generate_zip.main, ZIP), "png": (generate_images.main, PNG), "gen": (calculate_metrics.main, GEN)}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def taken(monkeypatch):
    """The forms and precisions that networks compute in, by how many batches; every form can be had, at no cost."""
    seen, take = Counter(), edm2.Edm2Model.take

    def count(self, inference):
        seen[inference.form, inference.precision or self.precision] += 1
        return take(self, inference)

    monkeypatch.setattr(edm2.Edm2Model, "take", count)
    monkeypatch.setattr(edm2, "prepare", lambda net, *how: net)
    monkeypatch.setattr(tuning, "cannot_compile", lambda device: None)
    return seen


def run(kind, *args, code=0):
    command, usual = SCRIPTS[kind]
    result = CliRunner().invoke(command, [*usual, *args])
    assert result.exit_code == code, result.output
    return result.output


def halfway(kind, monkeypatch, *args):
    """The work, interrupted after its first two images."""
    make, made = GeneratedImages._make, []

    def stop(self, seeds):
        if made:
            raise RuntimeError("stopped")
        made.append(seeds)
        return make(self, seeds)

    with monkeypatch.context() as patch:
        patch.setattr(GeneratedImages, "_make", stop)
        run(kind, "--batch=2", *args, code=1)


def plan(kind):
    """What the folder of unfinished work says."""
    places = {"zip": "a.zip.shards/plan.json", "png": "png/recipe.json", "gen": "results/work/*/plan.json"}
    (path,) = Path().glob(places[kind])
    return json.loads(path.read_text())


def record(kind):
    """What finished images or their score say of how networks computed."""
    if kind == "zip":
        with zipfile.ZipFile("a.zip") as file:
            said = json.loads(file.read("recipe.json"))
    elif kind == "png":
        said = plan("png")
    else:
        said = json.loads(Path("ledger.jsonl").read_text().splitlines()[-1])["images"]
    return {key: said[key] for key in ("form", "precision") if key in said}


def test_the_words_are_those_of_the_networks():
    assert (inference.FORMS, tuple(inference.PRECISIONS.values())) == (inference_form.FORMS, inference_form.PRECISIONS)
    assert Inference.of("auto", "bf16") == Inference(None, "bfloat16") == Inference.of(None, "bfloat16")
    with pytest.raises(ValueError, match="form='fast': give one of auto, plain, prepared, compiled"):
        Inference.of("fast")
    with pytest.raises(ValueError, match="precision='half': give one of fp32, tf32, bf16, fp16"):
        Inference.of(None, "half")


@pytest.mark.parametrize("kind", SCRIPTS)
def test_what_is_said_is_planned_taken_up_again_and_recorded(kind, taken, monkeypatch):
    halfway(kind, monkeypatch, "--form=compiled", "--precision=bf16")
    said = {"form": "compiled", "precision": "bfloat16"}
    assert said.items() <= plan(kind).items()
    for other in (["--form=plain"], ["--form=prepared", "--precision=bf16"]):
        text = run(kind, "--batch=2", *other, code=2)
        assert "--form=compiled" in text, text
    assert "--precision=bf16" in run(kind, "--batch=2", "--precision=fp32", code=2)
    assert "--precision=bf16" in run(kind, "--batch=2", code=2), "the usual precision is another"
    run(kind, "--batch=2", "--precision=bf16")
    assert set(taken) == {("compiled", "bfloat16")}
    assert record(kind) == said


@pytest.mark.parametrize("kind", SCRIPTS)
def test_who_says_nothing_gets_what_is_fast_and_later_what_the_plan_says(kind, taken, monkeypatch):
    halfway(kind, monkeypatch)
    assert plan(kind)["form"] == "prepared"
    assert "precision" not in plan(kind)
    monkeypatch.setattr(tuning, "fast_form", lambda *args: pytest.fail("the plan says it"))
    run(kind, "--batch=2", "--form=auto")
    assert set(taken) == {("prepared", "float32")}
    assert record(kind) == {"form": "prepared"}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_work_that_says_nothing_goes_on_as_plain(kind, taken, monkeypatch):
    halfway(kind, monkeypatch, "--form=plain")
    assert "form" not in plan(kind), "as in plans of the version before"
    assert "--form=plain" in run(kind, "--batch=2", "--form=prepared", code=2)
    run(kind, "--batch=2")
    assert set(taken) == {("plain", "float32")}
    assert record(kind) == {}


def test_the_first_plan_wins(taken, monkeypatch):
    """Another worker makes a plan while this one chooses."""
    chosen = []

    def choose(generation, images, batch):
        if not chosen:
            chosen.append("compiled")
            run("zip", "--batch=2", "--form=prepared", "--worker=1/2")
            return "compiled"
        return pytest.fail("chosen twice")

    monkeypatch.setattr(tuning, "fast_form", choose)
    run("zip", "--batch=2", "--worker=0/2")
    assert {form for form, _ in taken} == {"prepared"}
    assert record("zip") == {"form": "prepared"}


def test_workers_of_a_folder_agree_before_the_first_image(taken, monkeypatch):
    chosen = []

    def choose(generation, images, batch):
        if not chosen:
            chosen.append("compiled")
            run("png", "--batch=2", "--form=prepared", "--worker=1/2")
            return "compiled"
        return pytest.fail("chosen twice")

    monkeypatch.setattr(tuning, "fast_form", choose)
    run("png", "--batch=2", "--worker=0/2")
    assert {form for form, _ in taken} == {"prepared"}
    assert record("png") == {"form": "prepared"}


def test_a_score_is_of_a_precision_whatever_the_form(taken):
    run("gen", "--form=prepared")
    assert "is in ledger.jsonl already" in run("gen", "--form=plain")
    run("gen", "--precision=bf16")
    lines = [json.loads(line) for line in Path("ledger.jsonl").read_text().splitlines()]
    assert [line["images"].get("precision") for line in lines] == [None, "bfloat16"]
    assert len({line["recipe_hash"] for line in lines}) == 1, "it is no part of the recipe"


def test_a_zip_of_another_precision_is_refused(taken):
    run("zip", "--precision=bf16")
    assert "finished before" in run("zip", "--precision=bf16")
    assert "belongs to another run" in run("zip", code=2)
    assert "belongs to another run" in run("zip", "--precision=fp32", code=2)


REFUSED = [
    (["--precision=tf32"], "--precision=tf32 is of CUDA devices alone, and this is cpu"),
    (["--form=compiled", "--deterministic"], "leave out --deterministic"),
    (["--net=adm-img64", "--form=prepared"], ""),
]


@pytest.mark.parametrize(("args", "message"), REFUSED[:2])
@pytest.mark.parametrize("kind", SCRIPTS)
def test_what_cannot_be_had_is_refused_before_any_work(kind, args, message):
    text = run(kind, *args, code=2)
    assert message in text
    assert not list(Path().rglob("plan.json"))
    assert not list(Path().rglob("recipe.json"))


def test_networks_without_forms_stay_plain(taken, monkeypatch):
    class Other:
        shape, num_classes = (3, 8, 8), 0

        def predict(self, x, sigma, y):
            return x * 0.5

    plain, mixed = eg.Recipe(Other(), num_steps=2), eg.Recipe("mnist16-weak", num_steps=2)
    assert open_recipe(plain).images([0], 1).form == "plain"
    with pytest.raises(ValueError, match="--form=prepared: none of these networks has it"):
        eg.generate(plain, 1, form="prepared")
    with pytest.raises(ValueError, match="--precision=bf16: Other computes in fp32 on cpu"):
        eg.generate(plain, 1, precision="bf16")
    opened = eg.open_recipe(mixed)
    eg.generate(opened, 1, form="plain")
    eg.generate(opened, 1)
    eg.generate(opened, 1, precision="bf16")
    assert list(taken) == [("plain", "float32"), ("prepared", "float32"), ("prepared", "bfloat16")]


def test_one_network_in_several_forms_is_read_again(monkeypatch):
    """Weights that went into one form are not there for the next."""
    made = []
    prepare = edm2.prepare
    monkeypatch.setattr(edm2, "prepare", lambda net, *how: made.append(how) or prepare(net, *how))
    opened = eg.open_recipe(eg.Recipe("mnist16-weak", num_steps=2))
    plain, prepared, again = (eg.generate(opened, 2, form=form).images for form in ("plain", "prepared", "plain"))
    assert [form for form, *_ in made] == ["plain", "prepared", "plain"]
    assert torch.equal(plain, again)
    assert (plain.int() - prepared.int()).abs().max() <= 1
