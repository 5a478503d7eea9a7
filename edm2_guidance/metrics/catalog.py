"""What a metric is, in one place: a measure of an extractor's features, under a short name. No torch here.

    fid     kid:size=100:subsets=50     fd/mnist     kid:size=500/dinov2     fd/inception.spatial

    metric = (short name | measure "/" extractor), the fields of the measure after its name

A measure is of the extractor's features that it names itself ("pool" for most), or of those that stand after a point.
Ledgers, reports and files call a metric by its short name, where it has one; a variant is a part of the name, so that
numbers by the rules of different evaluators have different names. Everything else that is asked of a metric is a
member of its measure (`metrics/measures`) or of its extractor (`metrics/extractors`).
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

from edm2_guidance.metrics.extractors.base import Extractor
from edm2_guidance.metrics.measures.base import Measure
from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.spec import fields_of

#: Measure and extractor by short name, in the order in which they are listed. A variant that is an evaluator of other
#: features has a line of its own.
METRICS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "fid": ("fd", "inception"),
        "fd_dinov2": ("fd", "dinov2"),
        "fd_mnist": ("fd", "mnist"),
        "fd_mnist_ae": ("fd", "mnist-ae"),
        "sfid": ("fd", "inception.spatial"),
        "is": ("is", "inception"),
        "kid": ("kid", "inception"),
        "kid_mnist": ("kid", "mnist"),
        "precision": ("precision", "inception"),
        "recall": ("recall", "inception"),
        "precision:interval": ("precision:interval", "dinov2"),
        "recall:interval": ("recall:interval", "dinov2"),
        "realism": ("realism", "inception"),
        "density": ("density", "inception"),
        "coverage": ("coverage", "inception"),
        "clipped_density": ("clipped-density", "inception"),
        "clipped_coverage": ("clipped-coverage", "inception"),
        "fd_inf": ("fd-inf", "inception"),
        "mind": ("mind", "inception"),
        "vendi": ("vendi", "inception"),
        "authpct": ("authpct", "inception"),
    }
)

#: Metrics that one evaluator or paper reports together, in its order.
SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "adm": ("is:adm", "fid", "sfid", "precision:adm", "recall:adm"),
        "interval": ("fid", "fd_dinov2", "precision:interval", "recall:interval"),
    }
)
#: Every measure of the features at hand, or of those of an extractor, "all/mnist": as far as both sides allow it.
ALL = "all"
#: Beside the measures that score single images: what these may be ranked by, from the nearest of the reference.
DISTANCE = "distance"


@dataclass(frozen=True)
class Metric:
    """A measure of an extractor's features. name: as ledgers have it. features: which, by their name there."""

    name: str
    measure: Measure
    extractor: Extractor
    features: str

    @property
    def stored_as(self) -> str:
        """The name of the features in files."""
        return self.extractor.stored(self.features)

    @property
    def dim(self) -> int:
        """D of the features."""
        return self.extractor.features[self.features]

    def needs(self, *, reference: bool = False) -> str:
        """What of the images, or of the reference, is compared: "moments", "features" or "nothing"."""
        return self.measure.needs_reference if reference else self.measure.needs


@functools.cache
def find_metric(text: str) -> Metric:
    """The metric that a text stands for; '-' and '_' in short names are the same. ValueError if there is none."""
    measure_text, features_text = _parted(text.strip())
    extractor_kind, point, chosen = features_text.partition(".")
    if ":" in features_text:
        raise ValueError(f"{text}: fields stand with the measure, as in kid:size=500/{extractor_kind.split(':')[0]}")
    try:
        measure = Measure.parse(measure_text)
    except ValueError as error:
        asked = text.strip().partition(":")[0]
        raise ValueError(_in_words_of(asked, measure_text.partition(":")[0], str(error))) from None
    extractor = _extractor(extractor_kind)
    features = chosen if point else measure.features
    if features not in extractor.features:
        has = ", ".join(extractor.features)
        raise ValueError(f"{text}: '{measure.kind}' is of {features}, which {extractor.kind} does not give, only {has}")
    if measure.features not in ("pool", features):
        raise ValueError(f"{text}: '{measure.kind}' is of {measure.features}, not of {features}")
    space = extractor.kind if features == measure.features else f"{extractor.kind}.{features}"
    return Metric(_name(str(measure), space), measure, extractor, features)


def _parted(text: str) -> tuple[str, str]:
    """The texts of measure and features. ValueError for an unknown short name."""
    if "/" in text:
        measure, features = text.split("/", 1)
        return measure, features
    kind, *fields = text.split(":")
    short = kind.replace("-", "_")
    if short not in METRICS:
        raise ValueError(f"metric {text!r} is not known: use one of {', '.join(METRICS)}")
    measure, features = METRICS[short]
    for name in (f"{short}:{field}" for field in fields):
        _, features = METRICS.get(name, (measure, features))
    return ":".join([measure, *fields]), features


def _name(measure: str, features: str) -> str:
    """The short name of a metric, or its text in full; whatever it is, `_parted` gives the same metric of it."""
    kind, *fields = measure.split(":")
    for name, pair in METRICS.items():
        if pair == (measure, features):
            return name
        found = ":".join([name, *fields])
        if pair == (kind, features) and _parted(found)[1] == features:
            return found
    return f"{measure}/{features}"


def _in_words_of(asked: str, measure: str, message: str) -> str:
    """A message that begins with the measure's name, with the short name that was asked for in its place."""
    return f"{asked}{message.removeprefix(measure)}" if asked in METRICS and message.startswith(measure) else message


