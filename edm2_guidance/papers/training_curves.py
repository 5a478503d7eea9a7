"""How training runs go, as a picture: loss, learning rate and scores against the images seen. matplotlib draws it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dnnlib import figures
from edm2_guidance.papers.plots import Look, check_look

Record = Mapping[str, Any]
_DASHES = ("-", "--", ":", "-.")  # of EMA lengths


def draw(runs: Mapping[str, Sequence[Record]], path: Path, look: Look) -> None:
    """Draw runs, by their names, from their statistics (`training.run_log.read_stats`), into a PNG, PDF or SVG.

    One pair of axes below the other: loss, learning rate, and each metric that snapshots were scored by, with bars for
    intervals. A loss that is not finite is a gap. Raises as `check`; ImportError without matplotlib.
    """
    check(runs, look)
    with figures.styled(look.style):
        figures.save(arranged(runs, look), path)


def arranged(runs: Mapping[str, Sequence[Record]], look: Look) -> Any:
    """The figure that `draw` saves, inside `figures.styled`."""
    metrics = sorted({record["metric"] for stats in runs.values() for record in stats if "network" in record})
    width, rows = look.width or 6.4, 2 + len(metrics)
    figure = figures.new_figure((width, look.height or 0.6 + rows * min(1.8, 0.4 * width)))
    axes = figure.subplots(rows, 1, sharex=True)
    for number, stats in enumerate(runs.values()):
        for each, key in zip(axes, ("loss", "lr"), strict=False):
            _draw_reports(each, stats, key, f"C{number}")
        for each, metric in zip(axes[2:], metrics, strict=True):
            _draw_scores(each, [record for record in stats if record.get("metric") == metric], f"C{number}")
    for each, ylabel in zip(axes, ["loss", "learning rate", *metrics], strict=True):
        each.set_ylabel(ylabel)
        each.grid(alpha=0.25)
    for each in axes[2:]:
        each.legend(title="EMA length", frameon=False)
    axes[-1].set_xlabel("thousands of images seen")
    names = look.labels or [*runs]
    figure.legend(axes[0].lines, names, loc="outside upper center", ncols=min(len(names), 4), frameon=False)
    if look.title:
        figure.suptitle(look.title)
    return figure


def check(runs: Mapping[str, Sequence[Record]], look: Look) -> None:
    """ValueError for a run without reports; as `plots.check_look`."""
    for name, stats in runs.items():
        if not any("loss" in record for record in stats):
            raise ValueError(f"{name}: no stats.jsonl of a training run there, or no report in it yet")
    check_look(look, [*runs])


def _draw_reports(axes: Any, stats: Sequence[Record], key: str, colour: str) -> None:
    reports = [record for record in stats if key in record]
    values = [float("nan") if record[key] is None else record[key] for record in reports]
    axes.plot([record["kimg"] for record in reports], values, color=colour, marker="" if len(reports) > 1 else "o")


def _draw_scores(axes: Any, scores: Sequence[Record], colour: str) -> None:
    """One curve for every EMA length, which the network's name ends with."""
    lengths = sorted({Path(record["network"]).stem.rpartition("-")[2] for record in scores})
    for length, dash in zip(lengths, _DASHES * len(lengths), strict=False):
        found = [record for record in scores if Path(record["network"]).stem.endswith(f"-{length}")]
        bars = [
            [abs(record["value"] - (record["interval"] or {end: record["value"]})[end]) for record in found]
            for end in ("low", "high")
        ]
        axes.errorbar(
            [record["kimg"] for record in found], [record["value"] for record in found], yerr=bars,
            color=colour, ls=dash, marker="o", capsize=1.5, elinewidth=0.8, label=length,
        )  # fmt: skip
