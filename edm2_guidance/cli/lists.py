"""Option types for lists: whole numbers and ranges, numbers evenly spaced; width and height; seeds. No torch here."""

import re
from decimal import Decimal, InvalidOperation
from typing import TypeVar

import click

from edm2_guidance.cli.option_group import Field, option
from edm2_guidance.cli.param_type import ParamType
from edm2_guidance.cli.typed import given, plain_number
from edm2_guidance.recipe.recipe import MAX_SEED

MAX_IMAGES = 10**7
MAX_VALUES = 10**4  # of a list such as 1,1.05,...,3.5
Item = TypeVar("Item")


class IntList(ParamType):
    """Numbers and ranges such as 0,5,10-19, as a list of ints that holds none twice."""

    name = "list"

    def parse(self, text: str) -> list[int]:
        numbers: list[int] = []
        parts = text.split(",")
        for part in parts:
            match = re.fullmatch(r"\s*(\d{1,20})(?:-(\d{1,20}))?\s*", part)
            if match is None or (len(parts) > 1 and re.fullmatch(r"0\d\d", part)):  # 50,000 is not 50 and 0
                raise ValueError(_about_list(text))
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise ValueError(f"the range {part.strip()} runs backwards; write {last}-{first}")
            if last > MAX_SEED:
                raise ValueError(f"{last} is too large: numbers go up to {MAX_SEED}")
            if len(numbers) + last - first >= MAX_IMAGES:
                raise ValueError(f"these are more than {MAX_IMAGES} numbers")
            numbers.extend(range(first, last + 1))
        return check_once(numbers)


def check_once(items: list[Item]) -> list[Item]:
    """The items. ValueError if one of them comes twice."""
    seen: set[Item] = set()
    for item in items:
        if item in seen:
            raise ValueError(f"{item} stands there more than once")
        seen.add(item)
    return items


def _about_list(text: str) -> str:
    """What to write in place of a text that is no list of whole numbers."""
    advice = "give whole numbers and ranges, such as 0,5,10-19"
    ranges = re.sub(r"\s*(?:\.\.+|[\u2013\u2014]|\bto\b)\s*", "-", text.strip().strip("[](){}"))
    ranges = re.sub(r"\s*[,;\s]\s*", ",", ranges).strip(",")
    if re.fullmatch(r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*", ranges) and not re.search(r",0\d\d\b", ranges):
        return f"{advice}: here {ranges}"
    count = plain_number(text)
    if count is not None and count.isdigit() and int(count) > 0 and count != text:
        return f"{advice}; the first {count} are 0-{int(count) - 1}"
    return advice


class FloatList(ParamType):
    """Numbers such as 1,1.5,2; in a,b,...,c the dots stand for evenly spaced ones. unique: none comes twice."""

    name = "list"

    def __init__(self, *, unique: bool = False) -> None:
        self.unique = unique

    def parse(self, text: str) -> list[float]:
        parts = [part.strip() for part in text.split(",")]
        numbers: list[Decimal] = []  # decimal, so that the spacing is that of the digits
        dots = False
        for index, part in enumerate(parts):
            if part == "...":
                if dots or len(numbers) < 2 or index == len(parts) - 1:
                    raise ValueError("write a,b,...,c with two numbers before the dots and one after")
                dots = True
                continue
            number = _decimal(part)
            if dots:
                numbers += _between(numbers[-2], numbers[-1], number)
            numbers.append(number)
            dots = False
        if self.unique and len(set(numbers)) < len(numbers):
            raise ValueError("a number stands there more than once")
        return [float(number) for number in numbers]


def _decimal(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise ValueError(f"'{text}' is not a number; give numbers such as 1,1.5,2 or 1,1.05,...,3")
    return number


def _between(first: Decimal, second: Decimal, end: Decimal) -> list[Decimal]:
    """What follows `second` before `end` at the spacing of the first two."""
    step = second - first
    count = 0 if step == 0 else (end - second) / step
    if count < 1 or count != int(count) or count > MAX_VALUES:
        raise ValueError(f"steps of {step} from {second} do not lead to {end}")
    return [second + step * i for i in range(1, int(count))]


class Size(ParamType):
    """WxH, such as 512x512."""

    name = "WxH"

    def parse(self, text: str) -> tuple[int, int]:
        match = re.fullmatch(r"(\d+)[xX](\d+)", text)
        if match is None:
            square = f": {text}x{text}" if re.fullmatch(r"\d+", text) else ", such as 512x512"
            raise ValueError(f"give width and height, WxH{square}")
        return int(match[1]), int(match[2])


def seed_option() -> Field:
    """--seed: the first one."""
    return option("First seed", type=click.IntRange(min=0), default=0, heading="Images")


def seeds_from(seeds: list[int] | None, first: int, num: int) -> list[int]:
    """The seeds of --seeds, or `num` of them from --seed on; a usage error for both."""
    if seeds is None or given("seed") or given("num_images"):
        if given("seeds"):
            raise click.UsageError("--seeds says which and how many: leave out --seed and --num-images")
        return list(first_seeds(first, num))
    return list(seeds)


def first_seeds(first: int, num: int) -> range:
    """So many seeds; a usage error if generators do not take them all."""
    last = first + num - 1
    if last > MAX_SEED:
        raise click.UsageError(f"seeds up to {last}: they go up to {MAX_SEED}")
    return range(first, last + 1)
