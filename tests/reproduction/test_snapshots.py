"""Previews and scores of a run's snapshots: the images and numbers that the other commands make of the same files."""

import json
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import edm2_guidance as eg
from edm2_guidance.commands.train_edm2 import main
from edm2_guidance.metrics import ledger
from edm2_guidance.recipe.recipe import Recipe
from tests.pictures import write_set
from tests.small import register_tiny_extractors
from tests.training.fake_wandb import FakeWandb
from tests.words import last_of_each
from training.run_log import read_stats

SMALL = [
    "--channels=8", "--channel-mult=1", "--num-blocks=1", "--attn-resolutions=none", "--channels-per-head=8",
    "--batch=512", "--lr=0.01", "--decay=100", "--rampup=512", "--status=1Ki", "--snapshot=1Ki", "--checkpoint=1Ki",
    "--duration=1Ki", "--device=cpu", "--preview=0",
]  # fmt: skip
WATCHED = ["--preview=5", "--evaluate=fid,is:num=12:steps=2"]


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    items = np.random.default_rng(0).integers(0, 256, [40, 8, 8, 3], dtype=np.uint8)
    return write_set(tmp_path_factory.mktemp("data") / "pixels.zip", items, [i % 4 for i in range(40)])


@pytest.fixture(scope="module")
def monkeymodule(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        register_tiny_extractors(patch.setattr, tmp_path_factory.mktemp("tiny"))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the bits of sums depend on it
        yield patch
        torch.set_num_threads(threads)


def run(data, outdir, *args):
    return CliRunner().invoke(main, last_of_each([f"--data={data}", f"--outdir={outdir}", *SMALL, *args]))


@pytest.fixture(scope="module")
def watched(pixels, tmp_path_factory, monkeymodule):
    """A run with previews and scores: its folder, and what was said."""
    folder = tmp_path_factory.mktemp("watched") / "run"
    monkeymodule.setitem(sys.modules, "wandb", FakeWandb())
    result = run(pixels, folder, *WATCHED, f"--ref={pixels}", "--log=wandb")
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_networks_are_those_of_a_run_that_nobody_watches(pixels, watched, tmp_path):
    assert run(pixels, tmp_path).exit_code == 0
    for path in tmp_path.glob("network-snapshot-*"):
        assert (watched[0] / path.name).read_bytes() == path.read_bytes()
    assert len(list(watched[0].glob("network-snapshot-*"))) == 2
    assert not list(tmp_path.glob("*.png"))


def test_a_preview_is_of_the_images_of_the_same_seeds(watched):
    folder, output = watched
    (path,) = folder.glob("*.png")
    assert path.name == "preview-0000001-0.050.png"
    assert f"wrote {path}" in output
    recipe = Recipe(folder / "network-snapshot-0000001-0.050.pkl", num_steps=16)
    images = eg.generate(recipe, 5, device="cpu")
    by_class = sorted(range(5), key=lambda index: images.labels[index])
    with Image.open(path) as drawn:
        assert np.array_equal(np.asarray(drawn), np.asarray(images.select(by_class).grid()))
        about = json.loads(drawn.text["recipe"])
    assert (about["seeds"], about["recipes"][0]["num_steps"]) == ("0-4", 16)
    assert "preview of 5 images at 1 snapshot: 155 evaluations of the network each" in output


def test_a_score_is_that_of_the_network_file(watched, pixels):
    folder, output = watched
    records = ledger.read(folder / "ledger.jsonl")
    assert [record["name"] for record in records] == ["fid@12", "is@12"] * 2
    stats = [line for line in read_stats(folder) if "network" in line]
    for line, record in zip(stats, records, strict=True):
        recipe = Recipe(folder / line["network"], num_steps=2)
        expected = eg.score(recipe, pixels, record["metric"], num=12, device="cpu")[record["metric"]].value
        assert record["value"] == line["value"] == expected
        assert line["interval"] == record.get("interval")
    for metric, better in (("fid@12", min), ("is@12", max)):
        best = better((line for line in stats if line["metric"] == metric), key=lambda line: line["value"])["network"]
        (last,) = [line for line in output.splitlines() if line.startswith(f"{metric} of network-snapshot-0000001-0.1")]
        assert last.endswith("(best so far)" if best.endswith("0.100.pkl") else f"(best so far {best})")


def test_a_second_start_finds_all_there_and_makes_what_is_gone(watched, pixels, monkeypatch):
    folder, _ = watched
    before = {path.name: path.read_bytes() for path in folder.glob("*.*l*")}
    (preview,) = folder.glob("*.png")
    drawn = preview.read_bytes()
    preview.unlink()
    monkeypatch.setattr("edm2_guidance.reproduction.snapshots.measure", None)
    result = run(pixels, folder, *WATCHED, f"--ref={pixels}", "--log=wandb")
    assert "warning" not in result.output
    assert preview.read_bytes() == drawn
    assert {path.name: path.read_bytes() for path in folder.glob("*.*l*")} == before


def test_what_was_asked_for_is_on_record(watched, pixels):
    (start,) = json.loads((watched[0] / "training_options.json").read_text())["starts"]
    assert "--evaluate=fid,is:num=12:steps=2" in start["given"]
    assert start["options"]["batch"] == 512
    assert start["options"]["P_std"] == 1.0  # that nobody gave
    assert start["options"]["watch"]["evaluate"] == {"metrics": ["fid", "is"], "num": 12, "every": 1, "steps": 2}
    assert start["software"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--evaluate=fd_mnist:num=10"], "fd_mnist is defined for images of 16x16, these are 8x8"),
        (["--evaluate=fid:num=10"], "which reference for fid? Give --ref"),
        (["--evaluate=fid:num=1"], "num=1: give a whole number of at least 2"),
        (["--evaluate=fid:num=10:num=12"], "num is given twice"),
        (["--evaluate=fid:every=0"], "every=0: give a whole number of at least 1"),
        (["--evaluate=fidd"], "'fidd' is not one of"),
        (["--evaluate=all"], "name the metrics"),
        (["--evaluate=fid", "--ref=nothing.npz"], "there is no reference 'nothing.npz'"),
        (["--log=tensorbord"], "give tensorboard, wandb, or both"),
        (["--preview=-1"], "--preview"),
    ],
)
def test_bad_input_is_one_line_before_any_work(pixels, tmp_path, monkeymodule, args, message):
    result = run(pixels, tmp_path / "run", *args)
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 1)
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_before_any_work(pixels, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    result = run(pixels, tmp_path / "run", f"--log={name}")
    assert result.exit_code == 1
    assert f"pip install 'edm2-guidance[{name}]'" in result.stderr
    assert not (tmp_path / "run").exists()


def test_previews_of_latents_are_left_out_without_the_vae(tmp_path, monkeypatch):
    """Unless they are asked for: then its absence is an error, before any work."""
    latents = write_set(tmp_path / "latents.zip", np.ones([4, 8, 8, 8], np.float32), [0, 1, 2, 3])

    def missing(encoder, device, *, offline=False):
        raise FileNotFoundError(f"no VAE, offline={offline}")

    monkeypatch.setattr("training.encoders.StabilityVAEEncoder.init", missing)
    words = [word for word in SMALL if not word.startswith("--preview")]
    usual, asked = (
        CliRunner().invoke(main, [f"--data={latents}", f"--outdir={tmp_path}/run", *words, "-n", *more])
        for more in ([], ["--preview=4"])
    )
    assert usual.exit_code == 0, usual.output
    assert "no previews (--preview=0 leaves them out in silence): no VAE, offline=True" in usual.stderr
    assert asked.exit_code == 2
    assert "no VAE, offline=False" in asked.stderr


def test_a_dry_run_says_what_looking_costs(pixels, tmp_path, monkeymodule):
    result = run(pixels, tmp_path / "run", *WATCHED, f"--ref={pixels}", "--duration=4Ki", "--preview-every=3", "-n")
    assert "preview of 5 images at 2 snapshots: 155 evaluations of the network each" in result.output
    assert f"fid, is of 12 images against {pixels}, for 2 EMA lengths, at 4 snapshots: 72 evaluations" in result.output
    assert not (tmp_path / "run").exists()
