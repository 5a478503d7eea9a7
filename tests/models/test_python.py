"""Networks of the user's own: Gaussians, whose samples are known, through the library and every command; what fails."""

import io
import json
import math
import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from dnnlib.places import EMBEDDED
from edm2_guidance.commands import calculate_metrics, count_flops, generate_images, generate_zip, network_tool
from edm2_guidance.models import open_model
from edm2_guidance.models.python import PythonModel
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.reproduction.files import fetch_all
from edm2_guidance.sampling import seeds as seeding
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.opening import open_recipe
from tests.functions import shrinks

STD = 0.25
SIGMA_MAX = 80

SOURCE = f"""
import torch
from torch import nn
from edm2_guidance.models.base import Model, Prediction

def posterior_mean(x, sigma, mean):
    return ({STD**2} * x + sigma**2 * mean) / ({STD**2} + sigma**2)

class PerClass(nn.Module):
    '''Every class a Gaussian of its own mean, called as EDM2's networks are.'''
    img_channels, img_resolution, label_dim = 3, 16, 10

    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(torch.linspace(-0.4, 0.5, 10))

    def forward(self, x, sigma, labels):
        return posterior_mean(x, sigma, (labels @ self.means).view(-1, 1, 1, 1).to(x.dtype))

class Duck:
    '''The least that counts as a model.'''
    shape = (3, 16, 16)

    def predict(self, x, sigma, y):
        return Prediction(posterior_mean(x, sigma, -0.1))

class Latents(Model):
    '''A model with a decoder, names and conditions of its own.'''
    shape = (4, 8, 8)
    num_classes = 2
    class_names = ["low", "high"]
    decoder_batch = 2
    identity = {{"weights": 7}}

    def load_decoder(self, *, offline=False):
        self.image_size = 16

    def conditions(self, labels, device):
        return torch.tensor(labels, device=device).view(-1, 1, 1, 1) - 0.5

    def predict(self, x, sigma, y):
        return Prediction(posterior_mean(x, sigma, y.to(x.dtype)))

    def decode(self, latents):
        assert len(latents) <= 2
        return (latents[:, :3] * 100 + 128).clip(0, 255).to(torch.uint8).repeat_interleave(2, 2).repeat_interleave(2, 3)

main = lambda device: PerClass()
duck = lambda device: Duck()
latents = lambda device: Latents()
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "gauss.py"
    path.write_text(SOURCE)
    return path


def ref(file, function):
    return NetworkRef(f"{file}:{function}")


def exact(noise, mean, num_steps):
    return mean + (SIGMA_MAX * noise - mean) * shrinks(num_steps, STD)


def class_means(labels):
    return torch.linspace(-0.4, 0.5, 10).double()[labels].view(-1, 1, 1, 1)


def started(seeds, shape=(3, 16, 16), num_classes=10):
    _, noise, labels = seeding.start(seeds, shape, num_classes, "random")
    return noise.double(), labels


def test_samples_are_the_exact_ones(file):
    recipe = Recipe(ref(file, "main"), num_steps=24, dtype="float64", noise_device="cpu")
    made, labels = sample(open_recipe(recipe, "cpu"), range(6))
    noise, drawn = started(range(6))
    assert labels == drawn
    assert made.dtype == torch.float64
    assert (made - exact(noise, class_means(labels), 24)).abs().max() < 1e-6
    assert shrinks(2000, STD) == pytest.approx(STD / math.hypot(STD, SIGMA_MAX), rel=1e-4)


def test_it_guides_and_is_guided(file):
    """Gaussians of one width: guidance moves the mean, D = D_g + w (D_m - D_g), and nothing else."""
    recipe = Recipe(
        ref(file, "main"),
        (Guide(ref(file, "duck"), constant(1.5)),),
        24,
        dtype="float64",
        noise_device="cpu",
    )
    generation = open_recipe(recipe, "cpu")
    made, labels = sample(generation, range(4))
    noise, _ = started(range(4))
    assert (made - exact(noise, -0.1 + 1.5 * (class_means(labels) + 0.1), 24)).abs().max() < 1e-6
    assert generation.evaluations_per_image() == {"main": 47, "guide 1": 47}
    assert generation.recipe.encoder == {"class": "StandardRGBEncoder"}


def test_beside_an_edm2_network(file):
    """Either guides the other; a weight of 1 leaves the main network alone."""
    network = NetworkRef(str(EMBEDDED / "mnist16-uncond.pkl"))
    for main, guide in ((network, ref(file, "duck")), (ref(file, "main"), network)):
        alone, off, on = (
            sample(open_recipe(Recipe(main, guides, 3, noise_device="cpu"), "cpu"), [1, 2])[0]
            for guides in ((), (Guide(guide, constant(1.0)),), (Guide(guide, constant(1.5)),))
        )
        assert torch.equal(alone, off)
        assert (on - alone).abs().max() > 0.01


def test_a_decoder_names_and_conditions_of_its_own(file):
    recipe = Recipe(ref(file, "latents"), num_steps=16, dtype="float64", noise_device="cpu")
    generation = open_recipe(recipe, "cpu")
    assert generation.main.class_names == ("low", "high")
    assert generation.numerics(1, 1)["decoder_batch"] == 2
    (batch,) = generation.images(range(5), 5)
    noise, labels = started(range(5), (4, 8, 8), 2)
    assert list(batch.labels) == labels
    latents = exact(noise, torch.tensor(labels).view(-1, 1, 1, 1) - 0.5, 16)
    expected = (latents[:, :3] * 100 + 128 - 0.5).clip(0, 255).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert batch.images.shape[-1] == generation.image_size == 16
    assert (batch.images - expected).abs().max() <= 0.6
    assert generation.recipe.encoder == {"class": "Latents"}


def test_levels_that_it_is_for(file):
    file.write_text(SOURCE + "Duck.sigma_min = 0.5")
    generation = open_recipe(Recipe(ref(file, "duck"), num_steps=3), "cpu")
    assert str(generation.recipe.schedule) == "edm:sigma_min=0.5"
    assert "gauss.py:duck is for noise levels from 0.5 to inf: the schedule is edm:sigma_min=0.5" in generation.notes[0]


def test_a_recipe_knows_the_text_the_function_and_what_the_object_says(file, tmp_path, monkeypatch):
    def digest(path, function):
        return open_model(f"{path}:{function}").identity["sha256"]

    hashes = {digest(file, name) for name in ("main", "duck", "latents")}
    moved = tmp_path / "moved" / "other.py"
    moved.parent.mkdir()
    moved.write_text(SOURCE)
    assert digest(moved, "main") in hashes, "where it lies does not matter"
    moved.write_text(SOURCE.replace('"weights": 7', '"weights": 8'))
    hashes |= {digest(moved, "main"), digest(moved, "latents")}
    assert len(hashes) == 5
    line = "make = lambda device: SimpleNamespace(shape=(3, 8, 8), predict=None, identity={'w': os.environ['WEIGHTS']})"
    file.write_text(f"import os\nfrom types import SimpleNamespace\n{line}")
    found = []
    for weights in ("a", "b", "a"):
        monkeypatch.setenv("WEIGHTS", weights)
        found.append(digest(file, "make"))
    assert found[0] == found[2] != found[1]


# ----------------------------------------------------------------------------
# Through the commands.


def run(command, *args, code=0):
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def pictures(path):
    with zipfile.ZipFile(path) as archive:
        return {
            name: np.asarray(Image.open(io.BytesIO(archive.read(name)))).astype(int)
            for name in archive.namelist()
            if name.endswith(".png")
        }


def test_zip_in_two_goes_and_its_score(file, tmp_path, monkeypatch):
    """One worker's shards, then the rest by the same command; the images are exact, and scored alike from either."""
    monkeypatch.chdir(tmp_path)
    common = ["--net=gauss.py:main", "--gnet=gauss.py:duck", "--guidance=1.5", "--steps=24"]
    making = [*common, "--num=70", "--out=a.zip", "--shard-size=35"]
    run(generate_zip.main, *making, "--worker=0/2")
    assert not (tmp_path / "a.zip").exists()
    assert "gauss-main; guided by gauss-duck, w = 1.5" in run(generate_zip.main, *making).stderr
    assert "finished before" in run(generate_zip.main, *making).stdout
    noise, labels = started(range(70))
    latents = exact(noise, -0.1 + 1.5 * (class_means(labels) + 0.1), 24)
    expected = (latents * 127.5 + 128 - 0.5).clip(0, 255).permute(0, 2, 3, 1).numpy()
    found = pictures("a.zip")
    assert list(found) == [f"{seed:06d}.png" for seed in range(70)]
    assert np.abs(np.stack(list(found.values())) - expected).max() < 0.6, "a fraction of a level is cut off"

    score = [f"--ref={EMBEDDED / 'mnist16-refs.npz'}", "--metrics=fd_mnist"]
    run(calculate_metrics.main, "gen", *common, *score, "--num=70", "--batch=64", "--ledger=gen.jsonl")
    run(calculate_metrics.main, "calc", "--images=a.zip", *score, "--ledger=calc.jsonl")
    ours, stored = (json.loads((tmp_path / f"{name}.jsonl").read_text()) for name in ("gen", "calc"))
    assert ours["value"] == pytest.approx(stored["value"], rel=1e-4)
    assert ours["recipe_hash"] == stored["recipe_hash"]

    file.write_text(SOURCE.replace("-0.4, 0.5", "-0.4, 0.6"))
    refused = run(generate_zip.main, *making, code=2)
    assert "a.zip belongs to another run" in refused.stderr, "another text is another recipe"


