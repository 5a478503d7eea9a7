"""Options of calculate_metrics.py. No torch here."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import click

from dnnlib.inference import in_names
from dnnlib.places import find_file, near, short_name
from dnnlib.urls import is_url
from edm2_guidance.cli.command import bad_input
from edm2_guidance.cli.option_group import Declared, Field, OptionGroup, flag, option, several_options
from edm2_guidance.cli.param_type import ParamType, show_if_list
from edm2_guidance.cli.run_options import batch_option, deterministic_option, device_option, offline_option
from edm2_guidance.cli.say import note
from edm2_guidance.cli.typed import given
from edm2_guidance.metrics.catalog import (
    ALL,
    METRICS,
    SETS,
    detector_choices,
    extractors,
    file_name,
    find_extractor,
    find_metric,
    names_of,
    table,
)
from edm2_guidance.metrics.statistics_formats import FORMATS, formats_table
from edm2_guidance.papers.presets import Preset
from edm2_guidance.papers.references import REFERENCES, find_reference
from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.stored import begun

if TYPE_CHECKING:
    from edm2_guidance.metrics.extractors.base import Extractor

#: Keyword arguments of `metrics.detectors.load_detector`, by its name.
Choices = dict[str, dict[str, Any]]
LEDGER = "results/ledger.jsonl"


class OneMetric(ParamType):
    """A metric (`metrics.catalog`), as its name; `list` prints which there are, and ends."""

    name = "metric"

    def parse(self, text: str) -> str:
        show_if_list(text, table)
        return _metric_name(text)


def _metric_name(text: str) -> str:
    kind = text.strip().partition(":")[0]
    if kind.replace("-", "_") not in METRICS and "/" not in text:
        if kind in catalog.kinds("measure"):
            raise ValueError(f"'{kind}' is a measure: give it with its features, such as {text.strip()}/mnist")
        raise ValueError(f"'{kind}' is not one of {', '.join(METRICS)}")
    return find_metric(text).name


class Metrics(ParamType):
    """Comma-separated metrics and sets, as a list of the metrics' names, each once; "all" is left to `settled`."""

    name = "list"

    def parse(self, text: str) -> list[str]:
        show_if_list(text, table)
        return list(dict.fromkeys(name for part in text.split(",") for name in _metric_names(part)))


def _metric_names(text: str) -> list[str]:
    is_set = text.strip() in SETS or text.strip().partition("/")[0] == ALL
    return names_of(text) if is_set else [_metric_name(text)]


class Weights(ParamType):
    """METRIC=PATH of a weight file that is there, or METRIC=URL, as (metric, path)."""

    name = "metric=path"

    def parse(self, text: str) -> tuple[str, str]:
        metric, _, path = text.partition("=")
        metric = metric.strip().replace("-", "_")
        if metric not in extractors() or path == "":
            raise ValueError(f"give METRIC=PATH with one of {', '.join(extractors())}")
        if not is_url(path) and not find_file(path).is_file():
            raise ValueError(f"there is no file {path}{near(path)}")
        return metric, path


IMAGES = "Images: folder, ZIP, tar, .npz; a folder or pattern of ZIPs and tars"
REFERENCE = f"Statistics or features (file or URL), images (folder, ZIP, tar, .npz), or one of {', '.join(REFERENCES)}"
STANDARD_METRICS = ["fid", "fd_dinov2"]  # where nothing says which


def metrics_option(default: str) -> Field:
    """--metrics; default: in words, what the command takes for it."""
    return option(
        f"{', '.join(METRICS)}, with fields METRIC:FIELD=VALUE; sets are {', '.join([*SETS, ALL])}; list tells what "
        f"they are  [default: {default}]",
        type=Metrics(),
        default=",".join(STANDARD_METRICS),
        show_default=False,
        heading="Scoring",
        first=True,
    )


def scored_metrics_option() -> Field:
    """--metrics of commands that have a reference, which may decide."""
    return metrics_option(f"what the reference has; of images, {','.join(STANDARD_METRICS)}")


def num_option(default: str, what: str = "How many images") -> Field:
    """--num-images, None if it is not given; default: in words, what the command then takes."""
    about = f"{what}  [default: {default}]"
    return option(about, "--num-images", type=click.IntRange(min=2), heading="Images", first=True)


def ref_option(help: str) -> Field:
    """--ref. help: what it is."""
    return option(help, metavar="PATH|URL|NAME", heading="Scoring", first=True)


class StoredOptions(OptionGroup, heading="Images"):
    """How stored images are read."""

    seed: int = option("Which, if there are more", type=click.INT, default=0)
    batch: int = batch_option(64)
    workers: int = option(
        "Ignored: images are decoded by one thread per core", type=click.IntRange(min=0), default=2, hidden=True
    )


def _field_options() -> dict[str, Declared]:
    """An option for every field of an extractor: --dinov2-resize=tf1."""
    declared: dict[str, Declared] = {}
    for extractor in extractors().values():
        hints = get_type_hints(type(extractor))
        for name, field in _fields(extractor).items():
            choices, about = click.Choice(get_args(hints[field.name])), field.metadata["about"]
            declared[name] = None, {"type": choices, "default": field.default, "help": about.help}
    return declared


def _fields(extractor: "Extractor") -> dict[str, dataclasses.Field[Any]]:
    """The fields of an extractor by the names of their options."""
    return {f"{extractor.kind}_{each.name}".replace("-", "_"): each for each in dataclasses.fields(extractor)}


