"""How networks compute (--form, --precision, --batch=auto): said, chosen, kept by the plan, recorded, refused."""

import json
import os
import re
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import edm2_guidance as eg
from dnnlib import inference, measured
from dnnlib.inference import Inference
from edm2_guidance.commands import calculate_metrics, generate_images, generate_zip
from edm2_guidance.models import edm2
from edm2_guidance.models.base import Model
from edm2_guidance.sampling import tuning
from edm2_guidance.sampling.generation import GeneratedImages
from edm2_guidance.sampling.opening import open_recipe
from edm2_guidance.work.again import read_made
from edm2_guidance.work.complete import Run
from edm2_guidance.work.shards import ShardFolder
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
    places = {"zip": "a.zip.shards/plan.json", "png": "png/recipe.json", "gen": "results/*/*/plan.json"}
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


def test_what_is_given_is_what_is_recorded():
    assert Inference.of("auto", "bf16") == Inference(None, "bfloat16") == Inference.of(None, "bfloat16")
    with pytest.raises(ValueError, match="form='fast': give one of auto, plain, prepared, compiled"):
        Inference.of("fast")
    for precision in ("half", ["bf16"]):
        with pytest.raises(ValueError, match=rf"precision={re.escape(repr(precision))}: give one of fp32, tf32, bf16"):
            Inference.of(None, precision)


@pytest.mark.parametrize("kind", SCRIPTS)
def test_what_is_said_is_planned_taken_up_again_and_recorded(kind, taken, monkeypatch):
    halfway(kind, monkeypatch, "--form=compiled", "--precision=bf16")
    said = {"form": "compiled", "precision": "bfloat16"}
    assert said.items() <= plan(kind).items()
    assert "--form=compiled" in run(kind, "--batch=2", "--form=plain", "--precision=bf16", code=2)
    if kind == "gen":
        run(kind, "--batch=2")
        assert plan(kind)["precision"] == "bfloat16", "work in the usual precision has a folder of its own"
        Path("ledger.jsonl").unlink()
        taken.clear()
    else:
        assert "--precision=bf16" in run(kind, "--batch=2", code=2), "the usual precision is another"
    run(kind, "--batch=2", "--precision=bf16")
    assert set(taken) == {("compiled", "bfloat16")}
    assert record(kind) == said


@pytest.mark.parametrize("kind", ["png", "gen"])
def test_who_says_nothing_gets_what_is_fast_and_later_what_the_plan_says(kind, taken, monkeypatch):
    halfway(kind, monkeypatch)
    assert plan(kind)["form"] == "prepared"
    assert "precision" not in plan(kind)
    monkeypatch.setattr(tuning, "fast_form", lambda *args: pytest.fail("the plan says it"))
    run(kind, "--batch=2", "--form=auto")
    assert set(taken) == {("prepared", "float32")}
    assert record(kind) == {"form": "prepared"}


@pytest.mark.parametrize("kind", ["png", "zip"])
def test_work_that_says_nothing_goes_on_as_plain(kind, taken, monkeypatch):
    halfway(kind, monkeypatch, "--form=plain")
    assert "form" not in plan(kind), "as in plans of the version before"
    assert "--form=plain" in run(kind, "--batch=2", "--form=prepared", code=2)
    run(kind, "--batch=2")
    assert set(taken) == {("plain", "float32")}
    assert record(kind) == {}


def test_what_differs_from_images_that_are_there_is_said(taken):
    run("png", "--form=prepared", "--precision=bf16")
    text = run("png", "--form=plain", code=2)
    assert "another way: --form=prepared --precision=bf16 goes on with them" in text
    assert text.endswith("There | asked now: form: prepared | plain; precision: bfloat16 | float32\n")
    assert run("png", code=2).endswith("asked now: precision: bfloat16 | float32\n")
    run("png", "--seeds=4-5", "--precision=bf16")


@pytest.mark.parametrize("kind", ["png", "zip"])
@pytest.mark.parametrize(
    ("said", "trouble"),
    [
        ({"batch": "x"}, "x images per batch: need 1 or more"),
        ({"form": "foo"}, "form 'foo' is none of plain, prepared, compiled"),
        ({"form": ["foo"]}, "form ['foo'] is none of plain, prepared, compiled"),
    ],
)
def test_a_damaged_plan_is_named(kind, said, trouble, taken, monkeypatch):
    halfway(kind, monkeypatch)
    path = Path({"zip": "a.zip.shards/plan.json", "png": "png/recipe.json"}[kind]).absolute()
    path.write_text(json.dumps({**plan(kind), **said}))
    result = CliRunner().invoke(SCRIPTS[kind][0], [*SCRIPTS[kind][1], "--batch=auto"])
    assert result.exit_code != 0
    assert f"{path.name} is damaged: {trouble}; move its folder away to start over\n" in result.output
    assert "images:" not in result.output, "nothing had begun"


