"""Pipelines of diffusers through everything that any network goes through: tiny ones, with random weights."""

import io
import json
import os
import zipfile
from dataclasses import replace

import pytest
from PIL import Image

from edm2_guidance.commands import calculate_metrics, count_flops, generate_images, generate_zip, network_tool
from edm2_guidance.images.zips import read_recipe
from edm2_guidance.metrics import ledger
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.sampling.opening import open_recipe
from tests.diffusers_pipelines import made_once, tiny_dit, tiny_if, tiny_if_second, tiny_sdxl, tiny_upscaler
from tests.interruptions import terminated_at
from tests.running import pixels, run, zip_by_three_workers_and_a_kill

TEXTS = ("--prompt=a painting of a raccoon", "--prompt=the blue jay")
FREE = ("--reference=unconditional", "--guidance=2", "--steps=3")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def net(tmp_path_factory):
    return lambda make: f"--net={made_once(tmp_path_factory, make)}"


def images_of(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist() if name.endswith(".png")}


def test_a_grid_of_weights_and_prompts(net):
    words = [net(tiny_sdxl), *TEXTS, "--reference=unconditional", "--steps=3", "--seeds=0-1"]
    run(generate_images.main, *words, "--weights=1,3", "--grid=grid.png")
    assert pixels("grid.png").std() > 10
    run(generate_images.main, *words, "--guidance=3", "--outdir=told")
    run(generate_images.main, *words, "--guidance=3", "--class=0", "--outdir=first")
    same, other = (abs(pixels(f"told/{name}.png") - pixels(f"first/{name}.png")).max() for name in ("000000", "000001"))
    assert same <= 1 < other  # seed 1 is of the second prompt


def test_a_blend_of_free_guidance_and_autoguidance(net):
    """Eq. 6 of arXiv 2406.02507, where the first guide is the network itself without a prompt."""
    guide, words = (
        net(tiny_if).replace("--net", "--gnet"),
        ["--steps=2", "--seeds=0", *TEXTS[:1], "--reference=network"],
    )
    grid = [net(tiny_if), guide, *words, "--reference=unconditional", "--alphas=0,0.5,1", "--weights=2"]
    assert (
        "give the main network (unconditional) before tiny_if"
        in run(generate_images.main, *grid, "--grid=a.png", code=2).stderr
    )
    turned = [net(tiny_if), guide, "--reference=unconditional", *words, "--alphas=0,0.5,1", "--weights=2"]
    run(generate_images.main, *turned, "--grid=a.png")
    assert pixels("a.png").std() > 10


@pytest.mark.parametrize("make", [tiny_dit, tiny_sdxl])
def test_a_zip_by_three_workers_and_a_kill(net, make, monkeypatch):
    zip_by_three_workers_and_a_kill([net(make), *FREE, *(TEXTS if make is tiny_sdxl else ())], monkeypatch)
    recipe = read_recipe("whole.zip")["recipe"]
    assert recipe["guides"] == [{"net": None, "reference": "unconditional", "steps": None, "weight": "constant:w=2"}]
    assert recipe.get("prompts") == ([text.partition("=")[2] for text in TEXTS] if make is tiny_sdxl else None)
    run(generate_zip.main, "--recipe=whole.zip", net(make), "--out=again.zip")
    assert images_of("whole.zip") == images_of("again.zip")


def test_a_score_from_networks_is_found_again(net):
    words = ["gen", net(tiny_dit), *FREE, "--ref=mnist16", "--metrics=fd_mnist", "--num=4", "--batch=4"]
    run(calculate_metrics.main, *words, "--ledger=l.jsonl")
    said = run(calculate_metrics.main, *words, "--ledger=l.jsonl").stderr
    assert "the result is in l.jsonl already" in said
    (line,) = ledger.read("l.jsonl")
    assert line["recipe"]["net"]["source"] == "tiny_dit"
    assert line["quantiser"] == "x * 127.5 + 128, clipped to [0, 255], truncated"
    assert line["software"]["diffusers"] is not None


def test_a_pipeline_is_found_in_the_folders_above_a_recipe(net, place, tmp_path_factory, monkeypatch):
    run(generate_zip.main, net(tiny_dit), "--steps=2", "--num=1", "--out=a.zip")
    (place / "x" / "y").mkdir(parents=True)
    os.rename("a.zip", "x/y/a.zip")
    os.symlink(net(tiny_dit).partition("=")[2], "tiny_dit")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    run(generate_zip.main, f"--recipe={place}/x/y/a.zip", "--out=b.zip")
    assert len(images_of("b.zip")) == 1
    assert images_of("b.zip") == images_of(place / "x/y/a.zip")


def test_a_folder_that_was_interrupted_goes_on(net, monkeypatch):
    words = [net(tiny_sdxl), *TEXTS, *FREE, "--batch=1", "--seeds=0-2"]
    with terminated_at(2, monkeypatch):
        run(generate_images.main, *words, "--outdir=parts", code=143)
    first = os.stat("parts/000000.png")
    run(generate_images.main, *words, "--outdir=parts")
    run(generate_images.main, *words, "--outdir=whole")
    for seed in range(3):
        assert (pixels(f"parts/{seed:06d}.png") == pixels(f"whole/{seed:06d}.png")).all()
    assert os.stat("parts/000000.png").st_ino == first.st_ino


