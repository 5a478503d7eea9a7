"""Rules and weights of the user's own on command lines: FILE.py:function, the same recipe as the function in Python."""

import functools
import json
import re
import sys
import zipfile

import pytest
from click.testing import CliRunner

import edm2_guidance as eg
from edm2_guidance.cli.recipe_flags import recipe_flags
from edm2_guidance.commands import calculate_metrics, generate_images, generate_zip, reproduce
from edm2_guidance.images.sources import StoredImages

SOURCE = """
import torch

class Gauss:
    shape = (3, 16, 16)
    def __init__(self, mean):
        self.mean = mean
    def predict(self, x, sigma, y):
        return (0.1 * x + sigma**2 * self.mean) / (0.1 + sigma**2)

main = lambda device: Gauss(0.1)
weak = lambda device: Gauss(-0.2)

def clipped(main, references, weights, most=0.5):
    push = (weights[0] - 1) * (main - references[0])
    return main + push.clamp(-most, most)

def late(progress, by="step"):
    return 1.5 if progress > 0.5 else 1

def rising(step, w=2.0, power=1.0):
    return 1 + (w - 1) * step.progress ** power

def needy(step, w):
    return w

class Callable: pass
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def networks(file):
    return [f"--net={file}:main", f"--gnet={file}:weak", "--steps=3"]


@pytest.fixture
def made(recipe_command, file, networks):
    command, recipes = recipe_command

    def recipe(*words):
        recipes.clear()
        done = CliRunner().invoke(command, [*networks, *(word.replace("=FILE", f"={file}") for word in words)])
        return recipes[0] if recipes else done.output

    return recipe


def imported(file, monkeypatch):
    """The file as a script of the user imports it, under another module's name."""
    monkeypatch.syspath_prepend(file.parent)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return __import__("mine")


def test_it_is_the_recipe_of_the_function_in_python(made, file, networks, monkeypatch):
    mine = imported(file, monkeypatch)
    rule = made("--guidance=2", "--rule=FILE:clipped:most=0.25").rule
    assert rule == eg.Recipe("a", rule=functools.partial(mine.clipped, most=0.25)).rule
    assert made("--guidance=2", "--rule=FILE:clipped:most=0.5").rule == eg.Recipe("a", rule=mine.clipped).rule
    for words, function in {
        ("--weight=FILE:late",): mine.late,
        ("--weight=FILE:rising",): mine.rising,
        ("--weight=FILE:rising:w=3:power=2",): functools.partial(mine.rising, w=3, power=2),
        ("--weight=FILE:rising", "--guidance=3"): functools.partial(mine.rising, w=3),
        ("--weight=FILE:needy", "--guidance=3"): functools.partial(mine.needy, w=3),
    }.items():
        recipe = made(*words)
        assert [guide.weight for guide in recipe.guides] == [eg.Guide("a", function).weight]
        flags = [each for each in recipe_flags(recipe).split() if each not in networks]
        assert made(*flags) == recipe
    assert "-glate-cfg-" in generate_zip.default_path("", made("--weight=FILE:late"), [0]).name
    assert "-glate-by=a-b-cfg-" in generate_zip.default_path("", made("--weight=FILE:late:by=a/b"), [0]).name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rule=FILE:nothing", "--guidance=2"], "mine.py has no function nothing"),
        (["--rule=FILE", "--guidance=2"], "name a function of the file, FILE.py:FUNCTION"),
        (["--rule=none.py:rule", "--guidance=2"], "whose function rule is to be the rule"),
        (["--rule=FILE:Callable", "--guidance=2"], "write a function with def"),
        (["--rule=FILE:clipped:mst=1", "--guidance=2"], "clipped has no parameter 'mst' to be given; its own are most"),
        (["--rule=FILE:clipped:most", "--guidance=2"], "clipped: write most=VALUE"),
        (["--rule=FILE:clipped:most=x", "--guidance=2"], "clipped: most=x: 'x' is not a number"),
        (["--sampler=FILE:clipped"], "a function can be a rule, a weight, no sampler"),
        (["--weight=FILE:needy"], "a guide needs a weight"),
        (["--weight=FILE:late", "--guidance=2"], "mine.py:late and --guidance=2 say two weights"),
        (["--weight=FILE:late:w=2"], "late has no parameter w to be 2"),
    ],
)
def test_what_cannot_be_is_refused(made, words, said):
    assert said in made(*words)


def run(command, *words):
    done = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_zips_by_several_workers_are_those_of_python(file, networks, tmp_path, monkeypatch):
    own = [f"--rule={file}:clipped:most=0.25", f"--weight={file}:late"]
    words = [*networks, *own, "--num=6", "--batch=2", "--shard-size=2", f"--out={tmp_path / 'a.zip'}"]
    assert "done" in run(generate_zip.main, *words, "--worker=1/2")
    assert "6 images" in run(generate_zip.main, *words, "--worker=0/2")
    with zipfile.ZipFile(tmp_path / "a.zip") as made:
        recipe = json.loads(made.read("recipe.json"))["recipe"]
    mine = imported(file, monkeypatch)
    guide = eg.Guide(f"{file}:weak", mine.late)
    rule = functools.partial(mine.clipped, most=0.25)
    ours = eg.Recipe(f"{file}:main", guide, 3, rule=rule)
    assert (recipe["rule"], recipe["guides"][0]["weight"]) == (str(ours.rule), str(guide.weight))
    assert eg.generate_zip(ours, 6, tmp_path / "a.zip", batch=2, shard_size=2) == tmp_path / "a.zip"
    (stored,) = StoredImages(tmp_path / "a.zip")
    assert (stored.images == eg.generate(ours, 6, batch=2).images).all()


def test_grids_scores_and_searches_take_them(file, networks, tmp_path):
    rule, ledger = f"--rule={file}:clipped", f"--ledger={tmp_path / 'scores.jsonl'}"
    grid = [*networks, rule, f"--grid={tmp_path / 'a.png'}", "--seeds=0,1"]
    run(generate_images.main, *grid, f"--weight={file}:rising:power=2", "--weights=1,2")
    assert (tmp_path / "a.png").is_file()
    assert "w is what --weights says" in CliRunner().invoke(
        generate_images.main, [*grid, f"--weight={file}:late", "--weights=1,2", "--overwrite"]
    ).output  # fmt: skip
    scored = ["--ref=mnist16", "--metrics=fd_mnist", "--num=4", f"--workdir={tmp_path}", ledger]
    assert "fd_mnist@4" in run(calculate_metrics.main, "gen", *networks, f"--weight={file}:late", rule, *scored)
    search = ["--over=weight", "--weights=1.5,2", "--ref=mnist16", "--metric=fd_mnist", "--num=4", "--blocks=1"]
    weight = f"--weight={file}:rising:power=2"
    where = [f"--results={tmp_path}", ledger, "--name=mine"]
    said = run(reproduce.main, "search", *networks, rule, weight, *search, *where)
    assert f"--weight={file}:rising:power=2" in said
    power = ["--guidance=2", "--over=power", "--values=0.5,2", *search[2:]]
    said = run(reproduce.main, "search", *networks, rule, weight, *power, *where)
    assert "power 0.5  fd_mnist" in said
    assert re.search(f"--guidance=2 --weight={file}:rising:power=(0.5|2) ", said)
