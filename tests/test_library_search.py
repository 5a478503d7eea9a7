"""Searches and stored latents, from Python: the same points as the command, and the same images as without a stop."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import edm2_guidance as eg
from edm2_guidance.commands import reproduce
from edm2_guidance.metrics import ledger


class Gauss:
    """Normal data around a mean per class."""

    shape = (3, 16, 16)
    num_classes = 10

    def __init__(self, mean):
        self.mean = mean

    def predict(self, x, sigma, y):
        mean = self.mean + 0.05 * y.argmax(1).view(-1, 1, 1, 1)
        return (0.1 * x + sigma**2 * mean) / (0.1 + sigma**2)


MAIN, WEAK = Gauss(-0.2), Gauss(-0.3)


def rising(progress, w, power=1.0):
    return 1 + (w - 1) * progress**power


RECIPE = eg.Recipe(MAIN, eg.Guide(WEAK, functools.partial(rising, w=1.5)), num_steps=3)


def searched(recipe=RECIPE, values=None, **more):
    return eg.search(recipe, values or {"weight": [3, 1.5], "power": (1, 2)}, "mnist16", "fd-mnist", num=4, **more)


def test_points_are_scored_best_first(capfd):
    found = searched()
    assert capfd.readouterr() == ("", "")
    points = {(trial.point["weight"], trial.point["power"]) for trial in found}
    assert points == {(1.5, 1), (1.5, 2), (3, 1), (3, 2)}
    assert [trial.score.value for trial in found] == sorted(trial.score.value for trial in found)
    for trial in found[:2]:
        again = eg.score(trial.recipe, "mnist16", "fd_mnist", num=4)["fd_mnist"]
        assert again.value == pytest.approx(trial.score.value, rel=1e-6)
        assert trial.recipe.guides[0].weight.w == trial.point["weight"]
    power = f"power {found[0].point['power']:g}"
    assert str(found).splitlines()[0] == str(found[0])
    assert power in str(found[0])
    assert "fd_mnist@4 " in str(found[0])


def test_a_search_goes_on_from_its_ledger(tmp_path, monkeypatch):
    path = tmp_path / "scores.jsonl"
    first = searched(values={"weight": [1.5, 3]}, ledger=path, name="mine")
    before = path.read_bytes()
    assert [line["search"]["name"] for line in ledger.read(path)] == ["mine", "mine"]
    assert searched(values={"weight": np.float32([3, 1.5])}, ledger=path, name="mine") == first
    assert path.read_bytes() == before
    assert len(searched(values={"weight": [1.5, 2, 3]}, ledger=path, name="mine")) == 3
    assert path.read_bytes().startswith(before)
    assert len(ledger.read(path)) == 3
    assert not list((tmp_path / "work").iterdir())


def test_points_are_those_of_the_command(tmp_path):
    path = tmp_path / "ledger.jsonl"
    recipe = eg.Recipe("mnist16-cond", eg.Guide("mnist16-weak", 1.5), num_steps=2)
    (trial,) = searched(recipe, {"weight": [2]}, ledger=path, name="mine")
    before = json.loads(path.read_bytes())
    words = ["--net=mnist16-cond", "--gnet=mnist16-weak", "--steps=2", "--over=weight", "--weights=2", "--num=4"]
    more = ["--metric=fd_mnist", "--ref=mnist16", "--blocks=1", f"--results={tmp_path}", f"--ledger={path}"]
    said = CliRunner().invoke(reproduce.main, ["search", *words, *more, "--name=mine"], catch_exceptions=False).output
    assert "best:" in said
    assert [line["value"] for line in ledger.read(path)][:1] == [before["value"]] == [trial.score.value]
    assert len(ledger.read(path)) == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pwr": [1, 2]}, "'pwr': no part of this recipe has it"),
        ({"scale": [1, 2]}, "'scale' changes nothing of this recipe"),
        ({"weight": 2}, r"weight=2: give the values to try, such as \[1, 1.5, 2\]"),
        ({"weight": []}, "weight: the values of a search rise or fall"),
    ],
)
def test_what_changes_nothing_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        searched(values=values)


def test_a_search_opens_networks_itself():
    with pytest.raises(ValueError, match="is no recipe to vary: give Recipe"):
        searched(eg.open_recipe(RECIPE))


def test_stored_latents_decode_to_the_same_images(tmp_path):
    latents = eg.sample_latents(RECIPE, 5, batch=2)
    latents.save(tmp_path / "a.npz")
    loaded = eg.Latents.load(tmp_path / "a.npz")
    assert torch.equal(loaded.values, latents.values)
    assert loaded.recipe == latents.recipe == eg.open_recipe(RECIPE).recipe.to_json()
    images, again = eg.generate(RECIPE, 5, batch=2), eg.decode(RECIPE, loaded)
    assert torch.equal(images.images, again.images)
    assert (images.seeds, images.labels) == (again.seeds, again.labels)
    with pytest.raises(ValueError, match=r"latents of \[3, 8, 8\]: Gauss makes and decodes \[3, 16, 16\]"):
        eg.decode(RECIPE, eg.Latents(torch.zeros(1, 3, 8, 8), (0,)))
    (tmp_path / "a.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"a\.npz"):
        eg.Latents.load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (3, "3 is no network: give a path, URL or name"),
        (torch.nn.Conv2d(3, 3, 1), "Conv2d is in training mode"),
        (torch.nn.Conv2d(3, 3, 1).eval(), "^a Conv2d without img_channels, img_resolution, label_dim"),
        (Gauss(object()), "Gauss takes mean, a object, from outside"),
    ],
)
def test_objects_that_are_no_networks_are_refused(net, words):
    with pytest.raises(ValueError, match=words):
        eg.Recipe(net)


def test_an_object_is_known_by_its_parameters(tmp_path):
    class Linear(torch.nn.Module):
        img_channels, img_resolution, label_dim = 3, 16, 0

        def __init__(self):
            super().__init__()
            self.mean = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x, sigma, labels):
            return (0.1 * x + sigma**2 * self.mean) / (0.1 + sigma**2)

    net, other = Linear().eval(), Linear().eval()
    recipe = eg.Recipe(net, num_steps=2)
    assert recipe.hash == eg.Recipe(other, num_steps=2).hash
    path = eg.generate_zip(recipe, 3, tmp_path / "a.zip")
    assert eg.score(recipe, "mnist16", num=3)["fd_mnist"].value == pytest.approx(
        eg.score(path, "mnist16")["fd_mnist"].value
    )
    with pytest.raises(FileNotFoundError, match=r"no file Linear; .*give it again, dataclasses.replace\(recipe, net="):
        eg.generate(eg.read_recipe(path), 1)
    again = dataclasses.replace(eg.read_recipe(path), net=other)
    assert eg.open_recipe(again).recipe == eg.read_recipe(path)
    with torch.no_grad():
        other.mean += 1
    assert recipe.hash != eg.Recipe(other, num_steps=2).hash
    with pytest.raises(ValueError, match=r"a\.zip"):
        eg.generate_zip(eg.Recipe(other, num_steps=2), 3, path)
