"""Named settings: the 36 presets of EDM2, the interval paper's four, and those of other networks and of what ships.

Those of ADM, EDM, DiT, SD-XL and DeepFloyd IF are the others. Each names its networks, weight and interval, and the
published score where there is one. No torch here.
"""

import csv
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dnnlib.places import EMBEDDED
from dnnlib.published import ADM_ROOT, MODEL_ROOT
from edm2_guidance.papers import adm, edm, pipelines
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide, classifier_guide
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.parts import Sampler, Schedule, constant
from edm2_guidance.recipe.recipe import Recipe

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
    data: str = "img512"  # img512 | img64 | mnist16: what the networks make, and the name of the reference; "" = none
    caption: str = ""
    classifier: str | None = None
    classifier_scale: float = 0.0  # 0 = off; in the form of the sampler
    sampler: str = "heun"
    schedule: str = "edm"
    dtype: Literal["float32", "float64"] = "float32"
    base: str | None = None  # the preset whose images the network enlarges
    guides: tuple[Guide, ...] = ()  # in place of gnet: several, or of the main network, asked in another way
    around: str = ""
    prompts: tuple[str, ...] = ()  # of a network that takes text
    assumed: str = ""  # what nobody published, and what was taken in its place
    note: str = ""  # what to mind

    @property
    def sources(self) -> list[str]:
        """The network files that it needs."""
        base = [] if self.base is None else all_presets()[self.base].sources
        guides = [guide.net.source for guide in self.guides if guide.net is not None]
        return [self.net, *(each for each in (self.gnet, *guides, self.classifier) if each is not None), *base]

    def recipe(self) -> Recipe:
        """How its images are made."""
        sampler, guides = Sampler.parse(self.sampler), [*self.guides]
        if self.gnet is not None:
            guides.append(Guide(NetworkRef(self.gnet), constant(self.guidance), self.interval))
        if self.classifier is not None:
            guides.append(classifier_guide(NetworkRef(self.classifier), self.classifier_scale, sampler))
        return Recipe(
            NetworkRef(self.net),
            tuple(guides),
            self.num_steps,
            sampler,
            Schedule.parse(self.schedule),
            dtype=self.dtype,
            labels="none" if self.num_classes == 0 else "random",
            noise_device="device",
            base=None if self.base is None else all_presets()[self.base].recipe(),
            around=self.around or (),
            prompts=self.prompts,
        )

    def describe(self) -> str:
        """One readable line: networks, weight, interval, published score."""
        text = self.net.rsplit("/", 1)[-1]
        if self.gnet is not None:
            where = "" if self.interval is None else f" on {self.interval}"
            text += f" guided by {self.gnet.rsplit('/', 1)[-1]}, w = {self.guidance:g}{where}"
        for number, guide in enumerate(self.guides):
            where = "" if guide.interval is None else f" on {guide.interval}"
            text += f" {'and' if number else 'guided by'} {guide.name}, {guide.strength}{where}"
        if self.classifier is not None:
            text += f" guided by {self.classifier.rsplit('/', 1)[-1]}, scale {self.classifier_scale:g}"
        text += "" if self.base is None else f", of the images of {self.base}"
        usual = self.sampler == "heun" and self.dtype == "float32"
        text += "" if usual else f", {self.sampler}, {self.num_steps} steps"
        text += "; some of it assumed" if self.assumed else ""
        return text if self.published is None else f"{text}; published {self.metric} {self.published:g}"


def _lines(file: str) -> list[dict[str, str]]:
    with open(Path(__file__).with_name(file), newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def _interval(steps: str) -> StepInterval | None:
    """Of the first and last step, "17-22"; None for none."""
    return StepInterval(*map(int, steps.split("-"))) if steps else None


def _published() -> list[Preset]:
    return [
        Preset(
            name=line["preset"],
            net=POSTHOC + line["net"],
            gnet=POSTHOC + line["gnet"] if line["gnet"] else None,
            guidance=float(line["guidance"] or 1),
            interval=_interval(line["interval_steps"]),
            metric=line["metric"],
            published=float(line["published"]),
            num_classes=0 if "-uncond-" in line["net"] else 1000,
            data="img64" if "-img64-" in line["net"] else "img512",
        )
        for line in _lines("presets.csv")
    ]


def _adm() -> list[Preset]:
    return [
        Preset(
            setting.name,
            f"{ADM_ROOT}/{setting.net}",
            metric="fid",
            published=float(setting.scores["fid"]) if setting.scores else None,
            num_steps=setting.num_steps,
            num_classes=0 if setting.unconditional else 1000,
            data=setting.data,
            classifier=None if setting.classifier is None else f"{ADM_ROOT}/{setting.classifier}",
            classifier_scale=setting.scale,
            sampler=setting.sampler,
            schedule=setting.schedule,
            base=setting.base,
        )
        for setting in adm.settings()
        if setting.net is not None
    ]


def _edm() -> list[Preset]:
    return [
        Preset(
            setting.name,
            f"{edm.EDM_ROOT}/pretrained/{setting.net}",
            metric="fid",
            published=setting.fid,
            num_steps=setting.num_steps,
            num_classes=0 if setting.unconditional else 10 if setting.data == "cifar10" else 1000,
            data=setting.data,
            sampler=setting.sampler,
            schedule=setting.schedule,
            dtype="float64",
        )
        for setting in edm.settings()
        if setting.net is not None
    ]


def _pipelines() -> list[Preset]:
    return [
        Preset(
            setting.name,
            setting.net,
            interval=_interval(setting.interval),
            metric=setting.metric,
            published=setting.published,
            num_steps=setting.num_steps,
            num_classes=len(setting.prompts) if setting.classes is None else setting.classes,
            data=setting.data,
            caption=setting.caption,
            sampler=setting.sampler,
            schedule=setting.schedule,
            guides=tuple(
                Guide(NetworkRef(guide), w, _interval(setting.interval))
                if "://" in guide
                else Guide(None, w, _interval(setting.interval), guide)
                for guide, w in zip(setting.guides, setting.weights, strict=True)
            ),
            around=setting.around,
            prompts=setting.prompts,
            assumed=setting.assumed,
            note=setting.note,
            base=setting.base,
        )
        for setting in pipelines.settings()
    ]


def _embedded() -> list[Preset]:
    return [
        Preset(
            name=line["preset"],
            net=str(EMBEDDED / line["net"]),
            gnet=str(EMBEDDED / line["gnet"]) if line["gnet"] else None,
            guidance=float(line["guidance"] or 1),
            interval=_interval(line["interval_steps"]),
            metric="fd_mnist",
            num_steps=int(line["steps"]),
            num_classes=int(line["classes"]),
            data="mnist16",
            caption=line["caption"],
            classifier=str(EMBEDDED / line["classifier"]) if line["classifier"] else None,
            classifier_scale=float(line["scale"] or 0),
            sampler=line["sampler"],
            schedule=line["schedule"],
        )
        for line in _lines("digits.csv")
    ]


@functools.cache
def all_presets() -> dict[str, Preset]:
    """Every preset by name, in the order of the papers, the embedded ones last."""
    settings = [*_published(), *_adm(), *_edm(), *_pipelines(), *_embedded()]
    return {preset.name: preset for preset in settings}