def test_networks_of_another_precision_have_scores_of_their_own(file, tmp_path, monkeypatch):
    """The recipe is the same, as that of one file is on a CPU and on a GPU; its images are not."""
    monkeypatch.chdir(tmp_path)
    common = ["--net=gauss.py:duck", "--steps=2", "--num=4", "--ref=mnist16", "--metrics=fd_mnist", "--ledger=l.jsonl"]
    already = []
    for precision in ("bfloat16", "float32", "bfloat16", "float32"):
        monkeypatch.setattr(PythonModel, "precision", precision)
        already.append("already" in run(calculate_metrics.main, "gen", *common).stderr)
    assert already == [False, False, True, True]
    half, full = map(json.loads, (tmp_path / "l.jsonl").read_text().splitlines())
    assert half["recipe_hash"] == full["recipe_hash"]
    assert (half["images"]["precision"], full["images"].get("precision")) == ("bfloat16", None)


def test_a_grid_of_weights_has_the_colours_of_the_means(file, tmp_path, monkeypatch):
    """Gaussians so narrow that an image is its mean."""
    monkeypatch.chdir(tmp_path)
    file.write_text(SOURCE.replace(str(STD**2), "1e-6"))
    line = ["--net=gauss.py:main", "--gnet=gauss.py:duck", "--class=9", "--weights=1,2", "--seeds=0", "--steps=8"]
    result = run(generate_images.main, *line, "--grid=grid.png")
    assert "1 row of 2 cells, 1 seed" in result.stderr
    picture = np.asarray(Image.open("grid.png").convert("RGB")).reshape(-1, 3)
    colours, counts = np.unique(picture, axis=0, return_counts=True)
    common = {tuple(colour) for colour, count in zip(colours, counts, strict=True) if count >= 16 * 16}
    means = [0.5, -0.1 + 2 * (0.5 + 0.1)]
    for level in (min(255, int(mean * 127.5 + 128)) for mean in means):
        assert any(max(abs(int(side) - level) for side in colour) <= 1 for colour in common), (level, common)


