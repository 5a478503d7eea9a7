"""Named settings: the 36 presets of EDM2, the interval paper's four, and those of the networks that ship here.

Each names its networks, weight and interval, and the published score where there is one. No torch here.
"""

import csv
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnlib.places import EMBEDDED
from edm2_guidance.recipe.recipe import StepInterval

MODEL_ROOT = "https://nvlabs-fi-cdn.nvidia.com/edm2"
POSTHOC = f"{MODEL_ROOT}/posthoc-reconstructions/"


@dataclass(frozen=True)
class Preset:
    """Networks (URL or path), guidance and steps of one published setting."""

    name: str
    net: str
    gnet: str | None = None
    guidance: float = 1.0  # 1 = off
    interval: StepInterval | None = None  # None = guided at all steps
    metric: str = ""  # what the setting was tuned for
    published: float | None = None  # score in the paper, 50,000 images
    num_steps: int = 32
    num_classes: int = 1000  # 0 = unconditional
    data: str = "img512"  # img512 | img64 | mnist16: what the networks make, and the name of the reference
    caption: str = ""

    @property
    def sources(self) -> list[str]:
        """The network files that it needs."""
        return [self.net] if self.gnet is None else [self.net, self.gnet]

    def describe(self) -> str:
        """One readable line: networks, weight, interval, published score."""
        text = self.net.rsplit("/", 1)[-1]
        if self.gnet is not None:
            where = "" if self.interval is None else f" on {self.interval}"
            text += f" guided by {self.gnet.rsplit('/', 1)[-1]}, w = {self.guidance:g}{where}"
        return text if self.published is None else f"{text}; published {self.metric} {self.published:g}"


def _published() -> list[Preset]:
    with open(Path(__file__).with_name("presets.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    presets = []
    for row in rows:
        interval = None
        if row["interval_steps"]:
            first, last = row["interval_steps"].split("-")
            interval = StepInterval(int(first), int(last))
        presets.append(
            Preset(
                name=row["preset"],
                net=POSTHOC + row["net"],
                gnet=POSTHOC + row["gnet"] if row["gnet"] else None,
                guidance=float(row["guidance"]) if row["guidance"] else 1.0,
                interval=interval,
                metric=row["metric"],
                published=float(row["published"]),
                num_classes=0 if "-uncond-" in row["net"] else 1000,
                data="img64" if "-img64-" in row["net"] else "img512",
            )
        )
    return presets


def _embedded() -> list[Preset]:
    main, unconditional, weak = (str(EMBEDDED / f"mnist16-{kind}.pkl") for kind in ("cond", "uncond", "weak"))

    def preset(
        name: str, caption: str, net: str, gnet: str | None = None, guidance: float = 1.0, **rest: Any
    ) -> Preset:
        common: dict[str, Any] = {"metric": "fd_mnist", "num_steps": 16, "num_classes": 10, "data": "mnist16"}
        return Preset(name, net, gnet, guidance, caption=caption, **{**common, **rest})

    return [
        preset("mnist16", "unguided", main),
        preset("mnist16-cfg", "CFG", main, unconditional, 1.5),
        preset("mnist16-interval", "CFG in an interval", main, unconditional, 1.5, interval=StepInterval(4, 7)),
        preset("mnist16-autog", "autoguidance", main, weak, 1.5),
        preset("mnist16-uncond", "unconditional", unconditional, num_classes=0),
    ]


@functools.cache
def all_presets() -> dict[str, Preset]:
    """Every preset by name, in the order of the papers, the embedded ones last."""
    return {preset.name: preset for preset in [*_published(), *_embedded()]}
