"""A preset by its name, or what is near it. No torch here."""

import difflib

from edm2_guidance.papers.presets import Preset, all_presets
from edm2_guidance.papers.tables import all_rows


def find_preset(name: str) -> Preset:
    """The preset of that name; ValueError that lists the nearest names if there is none."""
    presets = all_presets()
    if name not in presets:
        if any(row.name == name for row in all_rows()):
            raise ValueError(
                f"'{name}' is a row of the tables that no preset stands for: python reproduce.py run {name} makes it, "
                "plan shows its networks and weights"
            )
        near = difflib.get_close_matches(name, presets, n=3, cutoff=0.3) or list(presets)[:3]
        raise ValueError(
            f"there is no preset '{name}'; near it: {', '.join(near)} (all: generate_images.py --list-presets)"
        )
    return presets[name]