def test_folder_and_fetch(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ["--net=gauss.py:duck", "--steps=4", "--outdir=out"]
    run(generate_images.main, *line, "--seeds=0-1")
    more = run(generate_images.main, *line, "--seeds=0-3")
    assert "2 of the images were there" in more.stderr
    assert str(file) in run(generate_images.main, *line, "--fetch-only").output
    assert fetch_all([Recipe(ref(file, "main"), (Guide(ref(file, "duck"), constant(2)),))]) == [str(file)]


# ----------------------------------------------------------------------------
# What is wrong with a file is said in one line, before any work.

OBJECT = (
    "class Object:\n    shape = (3, 8, 8)\n    def predict(self, x, sigma, y): {}\ndef make(device): return Object()"
)


@pytest.mark.parametrize(
    ("text", "function", "says"),
    [
        (SOURCE, "", r"gauss\.py: name the function of it that makes the network, such as .*gauss\.py:make"),
        (SOURCE, "no-name", "name the function"),
        (SOURCE, "missing", r"gauss\.py has no function missing"),
        (SOURCE, "SOURCE", "has no function SOURCE"),
        ("def make(:", "make", r"running it failed: SyntaxError: .*\(gauss\.py, line 1\)$"),
        ("x = 1\nimport nowhere_to_be_found", "make", r"running it failed: Module.*nowhere.*\(gauss\.py, line 2\)$"),
        ("import sys\nsys.exit(3)", "make", r"running it failed: SystemExit: 3 \(gauss\.py, line 2\)$"),
        ("def make(device):\n    return 1 / 0", "make", r"make\(device\) failed: ZeroDiv.*\(gauss\.py, line 2\)$"),
        ("def make(): pass", "make", r"make\(device\) failed: TypeError"),
        ("def make(device): pass", "make", "returned a NoneType: return an object with shape and predict"),
        ("from torch import nn\nmake = lambda device: nn.Identity()", "make", "Identity without img_channels, img_"),
        (OBJECT.replace("(3, 8, 8)", "(3, 8)"), "make", r"shape is \(3, 8\), not \(channels, height, width\)"),
        (OBJECT.replace("(3, 8, 8)", "(3, 8, 4)"), "make", "height and width must be the same"),
        (OBJECT.replace("(3, 8, 8)", "(4, 8, 8)"), "make", "makes 4 channels, but plain RGB"),
        (OBJECT.replace("shape =", "identity = {1j}\n    shape ="), "make", "identity as JSON failed: TypeError"),
    ],
)  # fmt: skip
def test_bad_files(file, text, function, says):
    file.write_text(text)
    source = f"{file}:{function}" if function else str(file)
    with pytest.raises(ValueError, match=says):
        open_recipe(Recipe(NetworkRef(source)), "cpu")
    result = run(generate_images.main, f"--net={source}", f"--outdir={file.parent}/out", code=2)
    assert result.stderr.count("\n") == 1
    assert not (file.parent / "out").exists()


def test_whoever_asks_sees_where_in_the_file_it_was(file, monkeypatch):
    file.write_text("def make(device):\n    return 1 / 0")
    args = (f"--net={file}:make", f"--outdir={file.parent}/out")
    monkeypatch.delenv("EDM2_TRACEBACK", raising=False)
    line = run(generate_images.main, *args, code=2).stderr
    assert line.endswith("ZeroDivisionError: division by zero (gauss.py, line 2)\n")
    monkeypatch.setenv("EDM2_TRACEBACK", "1")
    shown = run(generate_images.main, *args, code=2).stderr
    assert f'File "{file}", line 2, in make\n    return 1 / 0' in shown
    assert shown.endswith(line)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return x[:, :1]", r"denoising made \[2, 1, 8, 8\] of \[2, 3, 8, 8\]: keep the shape"),
        ("return None", "denoising made a NoneType: return a tensor, or a Prediction"),
        ("return x @ {}", r"denoising failed: TypeError: .*\(gauss\.py, line 3\)$"),
    ],
)
def test_a_denoiser_that_fails_says_so_at_its_first_call(file, body, says):
    file.write_text(OBJECT.format(body))
    with pytest.raises(ValueError, match=says):
        sample(open_recipe(Recipe(ref(file, "make")), "cpu"), [0, 1])
    result = run(generate_images.main, f"--net={file}:make", f"--outdir={file.parent}/out", code=1)
    assert "Error: " in result.stderr
    assert not list((file.parent / "out").glob("*.png"))


