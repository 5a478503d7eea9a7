"""Networks that enlarge images, stored or sampled with them: an exact one, through the library and every command."""

import io
import itertools
import json
import math
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from edm2_guidance.commands import calculate_metrics, generate_images, generate_zip, reproduce
from edm2_guidance.images.zips import ZipWriter, dataset_json
from edm2_guidance.models.adm_files import save_adm
from edm2_guidance.models.networks.adm import Architecture
from edm2_guidance.papers.presets import Preset, all_presets
from edm2_guidance.recipe.files import ImageSet, NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.parts import constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.stored import hash_of_format_1, read_recipe
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.opening import open_recipe
from edm2_guidance.sampling.seeds import SeededStreams, second_stage
from tests.functions import shrinks
from tests.interruptions import terminated_at
from tests.pictures import encoded, write_set

SOURCE = """
import torch
from torch import nn
from edm2_guidance.models.base import Model

STD = 0.25

class Enlarge(nn.Module):
    '''A Gaussian around twice the small image, shifted by its class, called as EDM2's networks are.'''
    img_channels, img_resolution, label_dim, low_res_size = 3, 16, 10, 8

    def forward(self, x, sigma, labels, low_res):
        mean = low_res.repeat_interleave(2, 2).repeat_interleave(2, 3).to(x.dtype)
        if labels is not None:
            mean = mean + 0.01 * labels.argmax(1).view(-1, 1, 1, 1).to(x.dtype)
        return (STD**2 * x + sigma**2 * mean) / (STD**2 + sigma**2)

class Unconditional(Enlarge):
    label_dim = 0

class Object(Model):
    '''As bytes, four times as large.'''
    shape = (3, 32, 32)
    low_res_size = 8

    def conditions(self, labels, device, low_res):
        assert low_res.dtype == torch.uint8
        return low_res.repeat_interleave(4, 2).repeat_interleave(4, 3).to(device)

    def predict(self, x, sigma, y):
        return (y.to(x.dtype) - 127.5) / 127.5

enlarge = lambda device: Enlarge()
unconditional = lambda device: Unconditional()
other = lambda device: Object()
"""
STD = 0.25
SEEDS = [0, 3, 8, 5, 11]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_networks):
    """enlarge.py, and the small images of seeds 0 to 11: made.zip, bare (a folder without labels), made.npz."""
    folder = tmp_path_factory.mktemp("upsampling")
    (folder / "enlarge.py").write_text(SOURCE)
    line = [f"--net={tiny_networks['cond']}", "--steps=3", "--noise-device=cpu"]
    run(generate_zip.main, *line, "--num=12", f"--out={folder / 'made.zip'}", "--batch=2", "--shard-size=4")
    run(generate_images.main, *line, "--seeds=0-11", f"--outdir={folder / 'bare'}", "--batch=2")
    with zipfile.ZipFile(folder / "made.zip") as file:
        labels = [label for _, label in json.loads(file.read("dataset.json"))["labels"]]
    np.savez(folder / "made.npz", np.stack(list(pictures(folder / "made.zip").values())), labels)
    return folder


@pytest.fixture
def tiny(monkeypatch, folder, tiny_networks):
    """The presets tiny, which makes these images, and tiny-up, which enlarges them."""
    small = Preset("tiny", str(tiny_networks["cond"]), num_steps=3, num_classes=10)
    large = Preset("tiny-up", f"{folder}/enlarge.py:enlarge", num_steps=4, num_classes=10, base="tiny", data="mnist16")
    for preset in (small, large):
        monkeypatch.setitem(all_presets(), preset.name, preset)


def run(command, *args, code=0):
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def pictures(path):
    with zipfile.ZipFile(path) as file:
        names = [name for name in file.namelist() if name.endswith(".png")]
        return {name: np.asarray(Image.open(io.BytesIO(file.read(name)))) for name in names}


def small_recipe(tiny_networks, **more):
    return Recipe(NetworkRef(str(tiny_networks["cond"])), num_steps=3, **more)


