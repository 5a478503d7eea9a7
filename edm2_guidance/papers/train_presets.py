"""Training settings by name: EDM2's twelve, and those of the small networks that ship here. No torch here.

The numbers stand in `train_presets.csv`; a cell left empty leaves the option's default.
"""

import csv
import functools
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dnnlib.places import near

#: Resolution, channels and classes of what the networks of a data set see.
INPUTS = MappingProxyType({"edm2-img512": (64, 4, 1000), "edm2-img64": (64, 3, 1000), "mnist16": (16, 3, 10)})


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
        hint = near(name, presets, cutoff=0.3) or f"; there are {', '.join(presets)}"
        raise ValueError(f"there is no training preset '{name}'{hint}")
    return dict(presets[name])


def network_arguments(name: str) -> dict[str, Any]:
    """Constructor arguments of the network that a preset trains; NAME-uncond is the same without labels.

    Raises ValueError as `find_train_preset`.
    """
    options = find_train_preset(name if name in all_train_presets() else name.removesuffix("-uncond"))
    resolution, channels, classes = next(shape for data, shape in INPUTS.items() if name.startswith(data))
    arguments: dict[str, Any] = {
        "img_resolution": resolution,
        "img_channels": channels,
        "label_dim": 0 if name.endswith("-uncond") else classes,
        "model_channels": int(options["channels"]),
    }
    for option in ("channel_mult", "attn_resolutions"):
        if option in options:
            arguments[option] = [int(part) for part in options[option].split(",")]
    for option in ("num_blocks", "channels_per_head"):
        if option in options:
            arguments[option] = int(options[option])
    return arguments
