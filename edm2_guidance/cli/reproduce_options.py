"""The options of reproduce.py's run, search and plot. No torch here."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from dnnlib import figures
from edm2_guidance.cli.command import bad_input, keeps
from edm2_guidance.cli.lists import seed_option
from edm2_guidance.cli.metric_options import (
    REFERENCE,
    Metrics,
    OneMetric,
    again_option,
    ledger_option,
    open_ended,
    ref_option,
    reference_from,
    results_dir_option,
)
from edm2_guidance.cli.option_group import COUNT, Field, OptionGroup, flag, option
from edm2_guidance.cli.param_type import ParamType
from edm2_guidance.cli.run_options import RunOptions, format_option, sampling_batch_option, shard_option
from edm2_guidance.cli.submit import JobOptions
from edm2_guidance.papers.plots import WIDTHS, Look
from edm2_guidance.papers.presets import Preset
from edm2_guidance.papers.tables import NETWORKS

if TYPE_CHECKING:
    from edm2_guidance.work.again import Made

_images = click.IntRange(min=2)


def networks_option() -> Field:
    """--networks."""
    return option("Where reconstructed networks are", metavar="DIR", default=NETWORKS, heading="Networks")


def _num_option(help: str, **settings: Any) -> Field:
    return option(help, "--num-images", type=_images, heading="Images", first=True, **settings)


class ListOptions(OptionGroup):
    """How rows are printed."""

    form: Literal["table", "csv", "json"] = format_option("table")


class StatusOptions(OptionGroup):
    """How it is printed how far work is."""

    form: Literal["table", "json"] = format_option("table")


class ReportOptions(OptionGroup, heading="Page"):
    """How published scores and those of the ledger are printed, or where they are written."""

    form: Literal["markdown", "csv", "json"] = format_option("markdown")
    ledger: str = ledger_option()
    out: str | None = option("Write it there  [default: print it]", metavar="FILE", heading="Output")
    html: str | None = option("A web page instead, with curves, samples and recipes", metavar="FILE", heading="Output")
    samples: str | None = option("Images that the page shows  [default: ZIPs that were scored]", metavar="PATH|ZIP")
    ranking: str | None = option("Their order, by calculate_metrics.py rank --format=csv", metavar="CSV")


class WorkOptions(OptionGroup, heading="Output"):
    """How rows and points of a search are made."""

    networks: str = networks_option()
    again: bool = again_option()
    ledger: str = ledger_option()
    results_dir: str = results_dir_option("Where unfinished work is")
    keep_images: bool = flag("Keep them: a ZIP per block in DIR/images, scored if there")
    batch: int | None = sampling_batch_option(64)
    run: RunOptions
    shard_size: int = shard_option(128)

    @contextmanager
    def goes_on(self) -> Iterator[None]:
        """Around the work: an interrupt is told what it leaves behind."""
        kept = f"what was scored is in {self.ledger}, unfinished work in {Path(self.results_dir)}"
        with keeps(lambda: f"{kept}; the same command goes on"):
            yield


class RowOptions(OptionGroup, heading="Images"):
    """The blocks of a row, and how they are made."""

    num: int | None = _num_option("Per block  [default: as the paper]")
    blocks: int | None = option("Seed blocks  [default: 3 for a minimum of three]", type=COUNT, first=True)
    seed: int | None = option("First seed  [default: as the paper, or 0]", type=click.IntRange(min=0))
    labels: Literal["random", "balanced"] | None = option("Another label rule than the paper's", heading="Sampling")
    work: WorkOptions
    jobs: JobOptions


class TargetOptions(OptionGroup, heading="Images"):
    """What a search is for, and by how many images."""

    metrics: list[str] | None = option(
        "What is searched for; more after a comma are recorded beside it  [default: the preset's]",
        type=Metrics(), heading="Scoring", first=True,
    )  # fmt: skip
    ref: str | None = ref_option(f"{REFERENCE}  [default: the preset's]")
    name: str | None = option("In ledger and plots  [default: the preset's]", metavar="NAME", heading="Output")
    num: int = _num_option("Images a point", default=5000)
    final_num: int | None = option("Images per block at the best  [default: --num-images]", type=_images)
    blocks: int = option("Blocks at the best", type=COUNT, default=3)
    seed: int = seed_option()

    def resolved(self, preset: Preset | None, made: "Made | None" = None) -> tuple[str, list[str], str]:
        """(name, metrics, reference), given, of the preset, or of the line that --recipe names. Usage errors."""
        name = self.name or (preset.name if preset is not None else "")
        metrics = self.metrics or ([preset.metric] if preset is not None and preset.metric else [])
        if open_ended(metrics):
            raise click.UsageError(f"--metrics={','.join(metrics)}: a search is by one metric: name that first")
        ref = self.ref or (made.reference if made is not None else None)
        if not metrics and made is not None and made.metric is not None:
            with bad_input():
                metrics = [OneMetric().parse(made.metric)]
        needed = {"--name": name, "--metrics": metrics, "--ref": ref or (preset is not None and preset.data)}
        missing = [flag for flag, value in needed.items() if not value]
        if missing:
            where = "without a --preset, a" if preset is None else f"{preset.name} has no published score: a"
            raise click.UsageError(f"{where} search needs {', '.join(missing)}")
        return name, metrics, reference_from(ref, preset)


class Inches(ParamType):
    """Width and height of a picture; of a column or page the width alone."""

    name = "W,H|column|page"

    def parse(self, text: str) -> tuple[float, float | None]:
        if text in WIDTHS:
            return WIDTHS[text], None
        try:
            width, height = map(float, text.split(","))
        except ValueError:
            width = height = 0
        if not (1 <= width <= 100 and 1 <= height <= 100):
            raise ValueError(f"give inches from 1 to 100, such as 5,3, or {' or '.join(WIDTHS)}")
        return width, height


class PictureOptions(OptionGroup, heading="Picture"):
    """A plot as a file to publish."""

    out: str = option("The picture", metavar="PNG|PDF|SVG", required=True, heading="Output")
    overwrite: bool = flag("Replace the picture that is there", heading="Output")
    labels: str | None = option("What the curves are called, in order", metavar="TEXT,...")
    title: str = option("Above the plot", metavar="TEXT", default="", show_default=False)
    size: tuple[float, float | None] | None = option(
        "Inches, or as wide as a column or page of a paper", metavar="W,H|column|page", type=Inches()
    )
    style: str | None = option(
        "print, or one of matplotlib's  [default: print for a column or page]", metavar="NAME|MPLSTYLE"
    )

    @property
    def look(self) -> Look:
        """How it is to look."""
        width, height = self.size or (None, None)
        style = self.style or ("print" if width is not None and height is None else None)
        labels = None if self.labels is None else [label.strip() for label in self.labels.split(",")]
        return Look(labels, self.title, width, height, style)

    def check_place(self) -> None:
        """ValueError or OSError if no picture may be written there."""
        figures.check_target(Path(self.out))
        if Path(self.out).exists() and not self.overwrite:
            raise ValueError(f"{self.out} exists: take another name, or --overwrite")


class PlotOptions(PictureOptions, heading="Curves"):
    """A plot of searches, or of diagnostics."""

    kind: Literal["weight", "scale", "alpha", "interval", "ema", "precision-recall", "diagnostics"] = option(
        "What is drawn", required=True
    )
    metrics: list[str] | None = option(
        "Of searches: the scores by this; two for precision-recall  [default: by which the search was; those of "
        "fidelity and diversity]", type=Metrics(),
    )  # fmt: skip
    num: int | None = _num_option("Of searches: the scores at so many images")
    against: str | None = option("Differences to this search or row, of the same seeds", metavar="SEARCH|ROW")
    ledger: str = ledger_option()

    @property
    def metric(self) -> str | None:
        """By which the scores are; None for that by which the search was. ValueError for more than one."""
        if self.metrics is not None and len(self.metrics) > 1:
            raise ValueError(f"--metrics={','.join(self.metrics)}: --kind={self.kind} draws one")
        return self.metrics[0] if self.metrics else None

    @property
    def count(self) -> int:
        """The scores at so many images. Usage error if that was not said."""
        if self.num is None:
            context = click.get_current_context()
            asked = next(param for param in context.command.params if param.name == "num")
            raise click.MissingParameter(ctx=context, param=asked)
        return self.num
