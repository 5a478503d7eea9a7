"""The recipe of a set of images: everything that determines them, apart from the seeds. No torch here.

Two runs with the same recipe make the same image from the same seed. What only touches speed and last bits (batch,
threads, device model, versions) is not part of it.
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from edm2_guidance.recipe.class_names import ClassName

SNAP_TOLERANCE = 0.02  # printed interval ends are off by up to 1.1 %; the next grid value is at least 16 % away


@dataclass(frozen=True)
class StepInterval:
    """Guidance on the sampling steps first..last, both included, counted from 0 (noisiest)."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise ValueError(f"interval of steps {self.first},{self.last}: write FIRST,LAST with 0 <= FIRST <= LAST")

    def sigmas(self, levels: Sequence[float]) -> "SigmaInterval":
        """The noise levels that these steps stand for, on a schedule of starting levels that has them."""
        after = [*levels, 0.0]
        return SigmaInterval(after[self.last + 1], after[self.first])

    def __contains__(self, step: object) -> bool:
        return isinstance(step, int) and self.first <= step <= self.last

    def __str__(self) -> str:
        return f"steps {self.first}-{self.last}"


@dataclass(frozen=True)
class SigmaInterval:
    """Guidance at noise levels sigma in (lo, hi], arXiv 2404.07724, Eq. 5."""

    lo: float
    hi: float

    def __post_init__(self) -> None:
        if not 0 <= self.lo < self.hi:  # also refuses NaN
            raise ValueError(f"interval of noise levels {self.lo:g},{self.hi:g}: write LO,HI with 0 <= LO < HI")

    def steps(self, sigmas: Sequence[float]) -> tuple[StepInterval | None, list[str]]:
        """The steps whose starting sigma lies in (lo, hi], and a note for each end that was snapped.

        `sigmas` are the levels that steps start from, falling. Published ends are printed with two decimals; an end
        within 2 % of a level is taken to mean that level (0 and infinity never are). None = no step lies inside.
        """
        notes: list[str] = []
        lo, hi = (_snap(end, sigmas, notes) for end in (self.lo, self.hi))
        inside = [i for i, sigma in enumerate(sigmas) if lo < sigma <= hi]
        return (StepInterval(inside[0], inside[-1]) if inside else None), notes

    def __str__(self) -> str:
        return f"sigma in ({self.lo:.4g}, {self.hi:.4g}]"


def _snap(end: float, sigmas: Sequence[float], notes: list[str]) -> float:
    if end == 0 or math.isinf(end):
        return end
    nearest = min(sigmas, key=lambda sigma: abs(sigma - end))
    if nearest == end or abs(nearest - end) > SNAP_TOLERANCE * end:
        return end
    notes.append(f"{end:g} read as the schedule's level {nearest:.4f}")
    return nearest


@dataclass(frozen=True)
class NetworkRef:
    """A network file: where it was read from, and what it held (SHA-256 of the file; None until it was read)."""

    source: str
    sha256: str | None = None

    @property
    def name(self) -> str:
        """File name without folder and suffix; of a URL without what follows `?`. FILE-function of FILE.py:function."""
        source = re.split(r"[?#]", self.source)[0] if "://" in self.source else self.source
        source = re.sub(r"\.py:(\w+)$", r"-\1.py", source)
        return source.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]


@dataclass(frozen=True)
class GuideSpec:
    """One guide: D gains (weight - 1) * (D_main - D_guide) on the steps of its interval (None = all steps)."""

    net: NetworkRef
    weight: float
    interval: StepInterval | SigmaInterval | None = None
    never: bool = False  # the asked noise levels lie between two steps: guided nowhere

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", float(self.weight))  # 2 and 2.0 are the same recipe
        if not math.isfinite(self.weight):
            raise ValueError(f"guidance weight {self.weight}: must be a finite number (1 = off)")

    @property
    def off(self) -> bool:
        """Weight 1, or an interval that holds no step: the guide is never evaluated."""
        return self.weight == 1 or self.never