def shipped_reference(stored: str) -> str | None:
    """The name of statistics that ship here of the features that files call so; None for none."""
    found = (each for each in map(_extractor, catalog.kinds("extractor")) if stored in map(each.stored, each.features))
    return next((each.reference for each in found), None)


def names_of(text: str) -> list[str]:
    """The metrics that one text stands for, by name: one, or those of a set. `ALL` stays as it is, if it is right."""
    text = text.strip()
    if text.partition("/")[0] == ALL:
        if text != ALL:
            all_of(text.partition("/")[2])
        return [text]
    return [find_metric(each).name for each in SETS.get(text, (text,))]


def all_of(extractor: str) -> list[str]:
    """Every measure of an extractor's features, with its defaults, by name. ValueError for an unknown extractor."""
    features = _extractor(extractor).features
    short = [name for name, (_, of) in METRICS.items() if of.partition(".")[0] == extractor and ":" not in name]
    measures = (cast(type[Measure], catalog.find("measure", kind))() for kind in catalog.kinds("measure"))
    every = [f"{measure}/{extractor}" for measure in measures if measure.features in features]
    return list(dict.fromkeys(find_metric(text).name for text in [*short, *every]))


def extractors() -> dict[str, Extractor]:
    """Every extractor, with its default fields, by the name of its features "pool" in files (`Extractor.stored_as`)."""
    found = map(_extractor, catalog.kinds("extractor"))
    return {extractor.stored_as: extractor for extractor in found}


def dims() -> dict[str, int]:
    """D of all features that there are, by their names in files (`Extractor.stored`)."""
    return {each.stored(name): dim for each in extractors().values() for name, dim in each.features.items()}


def find_extractor(stored_as: str) -> Extractor:
    """The extractor whose features, or some of them, have this name in files. ValueError naming those there are."""
    for extractor in extractors().values():
        if stored_as in map(extractor.stored, extractor.features):
            return extractor
    raise ValueError(f"metric {stored_as!r} is not known: use one of {', '.join(extractors())}")


def feature_names(metrics: Iterable[str], *, reference: bool = False) -> list[str]:
    """The names in files of the features that metrics compare, once each; those of the reference are fewer."""
    found = [metric for metric in map(find_metric, metrics) if metric.needs(reference=reference) != "nothing"]
    return list(dict.fromkeys(metric.stored_as for metric in found))


def kept_features(metrics: Iterable[str], *, reference: bool = False) -> frozenset[str]:
    """Those of `feature_names` of which mean and covariance are not enough."""
    found = map(find_metric, metrics)
    return frozenset(metric.stored_as for metric in found if metric.needs(reference=reference) == "features")


def detector_choices(metrics: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What extractors must give for metrics: arguments of `metrics.detectors.load_detector` by its name."""
    choices: dict[str, dict[str, Any]] = {}
    for metric in map(find_metric, metrics):
        choice = choices.setdefault(metric.extractor.stored_as, {"features": [], "keep": []})
        for key in ("features", "keep") if metric.needs() == "features" else ("features",):
            choice[key] = list(dict.fromkeys([*choice[key], metric.features]))
    return choices


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


def interval_text(metric: str, interval: Mapping[str, float] | None) -> str:
    """The ends of an interval as `value_text` has values: "[0.9012, 1.1678]"; "" for none."""
    if not interval:
        return ""
    return f"[{value_text(metric, interval['low'])}, {value_text(metric, interval['high'])}]"


def score_text(record: Mapping[str, Any]) -> str:
    """The value of a ledger's line, and its interval if there is one."""
    metric = record["metric"]
    return f"{value_text(metric, record['value'])}  {interval_text(metric, record.get('interval'))}".rstrip()


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
    """Every short name with what it is, variants, and sets, for the command line."""
    rows = [("metric", "better", "definition", "features", "source")]
    for name in METRICS:
        metric = find_metric(name)
        measure, extractor = metric.measure, metric.extractor
        space = extractor.kind if metric.features == "pool" else f"{extractor.kind}.{metric.features}"
        features = f"{space}, {metric.dim} [{extractor.source}]"
        rows.append((name, measure.better, _first_line(measure), features, measure.source))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    measures, spaces = (", ".join(catalog.kinds(axis)) for axis in ("measure", "extractor"))
    lines.append(f"or MEASURE/EXTRACTOR: any measure ({measures}) of any features ({spaces}){_exceptions()}")
    for kind in catalog.kinds("measure"):
        lines += [f"{kind}: {text}" for text in fields_of(catalog.find("measure", kind))]
    lines += [f"{name}: the set {', '.join(metrics)}" for name, metrics in SETS.items()]
    lines.append(f"{ALL}: every measure of the features at hand, or {ALL}/EXTRACTOR, as far as both sides allow it")
    return "\n".join([*lines, "With fields of your own: METRIC:FIELD=VALUE, several as METRIC:FIELD=VALUE:FIELD=VALUE"])


def _exceptions() -> str:
    """Which measures are of features that not all extractors give."""
    text = ""
    for measure in (cast(type[Measure], catalog.find("measure", kind)) for kind in catalog.kinds("measure")):
        kinds = [each.kind for each in extractors().values() if measure.features in each.features]
        if len(kinds) < len(extractors()):
            text += f"; {measure.kind} of {' and '.join(kinds)} alone, which give {measure.features}"
    return text


def _extractor(kind: str) -> Extractor:
    return cast(type[Extractor], catalog.find("extractor", kind))()


def _first_line(measure: Measure) -> str:
    return (type(measure).__doc__ or "").strip().splitlines()[0].rstrip(".")
