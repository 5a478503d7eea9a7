"""What a hash is of: whatever a function or an object does changes it, and what has none is refused."""

import dataclasses
import functools
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edm2_guidance.recipe.described import describe, is_installed
from edm2_guidance.recipe.spec import digest

SCALE, OTHER = 1.0, 2
COUNT = itertools.count()  # of modules that tests write


def described(value):
    return digest(describe(value))


def linear(main):
    return main


def scaled(main):
    return SCALE * linear(main)


def closing_over(value):
    def rule(main):
        return main if value is None else main * 1

    return rule


def in_a_function(main):
    def inner():
        return main * SCALE

    return inner()


def in_a_lambda(main):
    return (lambda: [main * (lambda: SCALE)()])()


def in_a_comprehension(main):
    return sum({each * SCALE for each in (main,)})


def in_a_class(main):
    class Local:
        scale = SCALE

        def scaled(self):
            return main * self.scale

    return Local().scaled()


@torch.no_grad()
def without_gradients(main):
    return SCALE * main


@functools.cache
def kept(main):
    return SCALE * main


def calling_kept(main):
    return kept(main)


class Scaler:
    factor = 1

    def __call__(self, main):
        return main * self.scale * SCALE


class Small(Scaler):
    def __init__(self, scale):
        self.scale = scale


@dataclasses.dataclass
class Settings(Scaler):
    scale: float = 1


class Net(torch.nn.Module):
    def __init__(self, start):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 2))
        torch.nn.init.constant_(self.layers[0].weight, start)
        torch.nn.init.zeros_(self.layers[0].bias)
        self.register_buffer("kept", torch.zeros(1), persistent=False)
        self.width = 2


def test_a_hash_is_of_the_text_and_of_all_that_is_taken_from_elsewhere():
    values = (1, 2, "a", None, [1, 2], {"a": (1.5,)}, {1, 2}, b"a", float("nan"), linear, torch.float64)
    arrays = [make(2) for make in (torch.zeros, torch.ones, np.zeros)] + [torch.ones(2, dtype=torch.bfloat16)]
    objects = [Small(1), Small(2), Settings(2), Net(0.0), Net(1.0), torch.nn.SiLU(), Small(1).__call__, Small, np.exp]
    functions = [linear, scaled, functools.partial(scaled, main=1), *map(closing_over, [*values, *arrays, *objects])]
    hashes = [described(each) for each in functions]
    assert len(set(hashes)) == len(functions)
    assert hashes == [described(each) for each in functions]
    assert described(closing_over(Net(1.0))) == described(closing_over(Net(1.0))) in hashes


@pytest.mark.parametrize(
    "function",
    [
        scaled, in_a_function, in_a_lambda, in_a_comprehension, in_a_class, without_gradients, calling_kept,
        closing_over(scaled), closing_over(Small(1)), closing_over([{"a": kept}]),
    ],
)  # fmt: skip
def test_globals_that_any_code_inside_reads_are_hashed(function, monkeypatch):
    before = described(function)
    monkeypatch.setitem(globals(), "OTHER", 3)
    assert described(function) == before
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert described(function) != before


def test_attributes_of_classes_and_parameters_of_modules_are_hashed(monkeypatch):
    net, small = Net(0.0), Small(1)
    before = described(closing_over(net)), described(closing_over(small))
    with torch.no_grad():
        net.kept += 1
    monkeypatch.setattr(Scaler, "factor", 2)
    now = described(closing_over(net)), described(closing_over(small))
    assert not set(before) & set(now)
    small.identity = {"scale": 1}  # in place of the attributes
    named = described(closing_over(small))
    small.scale = 5
    assert described(closing_over(small)) == named != now[1]


def test_a_link_to_the_project_leads_to_the_project(tmp_path):
    (tmp_path / "link").symlink_to(Path(__file__).parents[2])
    assert is_installed(str(tmp_path / "link" / "edm2_guidance" / "library.py"))
    assert not is_installed(str(tmp_path / "link" / "examples" / "own_rule.py"))


def test_functions_that_lead_back_to_themselves_have_a_hash():
    def down(n):
        return n if n == 0 else up(n - 1)

    def up(n):
        return down(n)

    assert len({described(down), described(up)}) == 2


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes modules of the user's own, and imports the first."""
    monkeypatch.syspath_prepend(tmp_path)

    def made(*texts):
        names = [f"own_{next(COUNT)}" for _ in texts]
        for name, text, after in zip(names, texts, [*names[1:], ""], strict=True):
            (tmp_path / f"{name}.py").write_text(text.replace("NEXT", after))
        return __import__(names[0])

    return made


@pytest.mark.parametrize(
    "rule",
    [
        "import NEXT\ndef rule(main):\n    return [NEXT.shift(each) for each in main]\n",
        "from NEXT import shift\ndef rule(main):\n    return shift(main)\n",
    ],
)
def test_what_is_called_in_other_files_is_hashed_however_far(files, rule):
    shift = "import torch\nfrom NEXT import value\ndef shift(x):\n    return torch.clamp(x + value(), 0)\n"
    module = files(rule, shift, "BY = 1\ndef value():\n    return BY\n")
    before = described(module.rule)
    assert described(module.rule) == before
    last = sys.modules[f"own_{next(COUNT) - 1}"]
    last.BY = 2
    assert described(module.rule) != before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "import NEXT\ndef rule(main):\n    return getattr(NEXT, 'shift')(main)\n",
            "write own.*NAME where NAME is used",
        ),
        (
            "def rule(main):\n    import NEXT\n    return NEXT.shift(main)\n",
            "rule imports own.*at the head of the file",
        ),
    ],
)
def test_what_cannot_be_known_of_other_files_is_refused(files, text, words):
    module = files(text, "def shift(x):\n    return x\n")
    with pytest.raises(ValueError, match=words):
        describe(module.rule)


def test_installed_code_counts_by_its_name_and_files_edited_later_do_not(files, tmp_path):
    module = files("def rule(main):\n    import torch\n    return torch.clamp(main, 0)\n")
    before = described(module.rule)
    (tmp_path / f"{module.__name__}.py").write_text("# edited while it runs\n")
    assert described(module.rule) == before


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (closing_over(object()), "rule takes value, a object, from outside"),
        (closing_over({1: 2}), "a dict, from outside"),
        (closing_over(torch.Generator()), "a Generator, from outside"),
        (closing_over(np.array([object()])), "a ndarray, from outside"),
        (closing_over(Small(iter([]))), "Small takes scale, a list_iterator"),
        (closing_over([].append), None),
        (eval("lambda main: main"), "<lambda>: its text is nowhere"),
    ],
)
def test_what_has_no_hash_is_refused(function, words):
    if words is None:
        assert described(function)
        return
    with pytest.raises(ValueError, match=words):
        describe(function)