@pytest.mark.parametrize("kind", ["zip", "png"])
def test_the_first_plan_wins(taken, monkeypatch, kind):
    """Another worker makes a plan while this one chooses; that of a folder of PNGs is there before the first image."""
    chosen = []

    def choose(generation, images, batch):
        if not chosen:
            chosen.append("compiled")
            run(kind, "--batch=2", "--form=prepared", "--worker=1/2")
            return "compiled"
        return pytest.fail("chosen twice")

    monkeypatch.setattr(tuning, "fast_form", choose)
    run(kind, "--batch=2", "--worker=0/2")
    assert {form for form, _ in taken} == {"prepared"}
    assert record(kind) == {"form": "prepared"}


@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--steps=3", "--overwrite"]])
def test_workers_of_a_folder_that_is_there_agree_on_images_at_a_time(taken, monkeypatch, more):
    """Each by itself would choose another number, and parts of it would be nobody's."""
    run("png")
    args = ["--seeds=0-19", "--batch=auto", *more]
    sizes = iter([4, 8])

    def choose(generation, most):
        size = next(sizes)
        if size == 4:
            run("png", *args, "--worker=1/2")
        return size

    monkeypatch.setattr(tuning, "fast_batch", choose)
    run("png", *args, "--worker=0/2")
    assert len(list(Path("png").glob("*.png"))) == 20
    assert plan("png")["batch"] == 8


@pytest.mark.parametrize("kind", SCRIPTS)
def test_images_at_a_time_are_measured_once_for_all(kind, taken, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "_timed_batch", lambda generation, limit: (2, True))
        halfway(kind, monkeypatch, "--batch=auto")
    assert plan(kind)["batch"] == 2
    monkeypatch.setattr(tuning, "fast_batch", lambda *args: pytest.fail("the plan says it"))
    run(kind, "--batch=auto")
    if kind == "zip":
        with zipfile.ZipFile("a.zip") as file:
            assert json.loads(file.read("recipe.json"))["batches"] == [[2, 2]]
    if kind == "gen":
        assert json.loads(Path("ledger.jsonl").read_text())["run"]["batch"] == 2


def test_a_compiler_that_fails_leaves_a_way_back(monkeypatch):
    """What was chosen is in the plan, but nothing was made by it: what is asked for now replaces it."""
    error = type("InvalidCxxCompiler", (RuntimeError,), {"__module__": "torch._inductor.exc"})

    def broken(*inputs):
        raise error("no working compiler\n\nset TORCHDYNAMO_VERBOSE=1")

    for module in (tuning, inference_form):
        monkeypatch.setattr(module, "cannot_compile", lambda device: None)
    monkeypatch.setattr(torch, "compile", lambda net, **how: broken)
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "fast_form", lambda *args: "compiled")
        text = run("zip", code=1)
    assert "Error: --form=compiled: the compiler failed: no working compiler; give --form=prepared\n" in text
    assert plan("zip")["form"] == "compiled"
    run("zip", "--form=prepared")
    assert record("zip") == {"form": "prepared"}


def test_of_two_workers_that_replace_a_plan_the_later_one_follows(taken, monkeypatch):
    stopped = GeneratedImages._make
    monkeypatch.setattr(GeneratedImages, "_make", lambda self, seeds: 1 / 0)
    run("zip", "--form=compiled", code=1)
    monkeypatch.setattr(GeneratedImages, "_make", stopped)
    look, looked = ShardFolder._is_untouched, []

    def late(self):
        looked.append(self)
        if len(looked) == 1:
            run("zip", "--form=prepared", "--batch=2", "--worker=1/2")
        return look(self)

    monkeypatch.setattr(ShardFolder, "_is_untouched", late)
    run("zip", "--form=prepared", "--batch=2", "--worker=0/2")
    assert record("zip") == {"form": "prepared"}
    assert set(taken) == {("prepared", "float32")}


