"""Specs: one text form, one canonical form, hashes that no new field moves."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest

from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.spec import Spec, canonical, digest, listing, option


@dataclass(frozen=True)
class Fruit(Spec):
    axis: ClassVar[str] = "fruit"


@dataclass(frozen=True)
class Apple(Fruit):
    """An apple, for these tests."""

    kind: ClassVar[str] = "apple"
    source: ClassVar[str] = "a tree"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cox": {"weight": 150, "age": 9, "peeled": True},
        "usual": {},
    }

    weight: float = option(100.0, "Weight", unit="gram", low=0, high=500)
    age: int = option(3, "Age", unit="days", low=0)
    colour: Literal["red", "green"] = option("red", "Colour")
    peeled: bool = option(False, "Without its peel")
    cuts: tuple[float, ...] = option((), "Where it is cut")
    seeds: int | None = option(None, "How many seeds; none = unknown")


@pytest.fixture(autouse=True)
def fruit(monkeypatch):
    entry = {"fruit": {"apple": "apple:Apple"}}
    monkeypatch.setattr(catalog, "CATALOG", {**catalog.CATALOG, **entry})
    monkeypatch.setattr(
        catalog, "find", lambda axis, kind, find=catalog.find: Apple if kind == "apple" else find(axis, kind)
    )


TEXTS = {
    "apple": Apple(),
    "apple:weight=50": Apple(weight=50),
    "apple:weight=0.1:age=7": Apple(0.1, 7),
    "apple:green:peeled": Apple(colour="green", peeled=True),
    "apple:cuts=0.25+0.5+2": Apple(cuts=(0.25, 0.5, 2.0)),
    "apple:seeds=0": Apple(seeds=0),
    "apple:cox": Apple(weight=150, age=9, peeled=True),
    "apple:weight=150:age=8:peeled": Apple(weight=150, age=8, peeled=True),
    "apple:weight=150:age=9": Apple(weight=150, age=9),
}


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_back(text):
    assert Fruit.parse(text) == TEXTS[text]
    assert str(TEXTS[text]) == text


def test_other_spellings_of_the_same():
    assert Fruit.parse("apple:colour=green:peeled=yes:weight=5e1") == Fruit.parse("apple:weight=50:green:peeled")
    assert Fruit.parse("apple:weight=100:seeds=none") == Apple()
    assert str(Apple(weight=100)) == "apple"
    assert Fruit.parse("apple:usual") == Apple()
    assert Fruit.parse("apple:age=9:peeled:weight=150") == Fruit.parse("apple:cox")
    assert Fruit.parse("apple:age=8:cox") == Fruit.parse("apple:cox:age=8"), "fields win, wherever the variant stands"


def test_a_variant_is_hashed_as_its_fields():
    assert canonical(Fruit.parse("apple:cox")) == {"kind": "apple", "weight": 150.0, "age": 9, "peeled": True}
    assert Fruit.parse("apple:cox:weight=100:age=3:peeled=no") == Apple()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("appel", r"there is no fruit 'appel' \(did you mean apple\?\): one of apple"),
        ("apple:wait=3", r"apple has no 'wait' \(did you mean weight\?\); it takes weight, age, colour"),
        ("apple:blue", r"apple has no 'blue'"),
        ("apple:weight", "apple: write weight=VALUE"),
        ("apple:weight=heavy", "apple: weight=heavy: 'heavy' is not a number"),
        ("apple:weight=501", "apple: weight=501: must be at least 0 and at most 500"),
        ("apple:weight=nan", "apple: weight=nan: must be"),
        ("apple:age=1.5", "'1.5' is not an integer"),
        ("apple:age=-1", "must be at least 0"),
        ("apple:colour=blue", "colour=blue: one of red, green"),
        ("apple:peeled=maybe", "peeled=maybe: not true or false"),
        ("apple:cuts=1+x", "'x' is not a number"),
        ("apple:age=1:age=2", "age is given twice"),
        ("apple:cox:usual", "apple:cox:usual: cox and usual are variants, and one may be given"),
        ("apple:coks", r"apple has no 'coks'"),
    ],
)
def test_what_does_not_fit_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Fruit.parse(text)


def test_values_of_other_types_are_refused():
    for wrong in ({"weight": "3"}, {"age": True}, {"age": 3.0}, {"peeled": 1}, {"weight": None}):
        with pytest.raises(ValueError, match=r"apple|not "):
            Apple(**wrong)


def test_canonical_form_has_what_differs_from_the_defaults():
    assert canonical(Apple()) == {"kind": "apple"}
    assert canonical(Apple(weight=50, cuts=(1, 2))) == {"kind": "apple", "weight": 50.0, "cuts": [1.0, 2.0]}
    assert canonical({"a": (Apple(), math.inf)}) == {"a": [{"kind": "apple"}, "inf"]}


def test_no_hash_moves_when_a_field_with_a_default_is_added():
    older = [Apple(), Apple(weight=50), Apple(colour="green", seeds=4)]
    more = dataclasses.make_dataclass("Apple", [("worms", int, option(0, "Worms"))], bases=(Apple,), frozen=True)
    for apple in older:
        newer = more(**apple.changed())
        assert newer.changed() == apple.changed()
        assert digest(newer) == digest(apple)
    assert digest(more(worms=1)) != digest(Apple())


def test_hashes_are_for_ever():
    """SHA-256 of {"kind":"apple"}, and of the other's canonical text, written by hand."""
    assert digest(Apple()) == "b0e77f2de9d0b8946d2e54dfffcecd118399f52c1c634d3ac133cfbdfdf2a44d"
    assert (
        digest(Apple(0.1, 7, "green", True, (0.5,), 0))
        == "79a3d08280a777ff839fa422a71fd6d5155a439ccecbaee170aa40b7144c84e8"
    )


def test_the_listing_tells_all_there_is():
    text = listing("fruit")
    assert "apple        An apple, for these tests. [a tree]" in text
    assert "weight=GRAM  Weight  [default: 100]" in text
    assert "red|green  Colour  [default: red]" in text
    assert "    cox  for weight=150:age=9:peeled\n    usual  for the defaults" in text
