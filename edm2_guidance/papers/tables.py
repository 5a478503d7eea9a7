"""The tables of the papers, row by row: networks, guidance, published score and where it stands. No torch here.

The data are in `tables.csv`, `adm.csv`, `edm.csv` and `rules.csv`. A row that is a preset has its name, networks and
score from `papers.presets`; a row that stands in several tables is written out where it first appears. Networks are
named as they are published; those that are not, and have to be made by `reconstruct_phema.py`, are looked for in a
folder of the user's, under the name that they would have.
"""

import csv
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

from dnnlib.places import find_file, near
from dnnlib.published import MODEL_ROOT
from edm2_guidance.papers import adm, edm, rules
from edm2_guidance.papers.presets import Preset, all_presets
from edm2_guidance.papers.references import ADM_BATCHES, REFERENCES
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide, classifier_guide
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.recipe.recipe import LabelRule, Recipe

NETWORKS = "networks"  # folder of reconstructed networks
#: A network of the papers: run, images seen in thousands, EMA length sigma_rel.
NETWORK_NAME = re.compile(r"(?P<run>edm2-img\d+-\w+(?:-uncond)?)-(?P<kimg>\d{7})-(?P<ema>\d\.\d{3})\.pkl")

#: What the tables are, by name.
TABLES: Mapping[str, str] = MappingProxyType({
    "ag1": "Table 1 of arXiv 2406.02507v3, autoguidance",
    "gi1": "Table 1 of arXiv 2404.07724v2, guidance in a limited interval",
    "edm2-2": "Table 2 of arXiv 2312.02696, EDM2: FID, ImageNet-512",
    "edm2-3": "Table 3 of arXiv 2312.02696, EDM2: FID, ImageNet-64",
    "edm2-4": "Table 4 of arXiv 2312.02696, EDM2: size of the unconditional guide",
    "edm2-5": "Table 5 of arXiv 2312.02696, EDM2: FD-DINOv2, ImageNet-512",
    "adm-4": "Table 4 of arXiv 2105.05233, ADM: classifier guidance, ImageNet-256",
    "adm-5": "Table 5 of arXiv 2105.05233, ADM: all data sets",
    "adm-6": "Table 6 of arXiv 2105.05233, ADM: classifier guidance and upsampling",
    "adm-samples": "Tables 4 to 6 of arXiv 2105.05233, ADM, of the samples that the authors published",
    "edm-2": "Table 2 of arXiv 2206.00364, EDM: training configurations",
    "edm-sampling": "Tables 3 and 4 of arXiv 2206.00364, EDM: its samplers, and ImageNet-64",
    "gi-steps": "Section 4.2 of arXiv 2404.07724v2, guidance in a limited interval: other numbers of steps",
    "fbg-512": "Table 1 of arXiv 2506.06085, feedback guidance",
    "icg-512": "arXiv 2407.02687, independent condition guidance",
    "fdg-10k": "arXiv 2506.19713, frequency-decoupled guidance: 10,000 images by ADM's evaluator",
    "apg-10k": "arXiv 2410.02416, adaptive projected guidance: 10,000 images by ADM's evaluator",
    "power-law-512": "arXiv 2502.07849, power-law guidance",
    "erk-512": "arXiv 2603.03692, ERK-Guid: correction for stiffness",
    "entropy-512": "arXiv 2504.13612, entropic time schedules",
    "c2fg-64": "arXiv 2603.08155, C2FG",
    "swg-512": "arXiv 2411.10257v3, sliding-window guidance",
    "reg-512": "arXiv 2501.18865, rectified gradient guidance",
    "ddo-512": "arXiv 2503.01103, direct discriminative optimization, ImageNet-512",
    "ddo-64": "arXiv 2503.01103, direct discriminative optimization, ImageNet-64",
    "ambient-512": "the README of ambient-omni: networks trained on images of other quality too",
    "mnist16": "our own: the networks of digits that ship",
    "adm-mnist16": "our own: the ADM network of digits that ships",
})  # fmt: skip