def enlarging(folder, base, function="enlarge", **more):
    return Recipe(NetworkRef(f"{folder}/enlarge.py:{function}"), num_steps=4, base=base, **more)


# ----------------------------------------------------------------------------
# The images.


def test_the_answer_is_exact_with_noise_of_its_own(folder, tiny_networks):
    generation = open_recipe(enlarging(folder, small_recipe(tiny_networks), dtype="float64"), "cpu")
    small, evaluations = generation.base.make(SEEDS)
    assert evaluations == {"main": 5 * len(SEEDS)}
    made, labels = sample(generation, SEEDS, None, small)
    assert labels == list(small.labels)
    noise = SeededStreams(second_stage(SEEDS, (3, 16, 16))).randn((3, 16, 16)).double()
    mean = (small.images.double() / 127.5 - 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    mean = mean + 0.01 * torch.tensor(labels).view(-1, 1, 1, 1)
    assert (made - mean - (80 * noise - mean) * shrinks(4, STD)).abs().max() < 1e-6
    theirs = SeededStreams(SEEDS).randn((3, 8, 8))
    for image, base in zip(noise.flatten(1), theirs.flatten(1), strict=True):
        correlation = torch.corrcoef(torch.stack([image[: len(base)], base.double()]))[0, 1]
        assert abs(correlation) < 5 / math.sqrt(len(base)), "the numbers that made the small images come again"
    assert second_stage(SEEDS, (3, 16, 16)) != second_stage(SEEDS, (3, 32, 32)), "a third stage has others"


def test_stored_and_fresh_give_the_same_images(folder, tiny_networks):
    """And so do a set without labels, for a network that takes no class, and an object that enlarges by itself."""
    sets = [ImageSet(str(folder / name)) for name in ("made.zip", "made.npz", "bare")]
    for function, bases in (("enlarge", sets[:2]), ("unconditional", sets), ("other", sets)):
        made = {}
        for base in (small_recipe(tiny_networks), *bases):
            generation = open_recipe(enlarging(folder, base, function), "cpu")
            source = generation.images(range(8), 2)
            batches = list(source)
            labels = None if batches[0].labels is None else [label for each in batches for label in each.labels]
            made[str(base)] = torch.cat([each.images for each in batches]), labels
            assert source.evaluations == {name: 8 * n for name, n in generation.evaluations_per_image().items()}
            assert "base main" in source.evaluations or isinstance(base, ImageSet)
        (first, labels), *others = made.values()
        assert all(torch.equal(first, images) for images, _ in others)
        assert {str(each[1]) for each in others} == {str(labels), *(["None"] if len(others) == 3 else [])}
        assert labels is not None, "the class of an image is that of its small image, whoever enlarges it"


def test_an_npz_is_read_in_any_order(folder):
    generation = open_recipe(enlarging(folder, ImageSet(str(folder / "made.npz")), "other"), "cpu")
    expected = list(pictures(folder / "made.zip").values())
    for seeds in ([7, 2, 11], [3], [3, 0], [11]):
        (batch,) = generation.images(seeds, 3)
        assert batch.seeds == tuple(seeds)
        for image, seed in zip(batch.images, seeds, strict=True):
            assert np.array_equal(image[:, ::4, ::4].permute(1, 2, 0), expected[seed])


def test_a_guide_may_take_no_small_image(folder, tiny_networks, tmp_path):
    (tmp_path / "zero.py").write_text(
        "from types import SimpleNamespace\n"
        "zero = lambda device: SimpleNamespace(shape=(3, 32, 32), predict=lambda x, sigma, y: 0 * x)"
    )
    guides = (Guide(NetworkRef(f"{tmp_path}/zero.py:zero"), constant(1.5)),)
    generation = open_recipe(enlarging(folder, small_recipe(tiny_networks), "other", guides=guides), "cpu")
    small, _ = generation.base.make([1, 2])
    made, _ = sample(generation, [1, 2], None, small)
    target = 1.5 * (small.images.float() - 127.5) / 127.5
    assert (made - target.repeat_interleave(4, 2).repeat_interleave(4, 3)).abs().max() < 1e-5


def test_classes_that_are_asked_for_are_those_of_both_stages(folder, tiny_networks):
    base = small_recipe(tiny_networks)
    generation = open_recipe(enlarging(folder, base, labels=3), "cpu")
    (batch,) = generation.images(SEEDS, 5)
    assert batch.labels == (3,) * 5
    assert generation.recipe.base.labels == 3
    balanced = open_recipe(enlarging(folder, base, labels="balanced"), "cpu")
    assert next(iter(balanced.images(SEEDS, 5))).labels == (0, 3, 8, 5, 1)


# ----------------------------------------------------------------------------
# The recipe.


def test_the_recipe_knows_the_images_by_their_content(folder, tiny_networks, tmp_path):
    renamed = tmp_path / "renamed.zip"
    renamed.write_bytes((folder / "made.zip").read_bytes())
    fewer = tmp_path / "fewer.zip"
    found = pictures(renamed)
    with ZipWriter(fewer) as file:
        for name, image in itertools.islice(found.items(), 4):
            file.add(name, encoded(image))
        file.add("dataset.json", dataset_json((name, 1) for name in itertools.islice(found, 4)))
    bases = (folder / "made.zip", renamed, fewer)
    opened = [open_recipe(enlarging(folder, ImageSet(str(base))), "cpu").recipe for base in bases]
    opened.append(open_recipe(enlarging(folder, small_recipe(tiny_networks)), "cpu").recipe)
    assert opened[0].hash == opened[1].hash
    assert len({recipe.hash for recipe in opened}) == 3
    for recipe in opened:
        data = json.loads(json.dumps(recipe.to_json(), allow_nan=False))
        assert read_recipe(data).to_json() == data
        assert read_recipe(data).hash == recipe.hash
        assert hash_of_format_1(recipe) is None
    assert opened[0].labels == "stored"
    assert opened[3].base.to_json()["net"]["sha256"]


def test_both_stages_are_one_recipe(tiny_networks):
    """What the two share is the outer's; guides that are off, and intervals, are resolved in both."""
    base = small_recipe(tiny_networks, guides=(Guide(NetworkRef("g.pkl"), constant(2), StepInterval(0, 2)),))
    recipe = Recipe(NetworkRef("u.pkl"), num_steps=4, base=base, labels=7, noise_device="cuda")
    assert recipe.hash == replace(recipe, base=replace(base, labels="balanced", noise_device="cpu")).hash
    assert recipe.hash == replace(recipe, base=replace(base, guides=(replace(base.guides[0], interval=None),))).hash
    assert recipe.hash != replace(recipe, base=replace(base, num_steps=4)).hash
    assert recipe.evaluations() == {"main": 7, "base main": 5, "base guide 1": 5}
    third = Recipe(NetworkRef("v.pkl"), num_steps=2, base=recipe)
    assert third.evaluations()["base base main"] == 5
    assert third.sources == ["v.pkl", "u.pkl", str(tiny_networks["cond"]), "g.pkl"]


@pytest.mark.parametrize(
    ("base", "labels", "says"),
    [(ImageSet("a.zip"), "balanced", "stored keep their classes"), (None, "stored", "no stored images")],
)
def test_labels_that_contradict_the_base(base, labels, says):
    with pytest.raises(ValueError, match=says):
        Recipe(NetworkRef("a.pkl"), base=base, labels=labels)


@pytest.mark.parametrize("base", [3, "a.zip", {}, {"net": 3}, {"source": "a"}, [1]])
def test_what_is_no_base(base):
    with pytest.raises(ValueError, match="is no recipe"):
        read_recipe({**Recipe(NetworkRef("a.pkl")).to_json(), "base": base})


def test_stages_of_a_file_are_few():
    recipe = Recipe(NetworkRef("a.pkl"))
    for number in range(4):
        assert read_recipe(recipe.to_json()).hash == recipe.hash, number
        recipe = replace(recipe, base=recipe)
    with pytest.raises(ValueError, match="more than 4"):
        read_recipe(recipe.to_json())


# ----------------------------------------------------------------------------
# Through the commands.


def save_upsampler(path):
    """ADM's, from 8x8 to 32x32, as small as they come, untrained: pictures need low noise levels."""
    torch.manual_seed(0)
    net = Architecture("upsampler", 32, 8, (1, 1), 1, 10, head_width=8, attention=(16,), groups=4).build()
    for parameter in net.parameters():
        parameter.detach().normal_(std=0.1)
    save_adm(path, net)


def test_a_zip_of_adms_upsampler_by_two_workers_and_a_kill(folder, tiny, tmp_path, monkeypatch):
    """Stored or fresh, in one go or in three: the same images."""
    save_upsampler(tmp_path / "up.safetensors")
    common = [f"--net={tmp_path / 'up.safetensors'}", "--sigma_max=1", "--sigma_min=0.1", "--steps=2", "--num=6",
              "--shard-size=2", "--batch=2"]  # fmt: skip
    stored = [*common, f"--upsample={folder / 'made.zip'}"]
    whole = run(generate_zip.main, *stored, f"--out={tmp_path / 'whole.zip'}")
    assert "enlarges the images of made.zip" in whole.stderr
    assert "labels: stored" in whole.stderr
    assert "evaluations per image: 3 main\n" in whole.stderr
    small, made = (np.stack(list(pictures(path).values())) for path in (folder / "made.zip", tmp_path / "whole.zip"))
    assert made.shape == (6, 32, 32, 3)
    assert 20 < made.std() < 120, "no picture is saturated"
    other = [*stored[:-1], f"--upsample={tmp_path / 'other.npz'}", f"--out={tmp_path / 'other.zip'}"]
    np.savez(tmp_path / "other.npz", 255 - small, np.load(folder / "made.npz")["arr_1"])
    run(generate_zip.main, *other)
    changed = np.stack(list(pictures(tmp_path / "other.zip").values())) != made
    assert changed.mean((1, 2, 3)).min() > 0.1, "the network sees the small image of its seed"
    with terminated_at(4, monkeypatch):
        ended = run(generate_zip.main, *stored, f"--out={tmp_path / 'parts.zip'}", "--worker=0/2", code=143)
    assert "1 of 3 shards are kept" in ended.stderr
    for worker in (1, 0):
        run(generate_zip.main, *stored, f"--out={tmp_path / 'parts.zip'}", f"--worker={worker}/2")
    assert (tmp_path / "whole.zip").read_bytes() == (tmp_path / "parts.zip").read_bytes()

    fresh = run(generate_zip.main, *common, "--upsample=tiny", f"--out={tmp_path / 'fresh.zip'}", "--verbose=True")
    assert "enlarged: cond; 3 steps of Heun" in fresh.stderr
    assert "evaluations: 18 main + 30 base main = 48" in fresh.stderr
    with zipfile.ZipFile(tmp_path / "whole.zip") as ours, zipfile.ZipFile(tmp_path / "fresh.zip") as theirs:
        assert all(ours.read(name) == theirs.read(name) for name in ours.namelist() if name != "recipe.json")
    refused = run(generate_zip.main, *stored, f"--out={tmp_path / 'fresh.zip'}", code=2)
    assert "belongs to another run" in refused.stderr


def test_folder_grid_and_score(folder, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = [f"--net={folder}/enlarge.py:enlarge", "--steps=4", "--upsample=tiny"]
    run(generate_images.main, "--preset=tiny-up", "--outdir=out", "--seeds=0-1")
    assert "2 of the images were there" in run(generate_images.main, *line, "--outdir=out", "--seeds=0-3").stderr
    run(generate_images.main, *line, "--grid=grid.png", "--seeds=0", "--classes=0,9")
    score = ["--ref=mnist16", "--metrics=fd_mnist", "--num=4", "--ledger=l.jsonl", "--batch=2"]
    run(calculate_metrics.main, "gen", *line, *score)
    stored = [*line[:-1], f"--upsample={folder / 'made.zip'}"]
    run(calculate_metrics.main, "gen", *stored, *score)
    fresh, again = map(json.loads, (tmp_path / "l.jsonl").read_text().splitlines())
    assert fresh["value"] == again["value"]
    assert (fresh["labels"], again["labels"]) == ("random", "stored")
    table = run(calculate_metrics.main, "table", "l.jsonl").output
    assert "enlarge-enlarge of made.zip" in table
    assert "enlarge-enlarge of cond" in table


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--net=@enlarge.py:enlarge"], "enlarges images of 8x8: say which, --upsample"),
        (["--net=mnist16-cond", "--upsample=@made.zip"], "enlarges no images: leave out --upsample"),
        (["--net=@enlarge.py:enlarge", "--upsample=mnist16"], "has images of 16x16, and "),
        (["--net=@enlarge.py:enlarge", "--upsample=@bare"], "without classes, which"),
        (["--net=@enlarge.py:enlarge", "--upsample=@made.zip", "--seeds=10-13"], "lacks the images of seeds 12, 13"),
        (["--net=@enlarge.py:enlarge", "--upsample=@made.npz", "--seeds=12"], "lacks the images of seeds 12"),
        (["--net=@enlarge.py:enlarge", "--upsample=@made.zip", "--class=3"], "which they keep: leave out --class"),
        (["--net=@enlarge.py:enlarge", "--upsample=@bare", "--class=10"], "has classes 0 to 9"),
        (["--net=@enlarge.py:enlarge", "--upsample=@made.zip", "--labels=balanced"], "stored keep their classes"),
        (["--net=@enlarge.py:enlarge", "--upsample=@others.zip"], "no seeds for names"),
        (["--net=@enlarge.py:enlarge", "--upsample=@classes.npz"], "images of 11 classes"),
        (["--net=@enlarge.py:enlarge", "--upsample=@damaged.npz"], "damaged"),
        (["--net=@enlarge.py:enlarge", "--upsample=mnist17"], "no preset has that name"),
        (["--net=mnist16-cond", "--gnet=@enlarge.py:enlarge", "--guidance=2"], "which the main network"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(folder, tmp_path, args, says):
    images = np.zeros([12, 8, 8, 3], np.uint8)
    write_set(tmp_path / "others.zip", list(images), [*range(10), 0, 0])
    np.savez(tmp_path / "classes.npz", images, np.arange(12) % 11)
    np.savez(tmp_path / "damaged.npz", images, np.zeros(12, int))
    data = bytearray((tmp_path / "damaged.npz").read_bytes())
    data[400] ^= 1
    (tmp_path / "damaged.npz").write_bytes(data)
    own = ("others.zip", "classes.npz", "damaged.npz")
    args = [arg.replace("@", f"{tmp_path if arg.endswith(own) else folder}/") for arg in args]
    seeds = [] if any(arg.startswith("--seeds") for arg in args) else ["--num=4"]
    result = run(generate_zip.main, *args, *seeds, "--steps=2", f"--out={tmp_path / 'out' / 'a.zip'}", code=2)
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_one_class_for_images_without(folder, tmp_path):
    line = [f"--net={folder}/enlarge.py:enlarge", "--steps=2", f"--upsample={folder / 'bare'}", "--class=4"]
    run(generate_zip.main, *line, "--num=2", f"--out={tmp_path / 'a.zip'}")
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        assert json.loads(file.read("dataset.json"))["labels"] == [["000000.png", 4], ["000001.png", 4]]


def test_a_search_looks_for_all_of_its_images_first(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net, guide = (f"{folder}/enlarge.py:{name}" for name in ("enlarge", "unconditional"))
    line = [f"--net={net}", f"--gnet={guide}", f"--upsample={folder / 'made.zip'}", "--over=weight", "--num=5"]
    found = run(reproduce.main, "search", *line, "--name=a", "--metric=fd_mnist", "--ref=mnist16", code=2)
    assert "lacks the images of seeds 12, 13, 14" in found.stderr, "three blocks at the best"
