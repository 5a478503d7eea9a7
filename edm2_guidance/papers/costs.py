"""What a row costs: network evaluations, operations, hours, downloads and disk. No torch here.

Operations are counted as the papers do: a multiply-add is one (arXiv 2312.02696, Table 6), so that a device does about
half of what its maker counts. Sizes are in bytes, "G" and "M" are powers of ten.
"""

import csv
import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edm2_guidance.metrics.catalog import dims, feature_names, find_metric
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.papers.rates import Rates
from edm2_guidance.papers.references import REFERENCES
from edm2_guidance.papers.tables import NETWORK_NAME, NETWORKS, Row, parsed, published_runs, publisher, run_of

DECODER_GFLOPS: Mapping[str, float] = MappingProxyType({"img512": 1260.9})  # the VAE's, arXiv 2312.02696, Table 6
#: The same of networks whose data are pixels for others: counted.
DECODER_GFLOPS_OF: Mapping[str, float] = MappingProxyType({"DiT-XL-2-256": 311.1})
#: Among evaluations, those of the main network whose gradient is taken. It is a pass back through the network, to the
#: image alone, which costs about what the first does; a classifier's evaluations all have one.
GRADIENT = "main gradient"
SNAPSHOT_IMAGES = 32 << 20  # between the published raw snapshots of a run
VAE_BYTES = 335_000_000  # about: 84 M parameters in float32
#: A PNG: estimates for photographs (0.55 to 0.75 of the raw size); the mean of 200 digits by mnist16-cfg.
PNG_BYTES: Mapping[str, int] = MappingProxyType({
    "img512": 430_000, "img64": 9_200, "mnist16": 500,
    "adm64": 9_200, "adm128": 34_000, "adm256": 120_000, "adm512": 430_000,
    "lsun-bedroom": 120_000, "lsun-cat": 120_000, "lsun-horse": 120_000,
    "cifar10": 2_300, "ffhq64": 9_200, "afhqv2-64": 9_200, "edm-img64": 9_200, "edm-img64-baseline": 9_200,
})  # fmt: skip
#: Where nothing was measured or given. One A100: 50,000 images by EDM2 take 30 to 60 minutes on eight (arXiv
#: 2406.02507, App. B), which makes 37 to 82.
ASSUMED = Rates([(1.0, 40.0)], "assumed, one A100")
ASSUMED_OF_DIGITS = Rates([(1.0, 0.02)], "assumed, two CPU cores")


@dataclass(frozen=True)
class NetworkFacts:
    """Parameters, and G operations of one evaluation of one image.

    gflops_from: published, or taken from where. bytes_per_parameter: in its file, which has next to nothing else.
    """

    params: int
    gflops: float
    gflops_from: str
    bytes_per_parameter: int

    @property
    def bytes(self) -> int:
        """Size of its file."""
        return self.bytes_per_parameter * self.params


@functools.cache
def all_networks() -> dict[str, NetworkFacts]:
    """Facts by training run, or by file name without suffix for the networks that ship here."""
    with open(Path(__file__).with_name("networks.csv"), newline="", encoding="utf-8") as file:
        return {
            line["network"]: NetworkFacts(
                int(line["params"]), float(line["gflops"]), line["gflops_from"], int(line["bytes"])
            )
            for line in csv.DictReader(file)
        }


def facts_of(file: str) -> NetworkFacts:
    """Facts of a network file of the tables. ValueError for any other."""
    name = run_of(file) if NETWORK_NAME.fullmatch(file) else Path(file).stem
    if name not in all_networks():
        raise ValueError(f"nothing is known of the cost of {file}: it is in none of the papers' tables")
    return all_networks()[name]


def png_bytes(network: str) -> int:
    """About how large a PNG is of the images that a network file of this name makes; 0 where the name does not say."""
    name = Path(network).name
    settings = (preset for preset in all_presets().values() if Path(preset.net).name == name)
    known = next((PNG_BYTES.get(preset.data, 0) for preset in settings), 0)
    return known or next((size for data, size in PNG_BYTES.items() if data in name), 0)


def evaluations(row: Row) -> dict[str, int]:
    """Evaluations of each of the row's `files` for one image, by what it is: "main", "guide 1", "base main", ....

    Empty where no network of this code base makes the row.
    """
    return {} if row.net is None else row.recipe().evaluations()


def decoder_gflops(row: Row) -> float:
    """G operations by which one sample is decoded to pixels; 0 where samples are pixels."""
    return DECODER_GFLOPS_OF.get(row.net or "", DECODER_GFLOPS.get(row.data, 0.0))


def tflop_per_image(row: Row) -> float | None:
    """T operations of one image with its decoding; None where no network of this code base makes it."""
    if row.net is None:
        return None
    return sum(_tflop_by_size(row).values()) + decoder_gflops(row) / 1000


