"""A plain way and the toolkit's, in turn in one process: what one saves, how far the results are apart.

Every round runs the plain way, each of the others, and a product or copy that shows what the machine can do at that
moment. Rounds give ratios, of which the median and quartiles are told: where other work shares the cores, seconds
mean nothing and such ratios do.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.inference_form import matmul_precision

_Made = NDArray[np.float64] | None  # of a result, what is compared

LEAST_ROUNDS = 3
SHORTEST = 0.02  # seconds that are timed at once: shorter calls are repeated


@dataclass(frozen=True)
class Options:
    """What the command line asks of all stages.

    quick: the smallest sizes, to see that everything runs. rounds: at most, after what warms up. seconds: of a
    comparison, after which no round begins once three are done.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    quick: bool = False
    rounds: int = 5
    seconds: float = 10.0


@dataclass(frozen=True)
class Way:
    """One way to do the work of a comparison.

    run: does it once, and returns its result. work: floating-point operations of a call (a multiply-add is two), or
    bytes read and written, if its share of the machine's ceiling is to be told; ceiling: whose, a key of `CEILINGS`.
    weights: bytes on the device that it holds from call to call.
    """

    name: str
    run: Callable[[], Any]
    work: float = 0
    ceiling: str = ""
    weights: int = 0


@dataclass(frozen=True)
class Result:
    """A line of the table.

    times: how many times as fast as the plain way, median of the rounds; low, high: quartiles. difference: largest of
    the results' numbers; relative: root mean square of the differences over that of the plain results. share: of the
    ceiling, median. memory: on the device at its peak, weights and what a call takes, over that of the plain way; on
    CUDA alone. seconds: medians of both ways, and of the first call, for the JSON alone. note: what else is to say;
    of a line without numbers, why.
    """

    stage: str
    case: str
    way: str = ""
    plain: str = ""
    times: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    difference: float | None = None
    relative: float | None = None
    share: float | None = None
    ceiling: str = ""
    memory: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    failed: bool = False


def compare(
    stage: str,
    case: str,
    plain: Way,
    ways: Sequence[Way],
    options: Options,
    seen: Callable[[Any], Any] = lambda made: made,
    expected: Any = None,
    note: str = "",
) -> list[Result]:
    """A line for each of `ways`, beside `plain`. One that raises gets a line that says so; the others go on.

    seen: what of a result is compared, as `numbers` takes it, or None; it is not timed. expected: with what results are
    compared, if not with that of the plain way, which may do more than what is asked for.
    """
    first: dict[str, _Made] = {}
    reasons: dict[str, str] = {}
    watches = {way.name: Watch(way, options.device) for way in (plain, *ways)}
    for way in (plain, *ways):
        try:
            first[way.name] = watches[way.name].warm_up(seen)
        except Exception as error:  # whatever libraries raise: of memory, of a compiler that is not there
            if way is plain:
                raise
            reasons[way.name] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    if expected is not None:
        first[plain.name] = numbers(expected)
    able = [way for way in ways if way.name not in reasons]
    ceilings = {name: Watch(CEILINGS[name](options), options.device) for name in {w.ceiling for w in able if w.ceiling}}
    for watch in ceilings.values():
        watch.warm_up()
    running = [watches[plain.name], *(watches[way.name] for way in able), *ceilings.values()]
    start = time.perf_counter()
    for done in range(options.rounds if able else 0):
        if done >= LEAST_ROUNDS and time.perf_counter() - start > options.seconds:
            break
        for watch in running:
            watch.time()
    lines = [
        _line(watches[plain.name], watches[way.name], ceilings.get(way.ceiling), (first[plain.name], first[way.name]))
        for way in able
    ]
    lines += [Result("", "", name, note=f"failed: {reason}", failed=True) for name, reason in reasons.items()]
    return [_named(line, stage, case, plain.name, note) for line in lines]