#: Tables whose authors say by how many percent FIDs of repeated runs differ (arXiv 2312.02696, D.4), or follow them.
_SPREAD_KNOWN = ("ag1", "gi1", "gi-steps", "edm2-2", "edm2-3", "edm2-4")
_ELSEWHERE = "make the images with its authors' code and score them by calculate_metrics.py calc"
_BLOCKED = {
    "copied": f"a number copied from another paper: {_ELSEWHERE}",
    "unreleased": "this network was never released: Table 5 has it beside the released one, trained with dropout",
    "edm": "never released, unlike configurations A and F",
}


@dataclass(frozen=True)
class Row:
    """One score of a table: what was sampled, how it was guided, and what came out.

    Weights are w of D = D_guide + w (D_main - D_guide), 1 = off, one per guide, or texts of weights that do not stay;
    the interval holds for all guides. Networks are file names; `sources` says where they are. published: as printed,
    None if nobody published it. repeats: runs of `num_images` images, of which the best is reported; None where that is
    unknown. Samplers, schedules, rules, references and what is around are texts, as the command line takes them.
    """

    table: str
    name: str
    data: str  # a name of `papers.references`: what the networks were trained on, and the reference
    model: str
    method: str
    metric: str
    published: float | None
    net: str | None  # None: no network of this code base
    gnets: tuple[str | None, ...] = ()  # None: the main network, asked in another way
    weights: tuple[float | str, ...] = ()
    interval: StepInterval | None = None  # None = guided at all steps
    sigmas: str = ""  # the interval as printed
    num_steps: int = 32
    num_images: int = 50000
    repeats: int | None = 3
    real: str | None = None  # statistics of real images, in pretrained/, that are scored in place of samples
    samples: str | None = None  # URL of the authors' images, which are scored in place of new ones
    classifier: str | None = None
    scale: float = 0.0  # of the classifier's gradient, in the form of the sampler
    sampler: str = "heun"
    schedule: str = "edm"
    dtype: Literal["float32", "float64"] = "float32"  # of the sampler's state
    rule: str = "linear"
    around: str = ""
    references: tuple[str, ...] = ()  # one per guide; none: their networks, as they are
    first_seed: int = 0
    against: str | None = None  # a name of `papers.references`, where the reference is not that of `data`
    base: str | None = None  # the preset whose images the network enlarges
    setting: str | None = None  # the preset that has several rows, one per metric, of which one pass gives all
    labels: LabelRule = "random"  # the papers' rule: drawn at random, none for unconditional images
    blocked: str | None = None  # why no network of this code base makes this row
    assumed: str = ""  # what nobody published, and what was taken in its place
    note: str = ""  # what to mind: whatever the table does not print

    @property
    def source(self) -> str:
        """Where the number stands."""
        return f"{TABLES[self.table]}: {self.model} on {self.data}, {self.method}"

    @property
    def files(self) -> tuple[str, ...]:
        """Network files by name, the main network first, those that make the images that it enlarges last."""
        base = () if self.base is None else map(_file_name, all_presets()[self.base].sources)
        classifier = () if self.classifier is None else (self.classifier,)
        gnets = (gnet for gnet in self.gnets if gnet is not None)
        return () if self.net is None else (self.net, *gnets, *classifier, *base)

    @property
    def emas(self) -> tuple[float | None, ...]:
        """EMA lengths sigma_rel of `files`; None for a file that does not name its own."""
        matches = (NETWORK_NAME.fullmatch(file) for file in self.files)
        return tuple(None if match is None else float(match["ema"]) for match in matches)

    def levels(self) -> list[float]:
        """The noise levels of its steps."""
        return Schedule.parse(self.schedule).levels(self.num_steps)

    @property
    def translated(self) -> bool:
        """Whether its interval is printed in coordinates of another schedule than that of its steps."""
        if self.interval is None or not self.sigmas.startswith("("):
            return False
        low, high = map(float, self.sigmas.strip("(]").split(","))
        return SigmaInterval(low, high).steps(self.levels())[0] != self.interval

    @property
    def spread(self) -> float | None:
        """By how many percent repeated runs differ, as the paper says; None where no paper says."""
        known = self.metric == "fid" and self.published is not None and self.table in _SPREAD_KNOWN
        return 2.0 if known else None

    @property
    def together(self) -> tuple[str, ...]:
        """The metrics that one pass over its images gives, its own among them."""
        return (self.metric,) if self.setting is None else REFERENCES[self.against or self.data].metrics

    @property
    def images(self) -> str:
        """A name of its images, which the rows of a setting share."""
        return self.setting or self.name

    @property
    def reference(self) -> str:
        """URL or path of the reference statistics."""
        return REFERENCES[self.against or self.data].source

    @property
    def runnable(self) -> str | None:
        """None if published files make this row; else the reason, and what would make it run."""
        if self.blocked is not None:
            return self.blocked
        lines = how_to_make(self.files)
        if not lines:
            return None
        ours = (file for file in self.files if publisher(file) is None and file not in _published())
        runs = [run for run in map(run_of, ours) if run not in published_runs()]
        reason = f"no network of {runs[0]} is known to be released" if runs else "not published at these EMA lengths"
        if any(map(publisher, self.files)):
            reason = "the network is released elsewhere"
        return f"{reason}; to make it: {'; '.join(lines)}"

    def sources(self, networks: str | Path = NETWORKS) -> tuple[str, ...]:
        """URL or path of each of `files`; `networks` is the folder of those that are not published."""
        return tuple(locate(file, networks) for file in self.files)

    def missing(self, networks: str | Path = NETWORKS) -> tuple[str, ...]:
        """Those of `files` that are neither published nor in the folder `networks`."""
        return tuple(f for f in self.files if f not in _published() and not find_file(Path(networks, f)).is_file())

    def recipe(self, networks: str | Path = NETWORKS) -> Recipe:
        """How its images are made. ValueError if no network of this code base makes them."""
        if self.net is None:
            what = "published samples" if self.real is None else "real images"
            raise ValueError(f"{self.name}: {self.blocked or f'{what} are scored, none are made'}")
        net, *others = (NetworkRef(source) for source in self.sources(networks))
        nets = iter(others)
        asked = self.references or ("network",) * len(self.gnets)
        guides = [
            Guide(None if gnet is None else next(nets), weight, self.interval, reference)
            for gnet, weight, reference in zip(self.gnets, self.weights, asked, strict=True)
        ]
        if self.classifier is not None:
            guides.append(classifier_guide(next(nets), self.scale, self.sampler))
        return Recipe(
            net,
            guides,
            self.num_steps,
            self.sampler,
            self.schedule,
            self.rule,
            around=self.around or (),
            dtype=self.dtype,
            labels=self.labels,
            noise_device="device",
            base=None if self.base is None else all_presets()[self.base].recipe(),
        )


