"""Diagnostics from a recipe to the file beside a ZIP: the same in one run or many, and no image is another for them."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import edm2_guidance as eg
from edm2_guidance.commands.generate_zip import main
from edm2_guidance.images.npz import write_npz
from edm2_guidance.work.diagnostics import write_file
from tests.interruptions import terminated_at


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Last bits depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def in_a_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def recipe(tiny_networks):
    nets = {name: str(path) for name, path in tiny_networks.items()}
    guides = [eg.Guide(nets["weak"], 1.5, (0, 1)), eg.Guide(None, "cosine:w=2", reference="other-label")]
    return eg.Recipe(nets["cond"], guides, num_steps=4)


@pytest.fixture(scope="module")
def generation(recipe):
    return eg.open_recipe(recipe, "cpu")


@pytest.fixture(scope="module")
def run(tiny_networks):
    """generate_zip.py of seven images in three shards."""

    def run(out, *more, code=0):
        nets = [f"--net={tiny_networks['cond']}", f"--gnet={tiny_networks['weak']}", "--guidance=1.5"]
        some = ["--guidance-interval=0,1", "--steps=3", "--num=7", "--shard-size=3", "--batch=2", "--device=cpu"]
        done = CliRunner().invoke(main, [*nets, *some, f"--out={out}", *more])
        assert done.exit_code == code, done.output
        return done

    return run


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """What one undisturbed process makes: of the ZIP, and of the file beside it."""
    path = tmp_path_factory.mktemp("whole") / "a.zip"
    run(path, "--diagnostics")
    return files(path)


def files(name):
    return Path(name).read_bytes(), Path(f"{name}.diagnostics.npz").read_bytes()


def put(name, whole):
    Path(name).write_bytes(whole[0])
    Path(f"{name}.diagnostics.npz").write_bytes(whole[1])


def test_images_are_the_same_and_evaluations_those_announced(generation):
    plain, images = (eg.generate(generation, 5, batch=5, diagnostics=on) for on in (False, True))
    assert torch.equal(plain.images, images.images)
    found = eg.diagnostics(images)
    assert (tuple(found.seeds), tuple(found.labels)) == (images.seeds, images.labels)
    assert (found.guides, found.networks) == (("guide 1", "guide 2"), ("main", "guide 1"))
    assert found.evaluations.sum(1).tolist() == [list(generation.evaluations_per_image().values())] * 5
    assert np.isnan(found.difference[:, :, 0]).tolist() == [[False, False, True, True]] * 5
    assert np.isnan(found.difference[:, :, 1]).tolist() == [[True, False, False, False]] * 5  # cosine: 1 at the noise
    assert (found.weight[:, :, 0] == np.float32([1.5, 1.5, 1, 1])).all()
    np.testing.assert_allclose(found.weight[:, :, 1], [[1, 1.5, 2.5, 3]] * 5, rtol=1e-6)
    assert found.difference[:, :2, 0].min() > 0
    with pytest.raises(ValueError, match=r"made without: generate\(\.\.\., diagnostics=True\)"):
        eg.diagnostics(plain)


def test_no_batch_changes_them(generation, monkeypatch):
    whole = eg.diagnostics(eg.generate(generation, [3, 0, 5], batch=3, diagnostics=True))
    alone = eg.generate(generation, [5, 3, 0], batch=1, diagnostics=True).select([1, 2, 0])
    monkeypatch.setattr(generation.memory.sampling, "limit", 2)  # found before: a batch is sampled in parts
    parts = eg.generate(generation, [3, 0, 5], batch=3, diagnostics=True)
    assert parts.reduced == {"sampling": 2}
    for other in (eg.diagnostics(alone), eg.diagnostics(parts)):
        for name, values in whole.arrays().items():
            if name != "difference":
                assert np.array_equal(values, other.arrays()[name]), name
        np.testing.assert_allclose(whole.difference, other.difference, rtol=1e-3)


def by_class(labels):
    return 1 + torch.tensor(labels) / 10


def test_weights_are_each_images_own(tiny_networks):
    guide = eg.Guide(str(tiny_networks["weak"]), by_class)
    found = eg.diagnostics(eg.generate(eg.Recipe(str(tiny_networks["cond"]), guide, num_steps=2), 4, diagnostics=True))
    assert len(set(found.labels)) > 1
    np.testing.assert_allclose(found.weight[:, :, 0], np.repeat(1 + found.labels[:, None] / 10, 2, 1), rtol=1e-6)


def test_without_guides_and_classes(tiny_networks):
    found = eg.diagnostics(eg.generate(eg.Recipe(str(tiny_networks["uncond"]), num_steps=2), 2, diagnostics=True))
    assert found.labels is None
    assert found.difference.shape == found.weight.shape == (2, 2, 0)
    assert found.evaluations.tolist() == [[[2], [1]]] * 2
    write_file("a.npz", found, "")
    assert eg.diagnostics("a.npz").arrays().keys() == found.arrays().keys()


def test_workers_and_kills_give_the_files_of_one_run(run, whole, monkeypatch):
    """Killed in the work, and when one of the two files is there."""
    run("a.zip", "--diagnostics", "--worker=2/3")
    with terminated_at(4, monkeypatch):
        assert "2 of 3 shards are kept" in run("a.zip", "--diagnostics", "--steal", code=143).stderr
    with monkeypatch.context() as patch:
        patch.setattr("edm2_guidance.work.zip_output.dataset_json", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
        run("a.zip", "--diagnostics", "--worker=1/3", code=143)
    assert Path("a.zip.diagnostics.npz").exists()
    assert not Path("a.zip").exists()
    run("a.zip", "--diagnostics")
    assert files("a.zip") == whole
    assert "finished before" in run("a.zip", "--diagnostics").output
    assert "finished before" in run("a.zip").output
    assert sorted(path.name for path in Path().iterdir()) == ["a.zip", "a.zip.diagnostics.npz"]


def test_numpy_reads_the_file(whole):
    put("a.zip", whole)
    found = eg.diagnostics("a.zip")
    assert found.seeds.tolist() == eg.diagnostics("a.zip.diagnostics.npz").seeds.tolist() == [*range(7)]
    with np.load("a.zip.diagnostics.npz") as arrays:
        assert np.array_equal(arrays["difference"], found.difference, equal_nan=True)
        assert json.loads(arrays["about.json"])["guides"] == ["guide 1"]


def test_a_damaged_shard_is_made_again(run, whole):
    run("a.zip", "--diagnostics", "--worker=0/2")
    shard = Path("a.zip.shards/shard-00000.zip")
    content = bytearray(shard.read_bytes())
    content[content.index(b"diagnostics.difference.npy") + 170] ^= 1
    shard.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="shard 0 is unusable and will be made again: 'diagnostics.difference.npy'"):
        run("a.zip", "--diagnostics", "--worker=1/2")
    assert files("a.zip") == whole


def test_what_was_begun_without_goes_on_without_and_the_other_way_round(run, whole):
    run("a.zip", "--worker=0/2")
    run("b.zip", "--diagnostics", "--worker=0/2")
    said = run("a.zip", "--diagnostics", code=2).stderr
    assert "--batch=2 --shard-size=3 without --diagnostics goes on with it" in said
    assert "diagnostics: (none) | true" in said
    said = run("b.zip", code=2).stderr
    assert "--batch=2 --shard-size=3 --diagnostics goes on with it" in said
    run("a.zip")
    assert Path("a.zip").read_bytes() == whole[0]
    said = run("a.zip", "--diagnostics", code=2).stderr
    assert "a.zip was made without diagnostics: make it with --diagnostics, under another name" in said
    with pytest.raises(ValueError, match="was made without diagnostics"):
        eg.diagnostics("a.zip")


def test_files_of_others_are_refused(run, whole):
    put("a.zip", whole)
    ours, found = Path("a.zip.diagnostics.npz"), eg.diagnostics("a.zip")
    write_file("b.npz", found, "another")
    Path("b.npz").replace(ours)
    with pytest.raises(ValueError, match=r"a\.zip\.diagnostics\.npz is of other images than a\.zip: move it away"):
        eg.diagnostics("a.zip")
    assert "is of other images" in run("a.zip", "--diagnostics", code=2).stderr
    write_npz("c.npz", {"mu": found.sigma})
    with pytest.raises(ValueError, match="holds no diagnostics"):
        eg.diagnostics("c.npz")
    with pytest.raises(ValueError, match=r"whose weight is float32 \[7, 1, 1\]: make them again"):
        replace(found, weight=found.weight[:, :1])


def test_the_library_writes_the_files_of_the_command(tiny_networks, whole):
    guide = eg.Guide(str(tiny_networks["weak"]), 1.5, (0, 1))
    recipe = eg.Recipe(str(tiny_networks["cond"]), guide, num_steps=3)
    eg.generate_zip(recipe, 7, "a.zip", batch=2, shard_size=3, device="cpu", diagnostics=True)
    assert files("a.zip") == whole