class Watch:
    """Times a way: seconds of a call, round by round."""

    def __init__(self, way: Way, device: torch.device) -> None:
        self.way, self.cuda = way, device.type == "cuda"
        self.seconds: list[float] = []
        self.first = 0.0
        self.memory = 0
        self._calls = 1

    def warm_up(self, seen: Callable[[Any], Any] = lambda made: None) -> _Made:
        """A first call, which may compile, and what is to be compared of its result, before another call changes it.

        Short calls are called again until they are warm.
        """
        before = self._emptied()
        made, self.first = self._timed(1)
        looked = seen(made)
        found = None if looked is None else numbers(looked)
        del made, looked
        again = self.first
        for _ in range(3):
            if again < 0.3 or self.cuda:
                _, again = self._timed(1)
        self._calls = max(1, round(SHORTEST / max(again, 1e-9)))
        if self.cuda:
            self._emptied()
            self._timed(1)
            self.memory = self.way.weights + torch.cuda.max_memory_reserved() - before
        return found

    def time(self) -> None:
        """One more round."""
        _, seconds = self._timed(self._calls)
        self.seconds.append(seconds / self._calls)

    @property
    def rates(self) -> NDArray[np.float64]:
        """Work per second."""
        return self.way.work / np.asarray(self.seconds)

    def _timed(self, calls: int) -> tuple[Any, float]:
        self._wait()
        start = time.perf_counter()
        for _ in range(calls):
            made = self.way.run()
        self._wait()
        return made, time.perf_counter() - start

    def _emptied(self) -> int:
        """Bytes that the device has given out once what is free went back; graphs keep theirs."""
        if not self.cuda:
            return 0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_reserved()

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


def _line(plain: Watch, ours: Watch, ceiling: Watch | None, made: tuple[_Made, _Made]) -> Result:
    ratios = np.asarray(plain.seconds) / np.asarray(ours.seconds)
    low, middle, high = (float(each) for each in np.quantile(ratios, (0.25, 0.5, 0.75)))
    expected, found = made
    difference, relative = (None, None) if expected is None or found is None else apart(expected, found)
    return Result(
        "", "", ours.way.name, times=middle, low=low, high=high, rounds=len(ratios),
        difference=difference, relative=relative,
        share=None if ceiling is None else float(np.median(ours.rates / ceiling.rates)),
        ceiling=ours.way.ceiling,
        memory=ours.memory / plain.memory if plain.memory > 0 else None,
        seconds={
            "plain": statistics.median(plain.seconds), "ours": statistics.median(ours.seconds), "first": ours.first
        },
    )  # fmt: skip


def _named(line: Result, stage: str, case: str, plain: str, note: str) -> Result:
    return replace(line, stage=stage, case=case, plain=plain, note="; ".join(filter(None, (line.note, note))))


def numbers(made: Any) -> NDArray[np.float64]:
    """Numbers as one flat array, float64: of a tensor on any device, an array, a number, or a list of such."""
    if isinstance(made, torch.Tensor):
        return made.detach().to("cpu", torch.float64).numpy().ravel()
    if isinstance(made, list | tuple):
        return np.concatenate([numbers(part) for part in made]) if made else np.zeros(0)
    return np.asarray(made, dtype=np.float64).ravel()


def apart(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """Largest difference of b from a, and their root mean square over that of a. ValueError if the shapes differ."""
    if a.shape != b.shape:
        raise ValueError(f"results of {a.size} and {b.size} numbers cannot be compared")
    if a.size == 0:
        return 0.0, 0.0
    scale = float(np.sqrt(np.mean(a**2))) or 1.0
    return float(np.abs(a - b).max()), float(np.sqrt(np.mean((a - b) ** 2))) / scale


def _matmul(precision: str) -> Callable[[Options], Way]:
    """A square product at this precision, large enough to be as fast as the machine is."""

    def way(options: Options) -> Way:
        size = 256 if options.quick else 8192 if options.device.type == "cuda" else 1536
        dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
        a, b = (torch.ones(size, size, dtype=dtype, device=options.device) for _ in range(2))
        out = torch.empty_like(a)

        def run() -> None:
            with matmul_precision(precision, options.device):
                torch.matmul(a, b, out=out)

        return Way(f"matmul {precision}", run, 2 * size**3)

    return way


def _copy(options: Options) -> Way:
    """A copy within the device's memory, larger than its caches."""
    count = (1 << 18) if options.quick else (1 << 28) if options.device.type == "cuda" else (1 << 25)
    source = torch.ones(count, device=options.device)
    target = torch.empty_like(source)
    return Way("copy", lambda: target.copy_(source), 2 * source.nbytes)


#: What a machine can do, measured beside what is to reach it.
CEILINGS: Mapping[str, Callable[[Options], Way]] = {
    **{f"matmul {each}": _matmul(each) for each in ("float64", "float32", "tf32", "bfloat16", "float16")},
    "copy": _copy,
}
