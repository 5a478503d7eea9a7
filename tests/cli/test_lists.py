"""Lists on a command line: whole numbers and ranges, numbers evenly spaced, names."""

import click
import pytest

from edm2_guidance.cli.lists import FloatList, IntList
from edm2_guidance.cli.metric_options import Metrics, OneMetric


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0.150", [0.15]),
        ("0.05, 0.10", [0.05, 0.1]),
        ("0.1,0.05", [0.1, 0.05]),
        ("0.010,0.015,...,0.030", [0.01, 0.015, 0.02, 0.025, 0.03]),
        ("0.03,0.02,...,0.01", [0.03, 0.02, 0.01]),
        ("0.005,0.01,0.02,...,0.04,0.1,0.15,...,0.25", [0.005, 0.01, 0.02, 0.03, 0.04, 0.1, 0.15, 0.2, 0.25]),
    ],
)
def test_number_lists(text, numbers):
    assert FloatList(unique=True).convert(text, None, None) == numbers


def test_the_documented_range_has_49_lengths():
    numbers = FloatList(unique=True).convert("0.010,0.015,...,0.250", None, None)
    assert numbers == [float(f"{i / 1000:.3f}") for i in range(10, 251, 5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a number"),
        ("0.1,x", "'x' is not a number; give numbers such as 1,1.5,2"),
        ("nan", "is not a number"),
        ("0.1,0.1", "more than once"),
        ("0.1,...,0.2", "two numbers before the dots and one after"),
        ("0.1,0.2,...", "two numbers before the dots and one after"),
        ("0.1,0.2,...,...,0.4", "two numbers before the dots and one after"),
        ("0.010,0.015,...,0.252", "steps of 0.005 from 0.015 do not lead to 0.252"),
        ("0.1,0.2,...,0.05", "do not lead to"),
        ("0.1,0.1,...,0.2", "do not lead to"),
        ("0,1e-9,...,1", "do not lead to"),
    ],
)
def test_what_is_no_list(text, message):
    with pytest.raises(click.BadParameter) as error:
        FloatList(unique=True).convert(text, None, None)
    assert message in error.value.message


@pytest.mark.parametrize(
    ("text", "expected"), [("16-19", [16, 17, 18, 19]), ("1,2,5-7", [1, 2, 5, 6, 7]), ("0", [0]), ("3-3", [3])]
)
def test_seed_lists(text, expected):
    assert IntList().convert(text, None, None) == expected


def test_long_seed_lists_are_checked_in_one_pass():
    """Compared pair by pair they would take minutes."""
    with pytest.raises(click.BadParameter, match="60000 stands"):
        IntList().convert("0-60000,60000", None, None)


@pytest.mark.parametrize(
    "text",
    ["", "a", "1,,2", "-3", "1-2-3", "1.5", "0:9"],
)
def test_what_is_no_seed_list(text):
    with pytest.raises(click.BadParameter, match=r"^give whole numbers and ranges, such as 0,5,10-19$"):
        IntList().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5-2", "write 2-5"),
        ("1,2,1", "1 stands there more than once"),
        ("0-3,2", "2 stands there more than once"),
        ("0-99999999999", "too large"),
        ("4294967296", "too large"),
        ("0-10000000", "more than 10000000"),
        ("0..9", "here 0-9"),
        ("0...9,12", "here 0-9,12"),
        ("0\u20139", "here 0-9"),
        ("0 to 9", "here 0-9"),
        ("[1, 2]", "here 1,2"),
        ("1 2 3", "here 1,2,3"),
        ("1;2;", "here 1,2"),
        ("0-9,", "here 0-9"),
        ("50k", "the first 50000 are 0-49999"),
        ("50,000", "the first 50000 are 0-49999"),
        ("1e4", "the first 10000 are 0-9999"),
    ],
)
def test_bad_seed_lists(text, says):
    with pytest.raises(click.BadParameter) as error:
        IntList().convert(text, None, None)
    assert says in error.value.message


def test_metrics_are_unique_and_known():
    assert Metrics().convert("fd-dinov2,fid,fid,fd/inception", None, None) == ["fd_dinov2", "fid"]
    with pytest.raises(click.BadParameter, match=r"'fif' is not one of fid, fd_dinov2"):
        Metrics().convert("fif", None, None)
    with pytest.raises(click.BadParameter, match="'fd' is a measure: give it with its features, such as fd/mnist"):
        OneMetric().convert("fd", None, None)
    assert OneMetric().convert("kid:size=20/mnist", None, None) == "kid_mnist:size=20"
    with pytest.raises(click.BadParameter, match=r"there is no measure 'fad' \(did you mean fd\?\)"):
        Metrics().convert("fad/inception", None, None)
    with pytest.raises(click.BadParameter, match="fid has no 'size'; it takes nothing"):
        Metrics().convert("fid:size=3", None, None)
