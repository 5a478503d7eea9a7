"""A preset by its name, or what is near it. No torch here."""

from dnnlib.places import near
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
        hint = near(name, presets, cutoff=0.3)
        raise ValueError(f"there is no preset '{name}'{hint} (all: generate_images.py --preset=list)")
    return presets[name]
