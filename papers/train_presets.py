"""Training settings by name: EDM2's twelve, and those of the small networks that ship here. No torch here.

The numbers stand in `train_presets.csv`; a cell left empty leaves the option's default.
"""

import csv
import difflib
import functools
from pathlib import Path


@functools.cache
def all_train_presets() -> dict[str, dict[str, str]]:
    """Every preset by name: the options that it sets, by name, each as it would be written on the command line."""
    with open(Path(__file__).with_name("train_presets.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row.pop("preset"): {name: text for name, text in row.items() if text != ""} for row in rows}


def find_train_preset(name: str) -> dict[str, str]:
    """The options of one preset; ValueError that lists the nearest names if there is none."""
    presets = all_train_presets()
    if name not in presets:
        near = difflib.get_close_matches(name, presets, n=3, cutoff=0.3) or list(presets)[:3]
        raise ValueError(f"there is no training preset '{name}'; near it: {', '.join(near)}")
    return dict(presets[name])
