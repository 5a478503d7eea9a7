import click
import pytest

from edm2_guidance.cli.lists import FloatList


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
def test_lists(text, numbers):
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
