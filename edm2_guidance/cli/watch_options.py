"""How train_edm2.py shows what it trains: previews, scores of snapshots, trackers. No torch here."""

from dataclasses import dataclass

import click

from dnnlib.extras import TRACKERS
from edm2_guidance.cli.metric_options import REFERENCE, Metrics, open_ended
from edm2_guidance.cli.option_group import COUNT, OptionGroup, option
from edm2_guidance.cli.param_type import ParamType
from edm2_guidance.metrics.catalog import find_metric, shipped_reference
from edm2_guidance.papers.references import find_reference


@dataclass(frozen=True)
class Evaluate:
    """Metrics of every so many snapshots, of `num` images in `steps` sampling steps."""

    metrics: tuple[str, ...]
    num: int = 1000
    every: int = 1
    steps: int = 32


class Evaluation(ParamType):
    """METRICS, with fields of `Evaluate` behind them, as one."""

    name = "metrics[:num=1000]"

    def parse(self, text: str) -> Evaluate:
        rest, fields = [], dict[str, int]()
        for part in text.split(":"):
            name, _, number = part.partition("=")
            if name not in ("num", "every", "steps"):
                rest.append(part)
            elif name in fields:
                raise ValueError(f"{name} is given twice")
            else:
                fields[name] = _count(name, number)
        try:
            metrics = Metrics().parse(":".join(rest))
        except ValueError as error:
            raise ValueError(f"{error} (num, every and steps stand behind the last metric)") from error
        if open_ended(metrics):
            raise ValueError("name the metrics, such as fd_mnist:num=1000")
        return Evaluate(tuple(metrics), **fields)


def _count(name: str, text: str) -> int:
    least = 2 if name == "num" else 1
    if not text.isdigit() or int(text) < least:
        raise ValueError(f"{name}={text}: give a whole number of at least {least}, behind the last metric")
    return int(text)


class Trackers(ParamType):
    """Comma-separated names of trackers."""

    name = "list"

    def parse(self, text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
        if not set(names) <= set(TRACKERS):
            raise ValueError(f"give {', '.join(TRACKERS)}, or both")
        return names


class WatchOptions(OptionGroup, heading="Watching"):
    """What shows how a run goes. Nothing here has a part in the networks."""

    preview: int = option(
        "Images in the grid that is drawn of every snapshot; 0 = no grids", type=click.IntRange(min=0), default=16
    )
    preview_every: int = option("At every so many snapshots, and the last", type=COUNT, default=1)
    evaluate: Evaluate | None = option(
        "Score every snapshot: metrics, then :num=1000, :every=1 (snapshots) and :steps=32, if others",
        type=Evaluation(),
    )
    ref: str | None = option(
        f"For --evaluate: {REFERENCE}  [default: what ships for the metric]", metavar="PATH|URL|NAME"
    )
    trackers: tuple[str, ...] = option(f"Show the numbers in {' or '.join(TRACKERS)}, too", type=Trackers(), default=())

    def reference(self) -> str:
        """Of --evaluate, as `find_reference` gives it. ValueError or OSError if there is none."""
        assert self.evaluate is not None
        ships = {shipped_reference(find_metric(metric).stored_as) for metric in self.evaluate.metrics}
        name = self.ref or (ships.pop() if len(ships) == 1 else None)
        if name is None:
            raise ValueError(f"which reference for {', '.join(self.evaluate.metrics)}? Give --ref")
        return find_reference(name)
