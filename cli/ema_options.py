"""Lists of EMA lengths on the command line. No torch here."""

from decimal import Decimal, InvalidOperation
from typing import Any

import click


class Lengths(click.ParamType):
    """Numbers such as 0.05,0.1; in a,b,...,c the dots stand for evenly spaced ones. A list of floats."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if isinstance(value, list):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        numbers: list[Decimal] = []  # decimal, so that the spacing is that of the digits
        dots = False
        for index, part in enumerate(parts):
            if part == "...":
                if dots or len(numbers) < 2 or index == len(parts) - 1:
                    self.fail(f"'{value}': write a,b,...,c with two numbers before the dots and one after", param, ctx)
                dots = True
                continue
            number = self._number(part, value, param, ctx)
            if dots:
                numbers += self._between(numbers[-2], numbers[-1], number, value, param, ctx)
            numbers.append(number)
            dots = False
        if len(set(numbers)) < len(numbers):
            self.fail(f"a number stands in '{value}' more than once", param, ctx)
        return [float(number) for number in numbers]

    def _number(self, part: str, value: Any, param: Any, ctx: Any) -> Decimal:
        try:
            number = Decimal(part)
        except InvalidOperation:
            number = Decimal("nan")
        if not number.is_finite():
            self.fail(f"'{part}' in '{value}' is not a number", param, ctx)
        return number

    def _between(
        self, first: Decimal, second: Decimal, end: Decimal, value: Any, param: Any, ctx: Any
    ) -> list[Decimal]:
        """What follows `second` before `end` at the spacing of the first two."""
        step = second - first
        count = 0 if step == 0 else (end - second) / step
        if count < 1 or count != int(count) or count > 10_000:
            self.fail(f"'{value}': steps of {step} from {second} do not lead to {end}", param, ctx)
        return [second + step * i for i in range(1, int(count))]
