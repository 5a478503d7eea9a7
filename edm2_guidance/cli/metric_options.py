"""Options of calculate_metrics.py. No torch here."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click

from dnnlib.places import find_file, near, short_name
from dnnlib.urls import is_url
from edm2_guidance.cli.command import bad_input, stack
from edm2_guidance.cli.param_type import ParamType
from edm2_guidance.cli.run_options import batch_option, deterministic_option
from edm2_guidance.cli.typed import given
from edm2_guidance.metrics.catalog import (
    METRICS,
    extractors,
    feature_names,
    file_name,
    find_metric,
    kept_features,
    table,
)
from edm2_guidance.papers.presets import Preset
from edm2_guidance.papers.references import REFERENCES, find_reference
from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.stored import begun

LEDGER = "results/ledger.jsonl"


class OneMetric(ParamType):
    """A metric (`metrics.catalog`), as its name; `list` prints which there are, and ends."""

    name = "metric"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "list" and ctx is not None:
            click.echo(table())
            ctx.exit()
        return self.parsed(str(value), param, ctx)

    def parsed(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        kind = text.strip().partition(":")[0]
        if kind in catalog.kinds("measure") and kind not in METRICS and "/" not in text:
            self.fail(f"'{kind}' is a measure: give it with its features, such as {text.strip()}/mnist", param, ctx)
        if kind.replace("-", "_") not in METRICS and "/" not in text:
            self.fail(f"'{kind}' is not one of {', '.join(METRICS)}", param, ctx)
        try:
            return find_metric(text).name
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Metrics(OneMetric):
    """Comma-separated metrics, as a list of their names, each once."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, list) or value == "list":
            return value if isinstance(value, list) else super().convert(value, param, ctx)
        return list(dict.fromkeys(self.parsed(text, param, ctx) for text in str(value).split(",")))


class Weights(ParamType):
    """METRIC=PATH of a weight file that is there, or METRIC=URL, as (metric, path)."""

    name = "metric=path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        metric, _, path = str(value).partition("=")
        metric = metric.strip().replace("-", "_")
        if metric not in extractors() or path == "":
            self.fail(f"give METRIC=PATH with one of {', '.join(extractors())}", param, ctx)
        if not is_url(path) and not find_file(path).is_file():
            self.fail(f"there is no file {path}{near(path)}", param, ctx)
        return metric, path


REFERENCE = f"Statistics or features (file or URL), images (folder, ZIP, .npz), or one of {', '.join(REFERENCES)}"
STANDARD_METRICS = ["fid", "fd_dinov2"]  # where nothing says which


def _metrics_option(default: str) -> Callable[[Any], Any]:
    """--metrics; default: in words, what the command takes for it."""
    return click.option(
        "--metrics", "--metric", metavar="LIST", type=Metrics(), default=",".join(STANDARD_METRICS),
        help=f"{', '.join(METRICS)}, with fields METRIC:FIELD=VALUE; list tells what they are  [default: {default}]",
    )  # fmt: skip


metrics_option = _metrics_option(",".join(STANDARD_METRICS))
scored_metrics_option = _metrics_option(f"what the reference has; of images, {','.join(STANDARD_METRICS)}")


def num_option(default: str, what: str = "How many images") -> Callable[[Any], Any]:
    """--num, None if it is not given; default: in words, what the command then takes."""
    text = f"{what} (torchrun takes --num for its own: there, --num_images)  [default: {default}]"
    return click.option("--num", "--num_images", "num", metavar="INT", type=click.IntRange(min=2), help=text)


stored_options = stack([
    click.option("--seed", metavar="INT", type=int, default=0, show_default=True, help="Which, if there are more"),
    batch_option(64),
    click.option(
        "--workers", metavar="INT", type=click.IntRange(min=0), default=2, expose_value=False,
        help="Ignored: images are decoded by one thread per core",
    ),
])  # fmt: skip


def _extractor_fields() -> Iterator[tuple[str, str, dataclasses.Field[Any]]]:
    """Every field of an extractor: the name of its features in files, that of its option, and the field."""
    for name, extractor in extractors().items():
        for field in dataclasses.fields(extractor):
            yield name, f"{extractor.kind}_{field.name}", field


def _field_option(option: str, extractor: str, field: dataclasses.Field[Any]) -> Callable[[Any], Any]:
    choices = get_args(get_type_hints(type(extractors()[extractor]))[field.name])
    return click.option(
        f"--{option.replace('_', '-')}",
        type=click.Choice(choices),
        default=field.default,
        show_default=True,
        help=field.metadata["about"].help,
    )