def locate(file: str, networks: str | Path = NETWORKS) -> str:
    """Where a network is: its URL if published, its path if it ships here, else its path in the folder `networks`."""
    return _published().get(file) or str(Path(networks) / file)


@functools.cache
def _published() -> dict[str, str]:
    """URL or path by file name, of every network that can be had ready-made."""
    return {_file_name(source): source for preset in all_presets().values() for source in preset.sources}


def _file_name(source: str) -> str:
    return source.replace("\\", "/").rsplit("/", 1)[-1]


@functools.cache
def published_runs() -> frozenset[str]:
    """Training runs of which the authors published networks; their raw snapshots are taken to be published too."""
    return frozenset(run_of(file) for file in _published() if NETWORK_NAME.fullmatch(file))


def publisher(file: str) -> str | None:
    """Where a network of others is released, by the name that its file has here; None for one of the papers'."""
    return next((url for start, url in rules.OF_OTHERS.items() if file.startswith(start)), None)


def run_of(file: str) -> str:
    """The training run of a network of the papers, by its file name: edm2-img512-s. ValueError for another name."""
    return parsed(file)["run"]


def parsed(file: str) -> re.Match[str]:
    """The parts of a file name of the papers: run, kimg, ema. ValueError for another name."""
    match = NETWORK_NAME.fullmatch(file)
    if match is None:
        raise ValueError(f"{file} is not named as networks of the papers are: edm2-img512-s-2147483-0.130.pkl")
    return match


