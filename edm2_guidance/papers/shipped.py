"""Scores of the digits that were measured with the files that ship here: what an installation should give. No torch.

`shipped.csv` has a line per row of the table mnist16 and set of images: the seeds, or the name of a set of real digits.
"""

import csv
import functools
from pathlib import Path


@functools.cache
def shipped_scores() -> dict[tuple[str, str], float]:
    """(row, seeds as "0-499" or name) -> fd_mnist."""
    with open(Path(__file__).with_name("shipped.csv"), newline="", encoding="utf-8") as file:
        return {(line["row"], line["images"]): float(line["fd_mnist"]) for line in csv.DictReader(file)}