class DetectorOptions(OptionGroup, heading="Scoring"):
    """Weights of detectors, and the fields of their extractors."""

    detector_weights: tuple[tuple[str, str], ...] = option(
        "A detector's weights; so does EDM2_FID_WEIGHTS=PATH and the like in the environment  [default: fetched]",
        type=Weights(),
        multiple=True,
    )
    fields: dict[str, str] = several_options(_field_options())

    def choices(self, metrics: Sequence[str], *, keep: bool = False) -> Choices:
        """How the detectors of these metrics are to be opened. keep: to keep features that no metric needs, too.

        A usage error for weights of an extractor that is not asked for, or given twice.
        """
        choices: Choices = detector_choices(metrics)
        for name in choices:
            if keep:
                choices[name]["keep"] = choices[name]["features"]
            choices[name] |= {field.name: self.fields[of] for of, field in _fields(find_extractor(name)).items()}
        for metric, path in self.detector_weights:
            if metric not in choices:
                raise click.UsageError(
                    f"--detector-weights={metric}={path}: {metric} is not scored here, only {', '.join(metrics)}; see "
                    "--metrics"
                )
            if "weights" in choices[metric]:
                raise click.UsageError(f"--detector-weights={metric}=... is given twice: leave out one of them")
            choices[metric]["weights"] = path
        return choices


def ledger_option() -> Field:
    """--ledger."""
    return option("The scores", metavar="JSONL", default=LEDGER, heading="Output", first=True)


class LedgerOptions(OptionGroup, heading="Output"):
    """Where results go."""

    ledger: str = ledger_option()
    note: str | None = option("Your words for these rows of the ledger", metavar="TEXT")


def again_option() -> Field:
    """--again."""
    return flag("Compute scores that the ledger has once more: further lines", heading="Scoring")


class FormatName(ParamType):
    """A format of statistics (`metrics.statistics_formats`), as its name; `list` prints which there are, and ends."""

    name = "format"

    def parse(self, text: str) -> str:
        show_if_list(text, formats_table)
        if text not in FORMATS:
            raise ValueError(f"'{text}' is not one of {', '.join(FORMATS)}")
        return text


def results_dir_option(help: str) -> Field:
    """--results-dir. help: what lies there."""
    return option(help, metavar="DIR", default="./results", heading="Output")


class DeviceOptions(OptionGroup, heading="Computing"):
    """Where detectors run."""

    device: str = device_option()
    deterministic: bool = deterministic_option()
    offline: bool = offline_option()


class PlainOptions(OptionGroup):
    """The interval-guidance repository's form, without a command."""

    images: str | None = option("Images to score, all of them", metavar="ZIP|DIR|NPZ")
    ref: str | None = ref_option("Reference, as --ref of calc")
    results_dir: str = results_dir_option("Folder of the ledger")
    metric: str = option(", ".join(METRICS), "--metrics", metavar="NAME", type=OneMetric(), default="fid")
    batch: int = batch_option(128)


def sides_from(samples: str | None, reference: str | None, images: str | None, ref: str | None) -> tuple[str, str]:
    """(samples, reference) of `calc`, given as arguments or as --images and --ref. Usage errors."""
    named = {"SAMPLES": samples, "REFERENCE": reference, "--images": images, "--ref": ref}
    found = [f"{name}={text}" for name, text in named.items() if text is not None]
    if samples is not None and (images is not None or ref is not None):
        raise click.UsageError(f"give SAMPLES REFERENCE or --images and --ref, not a mixture: {', '.join(found)}")
    first, second = (samples, reference) if samples is not None else (images, ref)
    if first is None or second is None:
        what = "no samples" if first is None else "no reference"
        raise click.UsageError(f"{what}: write calc SAMPLES REFERENCE (see calc --help)")
    if first in REFERENCES and not find_file(first).exists():
        raise click.UsageError(f"'{first}' names a reference, and samples come first: write calc SAMPLES {first}")
    return first, reference_from(second)


def reference_from(text: str | None, preset: Preset | None = None) -> str:
    """The file, URL or folder of a reference: as named, else the preset's own. Usage errors."""
    if text is None and (preset is None or not preset.data):
        brings = "a --preset brings its own" if preset is None else f"the preset {preset.name} brings none"
        raise click.UsageError(f"which reference? Give --ref ({brings})")
    with bad_input():
        source = find_reference(preset.data if text is None and preset is not None else str(text))
    if text is not None and text in REFERENCES and find_file(text).exists():
        note(f"{text} is taken for {source}; for what is in this folder write ./{text}")
    return source


def asked_metrics(metrics: list[str]) -> list[str] | None:
    """The metrics of `scored_metrics_option`; None if nobody gave them, so that the reference decides."""
    return metrics if given("metrics") else None


def open_ended(metrics: Sequence[str]) -> bool:
    """Whether it depends on the sides which metrics these are (`metrics.sides.settled`)."""
    return any(name.partition("/")[0] == ALL for name in metrics)


def known_metrics(source: str) -> list[str] | None:
    """The metrics of a published reference, by its URL or path; None for any other, which must be opened to say."""
    named = {short_name(reference.source): list(reference.metrics) for reference in REFERENCES.values()}
    return named.get(source)


def work_folder(
    workdir: str, recipe: Recipe, seeds: range, metrics: Sequence[str], unusual_precision: str | None
) -> Path:
    """Where the features of these images lie while they are being made."""
    part = f"{seeds[0]}-{len(seeds)}-{'-'.join(map(file_name, metrics))}{in_names(unusual_precision)}"
    return begun(recipe, lambda recipe_hash: Path(workdir) / f"{recipe_hash[:16]}-{part}")
