"""What a metric is, in one place: a measure of an extractor's features, under a short name. No torch here.

    fid     kid:size=100:subsets=50     fd/mnist     kid:size=500/dinov2

    metric = (short name | measure "/" extractor), the fields of the measure after its name

Ledgers, reports and files call a metric by its short name, where it has one. Everything else that is asked of it is
a member of its measure (`metrics/measures`) or of its extractor (`metrics/extractors`).
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from edm2_guidance.metrics.extractors.base import Extractor
from edm2_guidance.metrics.measures.base import Measure
from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.spec import fields_of

#: Measure and extractor by short name, in the order in which they are listed.
METRICS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "fid": ("fd", "inception"),
        "fd_dinov2": ("fd", "dinov2"),
        "fd_mnist": ("fd", "mnist"),
        "fd_mnist_ae": ("fd", "mnist-ae"),
        "kid": ("kid", "inception"),
        "kid_mnist": ("kid", "mnist"),
    }
)


@dataclass(frozen=True)
class Metric:
    """A measure of an extractor's features. name: as ledgers have it."""

    name: str
    measure: Measure
    extractor: Extractor

    @property
    def needs_features(self) -> bool:
        """Whether mean and covariance of the features are not enough."""
        return self.measure.needs == "features"


@functools.cache
def find_metric(text: str) -> Metric:
    """The metric that a text stands for; '-' and '_' in short names are the same. ValueError if there is none."""
    kind, colon, fields = text.strip().partition(":")
    short = kind.replace("-", "_")
    if "/" in text:
        measure_text, extractor_kind = text.strip().split("/", 1)
    elif short in METRICS:
        measure_kind, extractor_kind = METRICS[short]
        measure_text = measure_kind + colon + fields
    else:
        raise ValueError(f"metric {text!r} is not known: use one of {', '.join(METRICS)}")
    if ":" in extractor_kind:
        raise ValueError(f"{text}: fields stand with the measure, as in kid:size=500/{extractor_kind.split(':')[0]}")
    try:
        measure = Measure.parse(measure_text)
    except ValueError as error:
        raise ValueError(_in_words_of(kind, measure_text.partition(":")[0], str(error))) from None
    extractor = _extractor(extractor_kind)
    if measure.features not in extractor.features:
        raise ValueError(f"{text}: '{measure.kind}' is of {measure.features}, which {extractor.kind} does not give")
    pairs = {pair: name for name, pair in METRICS.items()}
    named = pairs.get((measure.kind, extractor.kind))
    written = str(measure)
    name = f"{written}/{extractor.kind}" if named is None else named + written.removeprefix(measure.kind)
    return Metric(name, measure, extractor)


def _in_words_of(asked: str, measure: str, message: str) -> str:
    """A message that begins with the measure's name, with the short name that was asked for in its place."""
    return f"{asked}{message.removeprefix(measure)}" if asked in METRICS and message.startswith(measure) else message


def extractors() -> dict[str, Extractor]:
    """Every extractor, with its default fields, by the name of its features in files (`Extractor.stored_as`)."""
    found = map(_extractor, catalog.kinds("extractor"))
    return {extractor.stored_as: extractor for extractor in found}


def find_extractor(stored_as: str) -> Extractor:
    """The extractor whose features have this name in files. ValueError naming those there are."""
    known = extractors()
    if stored_as not in known:
        raise ValueError(f"metric {stored_as!r} is not known: use one of {', '.join(known)}")
    return known[stored_as]


def feature_names(metrics: Iterable[str]) -> list[str]:
    """The names in files of the features that metrics compare, once each."""
    return list(dict.fromkeys(find_metric(metric).extractor.stored_as for metric in metrics))


def kept_features(metrics: Iterable[str]) -> frozenset[str]:
    """Those of `feature_names` of which mean and covariance are not enough."""
    return frozenset(feature_names(metric for metric in metrics if find_metric(metric).needs_features))


def file_name(metric: str) -> str:
    """The metric's name as a part of names of files, which take no ":" or "/" everywhere."""
    return metric.replace(":", "-").replace("/", "-")


def value_text(metric: str, value: float) -> str:
    """A value with the decimals of its measure; with 4 for a metric that this version does not know."""
    try:
        decimals = find_metric(metric).measure.decimals
    except ValueError:
        decimals = 4
    return f"{value:.{decimals}f}"


def check_counts(metrics: Iterable[str], num_images: int, what: str = "images") -> None:
    """ValueError if so many images are too few for one of the metrics. what: the word for them."""
    for metric in metrics:
        find_metric(metric).measure.check_count(num_images, what, metric)


def too_few(metrics: Iterable[str], num_images: int) -> list[str]:
    """What `check_counts` refuses, a sentence for each of the metrics."""
    found = []
    for metric in metrics:
        try:
            check_counts([metric], num_images)
        except ValueError as error:
            found.append(str(error))
    return found


def table() -> str:
    """Every short name with what it is, for the command line."""
    rows = [("metric", "better", "definition", "features", "source")]
    for name in METRICS:
        metric = find_metric(name)
        measure, extractor = metric.measure, metric.extractor
        features = f"{extractor.kind}, {extractor.feature_dim} [{extractor.source}]"
        rows.append((name, measure.better, _first_line(measure), features, measure.source))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    measures, spaces = (", ".join(catalog.kinds(axis)) for axis in ("measure", "extractor"))
    lines.append(f"or MEASURE/EXTRACTOR: any measure ({measures}) of any features ({spaces})")
    for kind in catalog.kinds("measure"):
        lines += [f"{kind}: {text}" for text in fields_of(catalog.find("measure", kind))]
    return "\n".join([*lines, "With fields of your own: METRIC:FIELD=VALUE, several as METRIC:FIELD=VALUE:FIELD=VALUE"])


def _extractor(kind: str) -> Extractor:
    return cast(type[Extractor], catalog.find("extractor", kind))()


def _first_line(measure: Measure) -> str:
    return (type(measure).__doc__ or "").strip().splitlines()[0].rstrip(".")