def test_what_is_decoded_is_checked(file):
    decode = "\n    def decode(self, latents): return latents\ndef make"
    file.write_text(OBJECT.format("return x").replace("\ndef make", decode))
    with pytest.raises(ValueError, match=r"decoding made torch\.float32 \[1, 3, 8, 8\] in place of torch\.uint8"):
        list(open_recipe(Recipe(ref(file, "make")), "cpu").images([0], 1))


def test_memory_that_runs_out_is_no_fault_of_the_file(file):
    """The batch is cut in two, as with any network."""
    body = "\n        import torch\n        if len(x) > 1: raise torch.OutOfMemoryError('no memory')\n        return x"
    file.write_text(OBJECT.format(body))
    source = open_recipe(Recipe(ref(file, "make"), num_steps=2), "cpu").images([0, 1], 2)
    with pytest.warns(RuntimeWarning, match="from now on 1"):
        (batch,) = source
    assert len(batch) == 2


def test_a_file_runs_once_for_all_its_functions_and_imports_what_lies_beside_it(file):
    (file.parent / "beside_gauss.py").write_text("count = 0\n")
    file.write_text("import beside_gauss\nbeside_gauss.count += 1\n" + SOURCE)
    models = [open_model(f"{file}:{name}") for name in ("main", "duck")]
    assert [model.num_classes for model in models] == [10, 0]
    import beside_gauss

    assert beside_gauss.count == 1