def how_to_make(files: Iterable[str], networks: str | Path = NETWORKS) -> list[str]:
    """Command lines that put those of `files` that are not published into the folder `networks`.

    One reconstruction per training run and number of images, for all its EMA lengths; before it, the training of a
    run that was never released. Of a network of others, where it is had.
    """
    wanted: dict[tuple[str, str], list[str]] = {}
    lines = []
    for file in (file for file in dict.fromkeys(files) if file not in _published()):
        if url := publisher(file):
            lines.append(f"save the network from {url} as {Path(networks) / file}")
            continue
        match = parsed(file)
        wanted.setdefault((match["run"], match["kimg"]), []).append(match["ema"])
    for (run, kimg), emas in wanted.items():
        released = run in published_runs()
        indir = f"{MODEL_ROOT}/raw-snapshots/{run}" if released else f"training-runs/{run}"
        lines += [] if released else [_training(run, int(kimg))]
        lines.append(
            f"python reconstruct_phema.py --indir={indir} --outdir={networks} --outprefix={run} "
            f"--outkimg={int(kimg)} --outstd={','.join(sorted(emas))}"
        )
    return lines


def _training(run: str, kimg: int) -> str:
    """The command that trains a run of the papers: the preset of its size, as long as its name says."""
    preset = run.removesuffix("-uncond")
    data = "datasets/img64.zip" if "-img64-" in run else "datasets/img512-sd.zip"
    mebi = round(kimg * 1000 / 2**20)
    return (
        f"torchrun --standalone --nproc_per_node=8 train_edm2.py --preset={preset} --cond={run == preset} "
        f"--duration={mebi}Mi --data={data} --outdir=training-runs/{run} --batch-gpu=32"
    )


