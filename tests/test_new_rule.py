"""docs/new-rule.md: its code does what it says, where it says that it is to stand."""

import ast
import dataclasses
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edm2_guidance.commands import generate_images
from edm2_guidance.commands.reproduction.gallery_pages import page
from edm2_guidance.papers import gallery
from edm2_guidance.recipe import around, parts
from edm2_guidance.recipe.catalog import CATALOG, find
from edm2_guidance.recipe.spec import Spec

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "new-rule.md").read_text()
#: Of each block, the paragraph before it, its language and itself.
BLOCKS = re.findall(r"([^\n]+(?:\n[^\n]+)*)\n\n```(\w+)\n(.*?)^```", PAGE, re.M | re.S)
#: Blocks by the file that the paragraph names first.
CODE = {found[1]: code for text, _, code in BLOCKS if (found := re.search(r"`([\w/]+\.\w+)`", text))}
BASES = (parts.Rule, parts.Weight, parts.Reference, parts.Sampler, parts.Schedule, around.Around)
AXES = {cls.axis: cls for cls in BASES}
KIND = "edm2_guidance/sampling/guidance/rules/threshold.py"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a module of that name out of a block of the page."""

    def make(name, code):
        path = tmp_path / f"{name.rpartition('.')[2]}.py"
        path.write_text(code)
        spec = importlib.util.spec_from_file_location(name, path)
        made = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, made)
        spec.loader.exec_module(made)
        return made

    return make


def run_tests(made, expected):
    tests = [value for name, value in vars(made).items() if name.startswith("test_")]
    assert len(tests) == expected
    for test in tests:
        test()


def test_the_page_has_a_block_for_every_place():
    lists = {"edm2_guidance/recipe/catalog.py", "tests/recipe/defaults.txt", "edm2_guidance/papers/gallery.json"}
    files = {"my_rule.py", "test_my_rule.py", KIND, "tests/sampling/guidance/test_threshold.py"}
    assert lists | files <= set(CODE)
    assert all((ROOT / name).is_file() for name in lists)
    assert len(CODE[KIND].splitlines()) <= 35


def test_the_function_is_tested_and_samples(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module("my_rule", CODE["my_rule.py"])
    run_tests(module("test_my_rule", CODE["test_my_rule.py"]), 3)
    (command,) = re.findall(r"^python generate_images\.py (.*)$", PAGE, re.M)
    done = CliRunner().invoke(generate_images.main, [*shlex.split(command), "--steps=2", "--seeds=0", "--weights=2"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "mine.png").is_file()


def test_the_kind_is_tested_and_listed(module, monkeypatch):
    name = KIND.removesuffix(".py").replace("/", ".")
    module(name, CODE[KIND])
    lines = ast.literal_eval("{" + CODE["edm2_guidance/recipe/catalog.py"] + "}")
    monkeypatch.setitem(CATALOG, "rule", {**CATALOG["rule"], **lines})
    run_tests(module("test_threshold", CODE["tests/sampling/guidance/test_threshold.py"]), 4)
    cls = find("rule", "threshold")
    fields = (f"{each.name}={each.default!r}" for each in dataclasses.fields(cls))
    assert CODE["tests/recipe/defaults.txt"].strip() == " ".join(["rule", cls.kind, *fields])
    (entry,) = gallery.read(f"[{CODE['edm2_guidance/papers/gallery.json']}]")
    text = page(entry)
    assert cls.formula.split("\n")[1] in text
    assert "--rule=threshold" in text


def test_the_table_of_methods_is_that_of_the_base_classes():
    (table,) = re.findall(r"^\| kind of .*\n.*\n((?:\|.*\n)+)", PAGE, re.M)
    rows = [line.strip("|").split("|") for line in table.splitlines()]
    assert {kind.split(",")[0].strip() for kind, *_ in rows} == set(AXES)
    for kind, *cells in rows:
        (name,), must, may, values = (re.findall(r"`(\w+)`", cell) for cell in cells)
        base = getattr(parts, name, None) or getattr(around, name)
        assert issubclass(base, AXES[kind.split(",")[0].strip()])
        assert set(must) == base.__abstractmethods__
        own = {key: value for each in base.__mro__[: base.__mro__.index(Spec)] for key, value in vars(each).items()}
        assert all(callable(own[key]) or isinstance(own[key], property) for key in may), kind
        assert all(isinstance(own[key], bool | int | str | frozenset) for key in values), kind


@pytest.mark.parametrize("name", [KIND, "tests/sampling/guidance/test_threshold.py"])
def test_the_code_is_in_the_style_of_the_house(name):
    pytest.importorskip("ruff")
    for how in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *how, f"--stdin-filename={ROOT / name}", "-"]
        done = subprocess.run(command, input=CODE[name], text=True, capture_output=True, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