@dataclass(frozen=True)
class SamplerSpec:
    """Heun's method over the EDM schedule (arXiv 2206.00364, Algorithm 2 and Eq. 5), with optional churn."""

    num_steps: int = 32
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    S_churn: float = 0.0
    S_min: float = 0.0
    S_max: float = math.inf
    S_noise: float = 1.0
    dtype: Literal["float32", "float64"] = "float32"  # of the sampler's state

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"{self.num_steps} sampling steps: at least 1 is needed")
        if not 0 < self.sigma_min <= self.sigma_max < math.inf:
            raise ValueError(f"sigma_min {self.sigma_min:g}, sigma_max {self.sigma_max:g}: need 0 < min <= max")
        if not 0 < self.rho < math.inf:
            raise ValueError(f"rho {self.rho:g}: must be positive")
        if not 0 <= self.S_churn < math.inf or not math.isfinite(self.S_noise):
            raise ValueError(f"S_churn {self.S_churn:g}, S_noise {self.S_noise:g}: must be finite, S_churn >= 0")
        if not 0 <= self.S_min <= self.S_max:
            raise ValueError(f"S_min {self.S_min:g}, S_max {self.S_max:g}: need 0 <= S_min <= S_max")
        for name in ("sigma_min", "sigma_max", "rho", "S_churn", "S_min", "S_max", "S_noise"):
            object.__setattr__(self, name, float(getattr(self, name)))  # 80 and 80.0 are the same recipe
        self._check_levels()

    def _check_levels(self) -> None:
        try:
            levels = self.levels()
        except OverflowError:
            levels = [math.inf]
        falling = all(a > b > 0 for a, b in itertools.pairwise(levels))
        if not (falling and all(map(math.isfinite, levels))):
            raise ValueError(
                f"{self.num_steps} steps from {self.sigma_max:g} to {self.sigma_min:g} with rho {self.rho:g} are no "
                "falling noise levels: take fewer steps, levels further apart, or rho nearer to 7"
            )

    def levels(self) -> list[float]:
        """The noise levels that steps start from, falling: num_steps values from sigma_max to sigma_min."""
        last = max(self.num_steps - 1, 1)
        top, bottom = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return [(top + i / last * (bottom - top)) ** self.rho for i in range(self.num_steps)]


LabelRule = Literal["random", "balanced", "none"] | int | ClassName
SeedRule = Literal["edm2", "figure"]


@dataclass(frozen=True)
class Recipe:
    """Everything that determines an image but its seed."""

    net: NetworkRef
    guides: tuple[GuideSpec, ...] = ()
    sampler: SamplerSpec = field(default_factory=SamplerSpec)
    labels: LabelRule = "random"  # drawn per seed | class = seed mod classes | no classes | this class, or its name
    seed_rule: SeedRule = "edm2"  # the seed itself | hash of (class, seed), as in the interval paper's figures
    noise_device: str = "cpu"  # generators of CPU and CUDA give different noise for the same seed
    encoder: Mapping[str, Any] = field(default_factory=dict)  # what turns the sampler's result into pixels

    def __post_init__(self) -> None:
        if isinstance(self.labels, str):
            known = self.labels in ("random", "balanced", "none")
        else:
            known = isinstance(self.labels, ClassName) or self.labels >= 0
        if not known:
            raise ValueError(f"labels '{self.labels}': write random, balanced, none or a class of 0 or more")
        for guide in self.guides:
            interval = guide.interval
            if isinstance(interval, StepInterval) and interval.last >= self.sampler.num_steps:
                raise ValueError(
                    f"guidance on {interval}, but sampling takes {self.sampler.num_steps} steps (0 to "
                    f"{self.sampler.num_steps - 1}); give the interval as noise levels, --guidance-sigma=LO,HI, "
                    "to use another number of steps"
                )
        if self.seed_rule == "figure" and not isinstance(self.labels, int):
            raise ValueError("figure seeds are hashed with the class: give a class (--class)")

    @property
    def sources(self) -> list[str]:
        """Where its networks are read from."""
        return [self.net.source, *(guide.net.source for guide in self.guides)]

    def resolved(self) -> tuple["Recipe", list[str]]:
        """This recipe with every interval as steps (what is stored and compared), and notes on snapped ends."""
        notes: list[str] = []
        guides = []
        for guide in self.guides:
            if isinstance(guide.interval, SigmaInterval):
                steps, snapped = guide.interval.steps(self.sampler.levels())
                notes += [f"guidance at {guide.interval}: {note}" for note in snapped]
                if steps is None:
                    notes.append(f"guidance at {guide.interval} holds no sampling step: this guide is off")
                guide = replace(guide, interval=steps, never=steps is None)
            guides.append(guide)
        return replace(self, guides=tuple(guides)), notes

    def without_idle_guides(self) -> "Recipe":
        """The same images by a shorter recipe: guides that are off are left out."""
        return replace(self, guides=tuple(guide for guide in self.guides if not guide.off))

    def to_json(self) -> dict[str, Any]:
        """Plain data for recipe.json and the ledger; infinity is written as the string 'inf'."""
        data = asdict(self.resolved()[0])
        data["net"]["source"] = self.net.name
        data["guides"] = list(data["guides"])
        for guide, spec in zip(data["guides"], self.guides, strict=True):
            guide["net"]["source"] = spec.net.name
            interval = guide.pop("interval")
            never = guide.pop("never")
            guide["steps"] = [] if never else None if interval is None else [interval["first"], interval["last"]]
        if math.isinf(data["sampler"]["S_max"]):
            data["sampler"]["S_max"] = "inf"
        return data

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of what determines the images: network files count by their content, not by their name."""
        data = self.to_json()
        for net in [data["net"], *(guide["net"] for guide in data["guides"])]:
            if net["sha256"] is not None:
                del net["source"]
        text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()