def test_other_words_than_auto_are_refused():
    assert "--batch=many: give a whole number of at least 1 or auto" in run("zip", "--batch=many", code=2)
    assert "--batch=0: give a whole number of at least 1 or auto" in run("zip", "--batch=0", code=2)
    with pytest.raises(ValueError, match="batch='atuo': give an integer of at least 1, or 'auto'"):
        eg.generate(eg.Recipe("mnist16-weak", num_steps=1), 2, batch="atuo")
    assert eg.generate(eg.Recipe("mnist16-weak", num_steps=1), 2, batch="auto").seeds == (0, 1)


def test_a_score_is_of_a_precision_whatever_the_form(taken):
    run("gen", "--form=prepared")
    assert "is in ledger.jsonl already" in run("gen", "--form=plain")
    run("gen", "--precision=bf16")
    lines = [json.loads(line) for line in Path("ledger.jsonl").read_text().splitlines()]
    assert [line["images"].get("precision") for line in lines] == [None, "bfloat16"]
    assert len({line["recipe_hash"] for line in lines}) == 1, "it is no part of the recipe"


def test_float32_where_another_is_usual_is_recorded():
    assert Run(1).recorded_precision is None
    assert Run(1, precision="float32", unusual=True).recorded_precision == "float32"
    assert Run(1, precision="float16").recorded_precision == "float16", "it is not usual everywhere"
    opened = open_recipe(eg.Recipe("mnist16-weak", num_steps=2), "cpu")
    assert opened.recorded_precision is None
    opened.main.precision = "float16"  # as on CUDA
    asked = opened.computing(Inference(precision="float32"))
    found = opened.recorded_precision, asked.recorded_precision, asked.numerics(1, 1)["unusual"]
    assert found == ("float16", "float32", True)


def test_a_zip_of_another_precision_is_refused_and_made_again_in_the_same(taken):
    run("zip", "--precision=bf16")
    again = CliRunner().invoke(generate_zip.main, ["--recipe=a.zip", "--out=b.zip", "--device=cpu"])
    assert again.exit_code == 0, again.output
    with zipfile.ZipFile("b.zip") as file:
        assert json.loads(file.read("recipe.json"))["precision"] == "bfloat16"
    assert "finished before" in run("zip", "--precision=bf16")
    text = run("zip", "--batch=auto", code=2)
    assert ": --precision=bf16 gives this one, or give another name" in text
    assert text.endswith("asked for now: precision: bfloat16 | (none)\n"), "not what nobody has chosen yet"
    assert "belongs to another run" in run("zip", "--precision=fp32", code=2)


def test_a_grid_is_made_again_in_its_precision(taken):
    def grid(*args):
        done = CliRunner().invoke(generate_images.main, [*args, "--device=cpu", "--batch=2", "--form=plain"])
        assert done.exit_code == 0, done.output

    grid(*COMMON, "--seeds=0-1", "--grid=a.png")
    grid("--recipe=a.png", "--grid=b.png", "--precision=bf16")
    grid("--recipe=b.png", "--grid=c.png")
    precisions = [read_made(name).precision for name in ("a.png", "b.png", "c.png")]
    assert precisions == [None, "bfloat16", "bfloat16"]
    assert set(taken) == {("plain", "float32"), ("plain", "bfloat16")}
    assert read_made("c.png").recipe.hash == read_made("a.png").recipe.hash


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--precision=tf32"], "--precision=tf32 is of CUDA devices alone, and this is cpu"),
        (["--form=compiled", "--deterministic"], "leave out --deterministic"),
    ],
)
def test_what_cannot_be_had_is_refused_before_any_work(args, message):
    text = run("png", *args, code=2)
    assert message in text
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
    with pytest.raises(ValueError, match="--precision=bf16: Other computes in fp32 on cpu; leave it out"):
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


class Fake:
    """A generation whose only network takes a known time, in place of `sampling.generation.Generation`."""

    device, precision, inference = torch.device("cpu"), "float32", Inference("prepared")

    def __init__(self, fits=1 << 20, seconds=lambda size: (1 + size / 10) / 1000, evaluations=10):
        self.fits, self.seconds, self.evaluations, self.clock = fits, seconds, evaluations, 0.0

    def stages(self):
        return [self]

    def networks(self):
        return {"main": self.net}

    def evaluations_per_image(self):
        return {"main": self.evaluations}

    class net(Model):
        identity, forms, shape, num_parameters = {"sha256": "a" * 64}, inference.FORMS, (3, 8, 8), 10**6
        device, multiply_adds = torch.device("cpu"), 10**7
        predict = None

    net.__abstractmethods__ = frozenset()
    net = net()

    def in_form(self, form):
        return self

    def evaluate(self, size):
        if size > self.fits:
            raise torch.OutOfMemoryError
        self.clock += self.seconds(size)