def seconds_per_image(row: Row, rates: Rates) -> float:
    """To sample and decode one image of a row that is sampled, and to take its features if their rate is known."""
    sampling = sum(tflop / rates.network(gflops) for gflops, tflop in _tflop_by_size(row).items())
    decoder = rates.decoder or rates.network(math.inf)
    extractors = {find_metric(metric).extractor.stored_as for metric in row.together}
    features = sum(1 / rates.extractors[name] for name in extractors if name in rates.extractors)
    return sampling + decoder_gflops(row) / 1000 / decoder + features


def _tflop_by_size(row: Row) -> dict[float, float]:
    """T operations of all evaluations for one image, by the G operations of one."""
    counts = evaluations(row)
    gradients = counts.pop(GRADIENT, 0)
    made: dict[float, float] = {}
    for (name, count), file in zip(counts.items(), row.files, strict=True):
        gflops = facts_of(file).gflops
        passes = count * (2 if "classifier" in name else 1) + (gradients if name == "main" else 0)
        made[gflops] = made.get(gflops, 0) + passes * gflops / 1000
    return made


def reference_bytes(row: Row) -> int:
    """Size of the reference: mean and covariance in float64 of each kind of features, and ADM's images beside them."""
    if row.data == "mnist16":
        return 0
    reference = REFERENCES[row.against or row.data]
    found = {find_metric(metric).stored_as: find_metric(metric).dim for metric in reference.metrics}
    moments = sum(8 * (dim + dim**2) for name, dim in found.items() if "logits" not in name)
    return moments + reference.image_bytes


def downloads(rows: Iterable[Row], networks: str | Path = NETWORKS) -> dict[str, int]:
    """Everything that the rows need from elsewhere, once each: URL or a word for it -> bytes.

    Networks that are reconstructed are not in it: `snapshot_bytes` says what is fetched in their place. Nor are those
    of others.
    """
    files: dict[str, int] = {}
    for row in (row for row in rows if row.net is not None):
        sources = zip(row.files, row.sources(networks), strict=True)
        files |= {source: facts_of(file).bytes for file, source in sources if "://" in source}
        if "://" in row.reference:
            files[row.reference] = reference_bytes(row)
        extractor = find_metric(row.metric).extractor
        if size := extractor.weights.num_bytes:
            files[f"the detector {extractor.kind}"] = size
        if decoder_gflops(row):
            files["the Stability VAE" if NETWORK_NAME.fullmatch(str(row.net)) else f"the VAE of {row.net}"] = VAE_BYTES
    return files


def feature_bytes(metrics: Iterable[str], num_images: int) -> int:
    """Size of the features of so many images, float32, of each extractor that these metrics need."""
    return sum(4 * num_images * dims()[name] for name in feature_names(metrics))


def snapshot_bytes(files: Iterable[str]) -> int:
    """Size of the raw snapshots that reconstructing `files` reads: all of their runs up to the last one asked for.

    Published runs have two EMA lengths every 32 Mi images; runs that must be trained first are not counted.
    """
    last: dict[str, int] = {}
    for match in (parsed(file) for file in files if publisher(file) is None):
        if match["run"] in published_runs():
            last[match["run"]] = max(last.get(match["run"], 0), int(match["kimg"]))
    return sum(2 * round(kimg * 1000 / SNAPSHOT_IMAGES) * all_networks()[run].bytes for run, kimg in last.items())


@dataclass(frozen=True)
class Cost:
    """What a row costs.

    evaluations: per image, of each network, the main one's first. tflop: per image. pflop: of all images of all runs.
    throughput: T operations per second that come of `rates`, on one device. hours: on `gpus` of them; sampling and
    decoding, and features if their rate was measured. fetch: bytes to download. features: bytes on disk while it runs
    and no image is kept. images: bytes on disk if they are kept, an estimate.
    """

    row: Row
    num_images: int
    repeats: int
    evaluations: Mapping[str, int]
    tflop: float
    pflop: float
    rates: Rates
    gpus: int
    throughput: float
    hours: float
    fetch: int
    features: int
    images: int


def cost(
    row: Row, *, num: int | None = None, rates: Rates | None = None, gpus: int = 1, networks: str | Path = NETWORKS
) -> Cost | None:
    """The cost of a row; None if nothing is sampled for it here.

    num: images per run; None is the paper's. rates: of one device; None is what is assumed. gpus: such devices.
    """
    tflop = tflop_per_image(row)
    if tflop is None:
        return None
    count = row.num_images if num is None else num
    repeats = row.repeats or 1
    rates = rates or (ASSUMED_OF_DIGITS if row.data == "mnist16" else ASSUMED)
    seconds = seconds_per_image(row, rates)
    return Cost(
        row=row,
        num_images=count,
        repeats=repeats,
        evaluations=evaluations(row),
        tflop=tflop,
        pflop=tflop * count * repeats / 1000,
        rates=rates,
        gpus=gpus,
        throughput=tflop / seconds,
        hours=seconds * count * repeats / gpus / 3600,
        fetch=sum(downloads([row], networks).values()),
        features=feature_bytes(row.together, count),
        images=PNG_BYTES[row.data] * count * repeats,
    )
