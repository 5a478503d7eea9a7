"""Named settings: the 36 presets of EDM2, the interval paper's four, ADM's, and those of the networks that ship here.

Each names its networks, weight and interval, and the published score where there is one. No torch here.
"""

import csv
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnlib.places import EMBEDDED
from dnnlib.published import ADM_ROOT
from edm2_guidance.papers import adm
from edm2_guidance.recipe.parts import Reference, Sampler, Schedule, Weight
from edm2_guidance.recipe.recipe import Guide, NetworkRef, Recipe, StepInterval

MODEL_ROOT = "https://nvlabs-fi-cdn.nvidia.com/edm2"
POSTHOC = f"{MODEL_ROOT}/posthoc-reconstructions/"


@dataclass(frozen=True)
class Kinds:
    """What a setting takes of each axis, in the text of the command line; by default as EDM2's papers do."""

    sampler: str = "heun"
    schedule: str = "edm"
    reference: str = "network"
    weight: str = "constant"


USUAL = Kinds()


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
    kinds: Kinds = USUAL
    base: str | None = None  # the preset whose images the network enlarges

    @property
    def sources(self) -> list[str]:
        """The network files that it needs."""
        base = [] if self.base is None else all_presets()[self.base].sources
        return [self.net, *([] if self.gnet is None else [self.gnet]), *base]

    def recipe(self) -> Recipe:
        """How its images are made."""
        reference, weight = Reference.parse(self.kinds.reference), Weight.parse(self.kinds.weight)
        guide = None if self.gnet is None else NetworkRef(self.gnet)
        guides = [Guide(guide, weight.with_fields({"w": self.guidance}), self.interval, reference)] if guide else []
        return Recipe(
            NetworkRef(self.net),
            tuple(guides),
            self.num_steps,
            Sampler.parse(self.kinds.sampler),
            Schedule.parse(self.kinds.schedule),
            labels="none" if self.num_classes == 0 else "random",
            noise_device="device",
            base=None if self.base is None else all_presets()[self.base].recipe(),
        )

    @property
    def strength(self) -> str:
        """The weight, in the words of its reference."""
        classifier = self.kinds.reference == "classifier"
        return f"scale {self.guidance - 1:g}" if classifier else f"w = {self.guidance:g}"

    def describe(self) -> str:
        """One readable line: networks, weight, interval, published score."""
        text = self.net.rsplit("/", 1)[-1]
        if self.gnet is not None:
            where = "" if self.interval is None else f" on {self.interval}"
            text += f" guided by {self.gnet.rsplit('/', 1)[-1]}, {self.strength}{where}"
        text += "" if self.base is None else f", of the images of {self.base}"
        text += "" if self.kinds.sampler == USUAL.sampler else f", {self.kinds.sampler}, {self.num_steps} steps"
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


def _adm() -> list[Preset]:
    """A classifier's scale S is the weight 1 + S; ancestral sampling scales its gradient by the variance."""
    return [
        Preset(
            setting.name,
            f"{ADM_ROOT}/{setting.net}",
            None if setting.classifier is None else f"{ADM_ROOT}/{setting.classifier}",
            1 + setting.scale,
            metric="fid",
            published=float(setting.scores["fid"]) if setting.scores else None,
            num_steps=setting.num_steps,
            num_classes=0 if setting.unconditional else 1000,
            data=setting.data,
            kinds=setting_kinds(setting),
            base=setting.base,
        )
        for setting in adm.settings()
        if setting.net is not None
    ]


def setting_kinds(setting: adm.Setting) -> Kinds:
    guided = {"reference": "classifier", "weight": "posterior" if setting.sampler == "ddpm" else "constant"}
    return Kinds(setting.sampler, setting.schedule, **(guided if setting.classifier else {}))


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
    return {preset.name: preset for preset in [*_published(), *_adm(), *_embedded()]}
