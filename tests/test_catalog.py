"""A kind is one file and one line of the catalogue: no other product file knows that it is there."""

import ast
import dataclasses
import functools
import importlib
from pathlib import Path

import pytest

from edm2_guidance.recipe.catalog import CATALOG, find, kinds

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ROOT / "edm2_guidance"
CATALOGUES = {HOUSE / "recipe" / "catalog.py", HOUSE / "metrics" / "catalog.py"}
#: What a recipe has unless something is chosen; recipes, options and captions name it. `linear` is two kinds.
USUAL = {"heun", "edm", "network", "constant", "linear"}
#: Kinds whose names are common words: a format of numbers, branches of a fractal, parts of sentences, local names.
WORDS = {
    "precision", "coverage", "is", "classifier", "Classifier", "timesteps", "cosine", "posterior",
    "noise", "resize", "shift", "fewer", "duplicate", "balance", "blur", "beta",
    "table", "entropy", "attention", "Attention", "dropout", "crops", "unconditional",
}  # fmt: skip
FOLDERS = (HOUSE, ROOT / "dnnlib", ROOT / "torch_utils", ROOT / "training")
#: All sources but those that train what ships: each makes the weights of one kind.
PRODUCT = sorted({path for folder in FOLDERS for path in folder.rglob("*.py")} - {*HOUSE.glob("pretrained/train_*.py")})


def words(text):
    """Names, attributes, imported modules and whole texts of a source; docstrings and comments are not in it."""
    said = set()
    for node in ast.walk(ast.parse(text)):  # parents first
        if isinstance(node, ast.Expr):
            said.add(id(node.value))
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value


@functools.cache
def source(path):
    return path.read_text()


@functools.cache
def words_of(path):
    return set(words(source(path)))


@pytest.mark.parametrize(("axis", "kind"), [(axis, kind) for axis in CATALOG for kind in kinds(axis)])
def test_only_its_own_file_and_the_catalogue_name_a_kind(axis, kind):
    """Short names of metrics ("fid") are data of presets, tables and files. Of usual kinds the file alone counts."""
    cls = find(axis, kind)
    own = Path(importlib.import_module(cls.__module__).__file__)
    named = {cls.__module__, f"{cls.__module__}:{cls.__name__}"} | (set() if kind in USUAL else {kind, cls.__name__})
    named -= WORDS
    may_name = [path for path in PRODUCT if any(name in source(path) for name in named)]  # few are worth a parse
    other = [path for path in may_name if path not in {own, *CATALOGUES} and named & words_of(path)]
    assert not other


@pytest.mark.parametrize("axis", CATALOG)
def test_every_line_of_the_catalogue_is_a_kind(axis):
    for kind in kinds(axis):
        cls = find(axis, kind)
        assert (cls.axis, cls.kind) == (axis, kind)
        assert str(cls()) == kind
        assert cls.__doc__
        assert not cls.__doc__.startswith(f"{cls.__name__}("), "what dataclasses write where nobody did"


def test_defaults_are_for_ever():
    """A default that changes makes old recipes, folders and ledgers mean something else: add lines, change none."""
    now = []
    for axis, kind in ((each, kind) for each in CATALOG for kind in kinds(each)):
        cls = find(axis, kind)
        now.append(" ".join([axis, kind, *(f"{each.name}={each.default!r}" for each in dataclasses.fields(cls))]))
        now += [f"{axis} {kind}:{name} {dict(fields)}" for name, fields in cls.variants.items()]
    assert sorted(now) == sorted((ROOT / "tests" / "recipe" / "defaults.txt").read_text().splitlines())
