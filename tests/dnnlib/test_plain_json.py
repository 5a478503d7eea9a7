"""JSON of anybody: what is read, and what is refused in one sentence."""

import json
from typing import Any

import pytest

from dnnlib.plain_json import MAX_DEPTH, parse_json


@pytest.mark.parametrize("value", [{"a": [1, -2.5, None, True, "é\ud800"]}, [], "x", 2**63, -(2**63), 1e308, {}])
def test_plain_values_are_read(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value).encode("utf-16")) == value


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_depth_has_a_limit() -> None:
    """Well below that of Python's stack, so that what was read once can be written, and read by any caller."""
    assert parse_json(nested(MAX_DEPTH)) is not None
    for text in (nested(MAX_DEPTH + 1), nested(10**6), '{"a":' * 200 + "1" + "}" * 200):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NaN", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("1e999", "the number 1e999 is too large"),
        ("1" * 5000, "an integer of 5000 digits"),
        ("[1,", "Expecting value, at character 3"),
        ("", "Expecting value"),
        (b"\xff\xfe\xfd", "not UTF-8|not valid JSON"),
    ],
)
def test_what_is_refused(text: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 200