def found(monkeypatch, fake, most=1 << 20):
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: fake.clock)
    return tuning.fast_batch(fake, most)


@pytest.mark.parametrize(
    ("fake", "batch"),
    [
        (Fake(), 256),  # of 512 at a time 1.9 % more are made in a second
        (Fake(fits=100), 64),
        (Fake(seconds=lambda size: size / 1000), 1),
        (Fake(seconds=lambda size: 0.001), 1024),
        (Fake(seconds=lambda size: 3 * size**0.5), 4),  # which takes 6 seconds
    ],
)
def test_batches_grow_as_long_as_they_gain_and_fit(monkeypatch, fake, batch):
    assert found(monkeypatch, fake) == batch
    assert found(monkeypatch, fake, most=50) == min(batch, 32)
    begun = fake.clock
    assert found(monkeypatch, fake) == batch
    assert fake.clock == begun, "it is remembered"


def test_no_batch_is_tried_that_is_larger_than_the_work(monkeypatch):
    fake, sizes = Fake(), []
    monkeypatch.setattr(fake, "evaluate", lambda size, evaluate=fake.evaluate: sizes.append(size) or evaluate(size))
    assert found(monkeypatch, fake, most=9) == 8
    assert max(sizes) == 8
    begun = fake.clock
    assert found(monkeypatch, fake, most=8) == 8
    assert fake.clock == begun, "it is remembered"
    assert found(monkeypatch, fake) == 256, "of more images another is the best"
    assert found(monkeypatch, fake, most=9) == 8
    monkeypatch.setattr(torch, "__version__", "0")
    begun = fake.clock
    found(monkeypatch, fake)
    assert fake.clock > begun, "of another PyTorch"


def test_what_was_measured_may_be_lost(monkeypatch, here):
    assert found(monkeypatch, Fake(fits=4)) == 4
    (path,) = Path(os.environ["DNNLIB_CACHE_DIR"]).rglob("batch.json")
    no_numbers = ('"many"', "1" + "0" * 400, "1" * 5000, "1e999", "NaN", "0", "true")
    (key,) = json.loads(path.read_text())
    for damaged in ("", "[]", "{", *(f'{{"{key}": {text}}}' for text in no_numbers)):
        path.write_text(damaged)
        assert found(monkeypatch, Fake(fits=8)) == 8
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(path))
    measured.keep("batch", "key", 2)
    assert measured.find("batch", "key") is None, "there is no place to keep it"


def test_long_work_is_compiled_where_that_saves_several_times_its_cost(monkeypatch):
    monkeypatch.setattr(tuning, "cannot_compile", lambda device: None)
    fake = Fake()
    worth = 4 * 120 / 0.2 * 1e11 / (fake.evaluations * fake.net.multiply_adds)  # images
    assert tuning.fast_form(fake, round(worth * 0.99), 4) == "prepared"
    assert tuning.fast_form(fake, round(worth * 1.01), 4) == "compiled"
    measured.keep("compile_seconds", edm2.compile_key(fake.net, 4), 240.0)
    assert tuning.fast_form(fake, round(worth * 1.01), 4) == "prepared"
    assert tuning.fast_form(fake, round(worth * 2.02), 4) == "compiled"
    monkeypatch.setattr(tuning, "cannot_compile", lambda device: "there is no compiler")
    assert tuning.fast_form(fake, round(worth * 9), 4) == "prepared"


def test_compiling_is_timed(monkeypatch):
    clock = iter(range(0, 1000, 7))
    monkeypatch.setattr(edm2.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(edm2, "prepare", lambda net, *how: net)
    model = eg.open_model("mnist16-weak")
    model.take(Inference("compiled", batch=4))
    for count in (3, 4, 3):
        model.predict(torch.zeros(count, *model.shape), torch.tensor(1.0), None)
    assert measured.find("compile_seconds", edm2.compile_key(model, 4)) == 7
    assert measured.find("compile_seconds", edm2.compile_key(model, 3)) is None, "they were filled up"
    assert next(clock) == 14, "the first call alone"