def test_a_cascade_of_deepfloyd_if(net):
    """The second stage enlarges images that are stored, and is told the same prompts."""
    ancestral = ["--sampler=ddpm:clip=false", "--around=threshold:if", "--reference=unconditional", "--guidance=2"]
    ancestral += [*TEXTS, "--schedule=timesteps:steps=4:betas=cosine", "--num=3"]
    run(generate_zip.main, net(tiny_if), *ancestral, "--out=small.zip")
    said = run(generate_zip.main, net(tiny_if_second), *ancestral, "--upsample=small.zip", "--out=large.zip").stderr
    assert "was drawn to" not in said
    small, large = ({name: Image.open(io.BytesIO(data)).size for name, data in images_of(path).items()}
                    for path in ("small.zip", "large.zip"))  # fmt: skip
    assert {*small.values()} == {(8, 8)}
    assert {*large.values()} == {(32, 32)}  # four times, though trained for small images of 4 x 4
    with zipfile.ZipFile("large.zip") as file:
        assert json.loads(file.read("dataset.json"))["labels"] == [[f"{n:06d}.png", n % 2] for n in range(3)]


def test_a_figure(net, place):
    words = [net(tiny_dit), "--reference=unconditional", "--steps=3", "--results-dir=results"]
    said = run(generate_images.main, "--figs=fig8a", *words).stderr
    assert "not of ImageNet: its 10 classes stand in" in said
    assert [path for path in (place / "results").rglob("*.png") if pixels(path).std() > 5]


def test_what_is_in_a_pipeline(net):
    source = net(tiny_dit).partition("=")[2]
    said = run(network_tool.main, "inspect", source).stdout
    assert "DiTPipeline" in said
    assert "num_embeds_ada_norm=10" in said
    assert "Gflops" in run(count_flops.main, source).stdout
    assert run(network_tool.main, "fetch", source, "--offline").stdout.strip() == source


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "draws what prompts say: give --prompt=TEXT, or --prompts=FILE"),
        ((*TEXTS, "--class=2"), "class 2"),
        ((*TEXTS, "--around=threshold"), "threshold is of pixels"),
        ((*TEXTS, "--reference=attention", "--guidance=2"), "attention"),
    ],
)
def test_what_does_not_go_together_is_refused_first(net, words, why):
    said = run(generate_images.main, net(tiny_sdxl), *words, "--steps=2", "--outdir=out", code=2).stderr
    assert said.count("\n") <= 2
    assert why in said
    assert not os.path.exists("out")


def test_a_folder_that_is_no_pipeline(place):
    (place / "model_index.json").write_text('{"_class_name": "MyPipeline", "unet": ["my_module", "MyNet"]}')
    (place / "my_module.py").write_text("open('ran', 'w')")
    said = run(generate_images.main, f"--net={place}", "--outdir=out", code=2).stderr
    assert "MyPipeline" in said
    assert not os.path.exists("ran")


def test_the_preset_of_all_three_stages(tmp_path_factory):
    """With tiny stand-ins, and fewer steps: prompts of the paper in all of them."""
    last = all_presets()["if-1024"].recipe()
    cosine = Schedule.parse("timesteps:betas=cosine:steps=ddim2")

    def stand_in(recipe, make, base=None, **more):
        net = NetworkRef(str(made_once(tmp_path_factory, make)))
        guides = tuple(replace(guide, net=guide.net and net) for guide in recipe.guides)
        return replace(recipe, net=net, guides=guides, base=base, num_steps=2, **more)

    first = stand_in(last.base.base, tiny_if, schedule=cosine)
    second = stand_in(last.base, tiny_if_second, first, schedule=cosine)
    generation = open_recipe(stand_in(last, tiny_upscaler, second), "cpu")
    assert [stage.image_size for stage in generation.stages()] == [128, 32, 8]
    source = generation.images([0, 1], 2)
    (images,) = source
    assert images.labels == (0, 1)
    assert source.evaluations == {name: 2 * count for name, count in generation.evaluations_per_image().items()}


def test_small_images_of_other_prompts_are_noted(net):
    words = [*FREE, "--schedule=timesteps:steps=3:betas=cosine", "--num=2"]
    run(generate_zip.main, net(tiny_if), *TEXTS, *words, "--out=small.zip")
    others = ["--prompt=a red bird", "--prompt=a blue one", *words]
    said = run(generate_zip.main, net(tiny_if_second), *others, "--upsample=small.zip", "--out=large.zip").stderr
    assert 'small.zip was drawn to prompt "' in said
    assert 'and is enlarged by prompt "a red bird" and 1 more, by seed' in said


def test_another_of_a_single_prompt_is_refused(net):
    words = [net(tiny_sdxl), "--prompt=a dog", "--reference=other-label", "--guidance=2", "--out=a.zip", "--num=1"]
    assert "has a single one (of prompts: give several)" in run(generate_zip.main, *words, code=2).stderr
