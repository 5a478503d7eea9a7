"""JSON from files that anybody may have written, as numbers that fit and containers that can be walked through."""

import json
import math
from typing import Any

#: Lists and objects inside each other. Whoever writes or compares a value again needs some of the stack for each.
MAX_DEPTH = 64

_MAX_DIGITS = 20  # 64 bits and a sign


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text in UTF-8, UTF-16 or UTF-32.

    ValueError, whose text continues "NAME ...", for what is no JSON, nested deeper than `MAX_DEPTH`, or has numbers
    that JSON has no word for, that are infinite as floats or that are integers of more than 20 digits.

    Takes at most some 35 times the memory of `data`: whoever unpacks it first says how much that may be.
    """
    try:
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data), "surrogatepass")
        value = _DECODER.decode(text)
        _check_depth(value)
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON: {error.msg}, at character {error.pos}") from error
    except RecursionError as error:
        raise ValueError("is not valid JSON: nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"is not valid JSON: {error}") from error
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [container for container in level if isinstance(container, list | dict)]
        level = [part for each in level for part in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return
    raise ValueError(f"nested too deeply, more than {MAX_DEPTH} levels")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_integer, parse_float=_finite)
