"""Option types for lists: whole numbers and ranges, numbers evenly spaced. No torch here."""

import re
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from edm2_guidance.cli.param_type import ParamType
from edm2_guidance.cli.typed import plain_number

MAX_SEED = 2**32 - 1  # generators take seeds modulo 2^32: larger ones would repeat images
MAX_IMAGES = 10**7
MAX_VALUES = 10**4  # of a list such as 1,1.05,...,3.5


class IntList(ParamType):
    """Numbers and ranges such as 0,5,10-19, as a list of ints that holds none twice."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        numbers: list[int] = []
        parts = str(value).split(",")
        for part in parts:
            match = re.fullmatch(r"\s*(\d{1,20})(?:-(\d{1,20}))?\s*", part)
            if match is None or (len(parts) > 1 and re.fullmatch(r"0\d\d", part)):  # 50,000 is not 50 and 0
                self.fail(_about_list(str(value)), param, ctx)
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                self.fail(f"the range {part.strip()} runs backwards; write {last}-{first}", param, ctx)
            if last > MAX_SEED:
                self.fail(f"{last} is too large: numbers go up to {MAX_SEED}", param, ctx)
            if len(numbers) + last - first >= MAX_IMAGES:
                self.fail(f"these are more than {MAX_IMAGES} numbers", param, ctx)
            numbers.extend(range(first, last + 1))
        seen: set[int] = set()
        for number in numbers:
            if number in seen:
                self.fail(f"{number} stands there more than once", param, ctx)
            seen.add(number)
        return numbers


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

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if isinstance(value, list):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        numbers: list[Decimal] = []  # decimal, so that the spacing is that of the digits
        dots = False
        for index, part in enumerate(parts):
            if part == "...":
                if dots or len(numbers) < 2 or index == len(parts) - 1:
                    self.fail("write a,b,...,c with two numbers before the dots and one after", param, ctx)
                dots = True
                continue
            number = self._number(part, param, ctx)
            if dots:
                numbers += self._between(numbers[-2], numbers[-1], number, param, ctx)
            numbers.append(number)
            dots = False
        if self.unique and len(set(numbers)) < len(numbers):
            self.fail("a number stands there more than once", param, ctx)
        return [float(number) for number in numbers]

    def _number(self, part: str, param: Any, ctx: Any) -> Decimal:
        try:
            number = Decimal(part)
        except InvalidOperation:
            number = Decimal("nan")
        if not number.is_finite():
            self.fail(f"'{part}' is not a number; give numbers such as 1,1.5,2 or 1,1.05,...,3", param, ctx)
        return number

    def _between(self, first: Decimal, second: Decimal, end: Decimal, param: Any, ctx: Any) -> list[Decimal]:
        """What follows `second` before `end` at the spacing of the first two."""
        step = second - first
        count = 0 if step == 0 else (end - second) / step
        if count < 1 or count != int(count) or count > MAX_VALUES:
            self.fail(f"steps of {step} from {second} do not lead to {end}", param, ctx)
        return [second + step * i for i in range(1, int(count))]
