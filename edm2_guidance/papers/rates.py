"""How fast devices are, as `python -m benchmarks --calibrate` measured and kept it. No torch here.

The file `measured/rates.json` in the cache folder has an entry per kind of device, form and precision of the networks.
Rates are in T operations per second, a multiply-add counted once, as in `costs.py`.
"""

import bisect
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dnnlib.atomic import atomic_path
from dnnlib.cache import make_cache_dir_path
from dnnlib.inference import PREPARED, UNSAID, Inference
from dnnlib.plain_json import parse_json
from dnnlib.processor import processor_name
from dnnlib.regular import read_regular

_FORMAT = "edm2-guidance rates 1"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Rates:
    """What one device does.

    networks: pairs of the G operations that one image takes in one evaluation, and the rate there, rising. decoder: the
    rate of the VAE's; None where it is not known: that of the largest network. extractors: images per second, by the
    name of their features in files. kind: cpu or cuda. form, precision: of the networks. source: for readers.
    """

    networks: Sequence[tuple[float, float]]
    source: str
    decoder: float | None = None
    extractors: Mapping[str, float] = field(default_factory=dict)
    device: str = ""
    kind: str = ""
    form: str = ""
    precision: str = ""

    def __post_init__(self) -> None:
        decoder = [] if self.decoder is None else [self.decoder]
        numbers = [*itertools.chain(*self.networks), *self.extractors.values(), *decoder]
        if not self.networks or not all(0 < number < math.inf for number in numbers):
            raise ValueError("rates are positive, finite numbers")

    def network(self, gflops: float) -> float:
        """The rate of a network of this size: between two that were measured, in logarithms; at an end, its own."""
        at = bisect.bisect([size for size, _ in self.networks], gflops)
        if at in (0, len(self.networks)):
            return self.networks[min(at, len(self.networks) - 1)][1]
        (low, slow), (high, fast) = self.networks[at - 1 : at + 1]
        share = math.log(gflops / low) / math.log(high / low)
        return slow * math.exp(math.log(fast / slow) * share)

    @property
    def key(self) -> tuple[str, str, str]:
        """What there is one entry of."""
        return self.device, self.form, self.precision


def store() -> Path:
    """Where they are kept. PermissionError as `make_cache_dir_path`."""
    return Path(make_cache_dir_path("measured", "rates.json"))


def read_rates() -> list[Rates]:
    """All that is kept, the newest last; none if nothing is. ValueError if the file is damaged, else OSError."""
    path = store()
    try:
        found = parse_json(read_regular(path, _MAX_BYTES))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    try:
        if found["format"] != _FORMAT:
            raise ValueError("another format")
        return [_rates(**entry) for entry in found["rates"]]
    except (ValueError, TypeError, KeyError, AttributeError):  # whatever a file may hold in place of another thing
        raise ValueError(f"{path} is no store of rates that this version reads") from None


def _rates(networks: Any, **entry: Any) -> Rates:
    pairs = sorted((float(size), float(rate)) for size, rate in networks)
    if not all(isinstance(entry[name], str) for name in ("source", "device", "kind", "form", "precision")):
        raise ValueError("names are texts")
    return Rates(pairs, **entry)


def keep_rates(measured: Iterable[Rates], before: Sequence[Rates]) -> Path:
    """Write these beside those of before, in place of their equals; returns where. OSError if that cannot be."""
    new = list(measured)
    kept = [each for each in before if each.key not in {one.key for one in new}]
    with atomic_path(store()) as path:
        content = {"format": _FORMAT, "rates": [asdict(each) for each in [*kept, *new]]}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return store()


def choose_rates(known: Sequence[Rates], kind: str = "", inference: Inference = UNSAID) -> Rates | None:
    """The newest rates of a device with `kind` in its name; None if none of them fit.

    kind: "" is the GPU that was measured last, or else this machine's processor. inference: a form that is not said is
    the prepared one, a precision that of published networks: float16 on CUDA, else float32.
    """
    named = [each for each in known if kind.lower() in each.device.lower()]
    if not kind:
        gpus = [each for each in known if each.kind == "cuda"]
        named = gpus or [each for each in known if each.device == processor_name()]
    form, usual = inference.form or PREPARED, {"cuda": "float16"}
    fitting = [
        each
        for each in named
        if (each.form, each.precision) == (form, inference.precision or usual.get(each.kind, "float32"))
    ]
    return fitting[-1] if fitting else None