@functools.cache
def all_rows() -> tuple[Row, ...]:
    """Every row of every table, in the order of the tables; one that stands in several comes once per table."""
    with open(Path(__file__).with_name("tables.csv"), newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    rows: dict[str, Row] = {}
    result = []
    for line in lines:
        if line["name"] in rows:
            row = replace(rows[line["name"]], table=line["table"], note=line["note"])
        else:
            row = rows[line["name"]] = _row(line)
        result.append(row)
    return (*result, *_adm_rows(), *_edm_rows(), *_rule_rows())


def _adm_rows() -> Iterator[Row]:
    """A row per score that ADM's tables print, table by table; then those of the samples that were published."""
    for table in ("4", "5", "6"):
        for setting in (setting for setting in adm.settings() if table in setting.tables):
            for metric in setting.printed(table):
                yield _of_setting(f"adm-{table}", setting, metric)
    for setting in (setting for setting in adm.settings() if setting.samples is not None):
        for metric in setting.scores:
            row = _of_setting("adm-samples", setting, metric)
            of_samples = f"{setting.name}-samples"
            samples = f"{ADM_BATCHES}/{setting.samples}"
            row = replace(row, name=f"{of_samples}-{_bare(metric)}", setting=of_samples, samples=samples)
            yield replace(row, net=None, classifier=None, scale=0.0, sampler="heun", schedule="edm", base=None)


def _of_setting(table: str, setting: adm.Setting, metric: str) -> Row:
    preset = all_presets().get(setting.name)
    row = Row(
        table=table,
        name=f"{setting.name}-{_bare(metric)}",
        data=setting.data,
        model=setting.model,
        method=setting.method,
        metric=metric,
        published=float(setting.scores[metric]),
        net=None,
        repeats=1,
        blocked=_BLOCKED["unreleased"] if preset is None else None,
        note=setting.note_on(metric),
        setting=setting.name,
    )
    return row if preset is None else replace(_of_preset(row, preset), metric=row.metric)


def _edm_rows() -> Iterator[Row]:
    """A row per setting; those whose network was never released say so."""
    for setting in edm.settings():
        preset = all_presets().get(setting.name)
        row = Row(
            table=setting.table,
            name=setting.name,
            data=setting.data,
            model=setting.model,
            method=setting.method,
            metric="fid",
            published=setting.fid,
            net=None,
            num_steps=setting.num_steps,
            blocked=_BLOCKED["edm"] if preset is None else None,
            assumed=setting.assumed,
            note=setting.note,
        )
        yield row if preset is None else _of_preset(row, preset)


def _rule_rows() -> Iterator[Row]:
    """A row per score of the papers about guidance rules; settings with several scores are sampled once."""
    for setting in rules.settings():
        for metric in setting.metrics:
            blocked = setting.why_not(metric)
            yield Row(
                table=setting.table,
                name=setting.name_of(metric),
                data=setting.data,
                model=setting.model,
                method=setting.method,
                metric=metric,
                published=float(setting.scores[metric]) if setting.scores else None,
                net=setting.net,
                gnets=setting.gnets,
                weights=setting.weights,
                interval=setting.interval,
                sigmas=setting.sigmas,
                num_steps=setting.num_steps,
                num_images=setting.num_images,
                repeats=None,
                sampler=setting.sampler,
                schedule=setting.schedule,
                rule=setting.rule,
                around=setting.around,
                references=setting.references,
                first_seed=setting.first_seed,
                against=setting.against,
                setting=setting.name if len(setting.metrics) > 1 else None,
                labels=cast(LabelRule, setting.labels),
                blocked=_BLOCKED.get(blocked or "", blocked),
                assumed=setting.assumed,
                note=setting.note_on(metric),
            )


def _bare(metric: str) -> str:
    """A metric without its variant."""
    return metric.partition(":")[0]


def _row(line: Mapping[str, str]) -> Row:
    preset = all_presets().get(line["preset"] or line["name"])
    row = Row(
        table=line["table"],
        name=line["name"],
        data=line["data"],
        model=line["model"],
        method=line["method"],
        metric=line["metric"],
        published=float(line["published"]) if line["published"] else None,
        net=line["net"] or None,
        gnets=tuple(line["guides"].split(";")) if line["guides"] else (),
        weights=tuple(map(float, line["weights"].split(";"))) if line["weights"] else (),
        sigmas=line["sigmas"],
        num_steps=int(line["num_steps"] or 32),
        num_images=int(line["num_images"] or 50000),
        repeats=int(line["repeats"]) if line["repeats"] else None,
        real=line["real"] or None,
        blocked=_BLOCKED[line["blocked"]] if line["blocked"] else None,
        note=line["note"],
        labels="none" if "-uncond" in line["net"] else "random",
    )
    return row if preset is None else _of_preset(row, preset)


def _of_preset(row: Row, preset: Preset) -> Row:
    guides = [guide for guide in preset.recipe().guides if not guide.of_classifier]
    references = tuple(str(guide.reference) for guide in guides)
    return replace(
        row,
        metric=preset.metric,
        published=preset.published if row.published is None else row.published,
        net=_file_name(preset.net),
        gnets=tuple(None if guide.net is None else _file_name(guide.net.source) for guide in guides),
        weights=tuple(guide.weight.w for guide in guides),
        interval=preset.interval,
        num_steps=preset.num_steps,
        classifier=None if preset.classifier is None else _file_name(preset.classifier),
        scale=preset.classifier_scale,
        sampler=preset.sampler,
        schedule=preset.schedule,
        dtype=preset.dtype,
        around=preset.around,
        references=references if any(each != "network" for each in references) else (),
        base=preset.base,
        labels="none" if preset.num_classes == 0 else "random",
        assumed=preset.assumed or row.assumed,
        note="; ".join(filter(None, (row.note, preset.note))),
    )


def find(name: str) -> list[Row]:
    """The rows of a table or of a preset, or the one row of that name. ValueError, naming near ones, without any."""
    if name in TABLES:
        return [row for row in all_rows() if row.table == name]
    of_setting = {row.name: row for row in reversed(all_rows()) if row.setting == name}
    found = list(of_setting.values())[::-1] or [row for row in all_rows() if row.name == name][:1]
    if not found:
        names = [*TABLES, *dict.fromkeys(row.name for row in all_rows())]
        hint = near(name, names, cutoff=0.3)
        raise ValueError(f"there is no table or row '{name}'{hint} (all: reproduce.py list)")
    return found


def select(names: Iterable[str]) -> list[Row]:
    """The rows of several tables and rows; one that stands in several of them comes once. ValueError as `find`."""
    rows: dict[str, Row] = {}
    for row in (row for name in names for row in find(name)):
        rows.setdefault(row.name, row)
    return list(rows.values())