detector_options = stack([
    click.option(
        "--weights", metavar="METRIC=PATH", type=Weights(), multiple=True,
        help="A detector's weights; so does EDM2_FID_WEIGHTS=PATH and the like in the environment  [default: fetched]",
    ),
    *(_field_option(option, name, field) for name, option, field in _extractor_fields()),
])  # fmt: skip

work_options = stack([
    click.option(
        "--workdir", metavar="DIR", default="results/work", show_default=True,
        help="Where features lie until the result is there, 4 bytes each",
    ),
    click.option(
        "--shard-size", metavar="INT", type=click.IntRange(min=1), default=512, show_default=True,
        help="Images per shard, what an interruption costs at most",
    ),
])  # fmt: skip

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace the statistics that are there")

ledger_options = stack(
    [
        click.option("--ledger", metavar="JSONL", default=LEDGER, show_default=True, help="Where results are appended"),
        click.option("--note", metavar="TEXT", help="Your words for these rows of the ledger"),
    ]
)

again_option = click.option("--again", is_flag=True, help="Compute scores that the ledger has once more: further lines")

device_options = stack(
    [
        click.option("--device", metavar="NAME", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps"),
        deterministic_option,
        click.option("--offline", is_flag=True, help="Never download; say what is missing"),
    ]
)

#: The interval-guidance repository's form, without a command.
plain_options = stack(
    [
        click.option("--gen_zip", metavar="ZIP|DIR|NPZ", help="Images to score, all of them"),
        click.option("--ref_path", metavar="PATH|URL|NAME", help="Reference, as --ref of calc"),
        click.option(
            "--results_dir", metavar="DIR", default="./results", show_default=True, help="Folder of the ledger"
        ),
        click.option(
            "--metric",
            metavar="NAME",
            type=OneMetric(),
            default="fid",
            show_default=True,
            help=", ".join(METRICS),
        ),
        click.option(
            "--batch_size",
            "--batch",
            metavar="INT",
            type=click.IntRange(min=1),
            default=128,
            show_default=True,
            help="Images at a time",
        ),
    ]
)

#: What that form cannot say: the defaults of `calc`.
PLAIN_DEFAULTS = {
    "weights": (),
    **{option: field.default for _, option, field in _extractor_fields()},
    "device": "auto",
    "offline": False,
    "note": None,
}


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
    if text is None and preset is None:
        raise click.UsageError("which reference? Give --ref (a --preset brings its own)")
    with bad_input():
        source = find_reference(preset.data if text is None and preset is not None else str(text))
    if text is not None and text in REFERENCES and find_file(text).exists():
        click.echo(f"note: {text} is taken for {source}; for what is in this folder write ./{text}", err=True)
    return source


def asked_metrics(metrics: list[str]) -> list[str] | None:
    """The metrics of `scored_metrics_option`; None if nobody gave them, so that the reference decides."""
    return metrics if given("metrics") else None


def known_metrics(source: str) -> list[str] | None:
    """The metrics of a published reference, by its URL or path; None for any other, which must be opened to say."""
    named = {short_name(reference.source): list(reference.metrics) for reference in REFERENCES.values()}
    return named.get(source)


def work_folder(workdir: str, recipe: Recipe, seeds: range, metrics: Sequence[str]) -> Path:
    """Where the features of these images lie while they are being made."""
    part = f"{seeds[0]}-{len(seeds)}-{'-'.join(map(file_name, metrics))}"
    return begun(recipe, lambda recipe_hash: Path(workdir) / f"{recipe_hash[:16]}-{part}")


def detector_choices(metrics: Sequence[str], params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What `metrics.detectors.load_detector` is to be given, by the name of the features that these metrics need.

    params: of `detector_options`. A usage error for weights of an extractor that is not asked for, or given twice.
    """
    kept = kept_features(metrics)
    choices: dict[str, dict[str, Any]] = {
        name: {"keep": True} if name in kept else {} for name in feature_names(metrics)
    }
    for name, option, field in _extractor_fields():
        if name in choices:
            choices[name][field.name] = params[option]
    for metric, path in params["weights"]:
        if metric not in choices:
            raise click.UsageError(
                f"--weights={metric}={path}: {metric} is not scored here, only {', '.join(metrics)}; see --metrics"
            )
        if "weights" in choices[metric]:
            raise click.UsageError(f"--weights={metric}=... is given twice: leave out one of them")
        choices[metric]["weights"] = path
    return choices