def test_only_a_path_on_this_machine_runs(file, monkeypatch):
    """Neither what a server has, nor what other commands are given: they read network files."""
    file.write_text("raise SystemExit('it ran')")
    with pytest.raises(FileNotFoundError, match="offline"):
        open_model("https://example.org/gauss.py:make", offline=True)
    source = f"{file}:main"
    for command in ([network_tool.main, "inspect"], [network_tool.main, "convert", "--to=pkl"], [count_flops.main]):
        assert "only network files can be read here" in run(*command, source, code=2).stderr
    assert run(network_tool.main, "fetch", source, code=2).stderr.count("\n") == 1
    assert "no file at" in run(generate_zip.main, f"--net={file.parent}/nowhere.py:make", code=2).stderr


def test_other_weights_are_another_network(tmp_path):
    """A file of weights that changes while the code stays; what the code calls its identity counts, too."""
    (tmp_path / "net.py").write_text(
        "from pathlib import Path\n"
        "import torch\n"
        "def make(device):\n"
        "    net = torch.nn.Linear(1, 1)\n"
        "    net.img_channels, net.img_resolution, net.label_dim = 3, 4, 0\n"
        "    torch.nn.init.constant_(net.weight, float(Path(__file__).with_name('w.txt').read_text()))\n"
        "    torch.nn.init.zeros_(net.bias)\n"
        "    net.identity = Path(__file__).with_name('id.txt').read_text()\n"
        "    return net\n"
    )
    found = []
    for weight, identity in (("1", "a"), ("2", "a"), ("1", "b"), ("1", "a")):
        (tmp_path / "w.txt").write_text(weight)
        (tmp_path / "id.txt").write_text(identity)
        found.append(open_model(f"{tmp_path / 'net.py'}:make", torch.device("cpu")).identity["sha256"])
    assert found[0] == found[3]
    assert len(set(found)) == 3
