"""Post-hoc EMA: networks averaged over other lengths than those that were tracked, from a run's stored snapshots.

Algorithm 3 of "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv 2312.02696), Appendix C.
The snapshots are read one after the other and added to all sums at hand, so memory holds one snapshot and the sums
(4 bytes per parameter each), however many snapshots there are.
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.atomic import check_destination
from dnnlib.urls import is_url, without_secrets
from torch_utils.finite import first_not_finite
from training.config import SNAPSHOT_UNIT
from training.network_io import NetworkFile, load_network, save_network
from training.network_records import named_arguments
from training.phema import MAX_SIGMA_REL, posthoc_error, solve_posthoc_coefficients

_NAME = re.compile(r"(.*)-(\d+)-(\d+\.\d+)\.(pkl|safetensors)")

#: Snapshots of the published runs: one every so many images, of these lengths.
PUBLISHED_INTERVAL = 32 << 20
PUBLISHED_SIGMA_RELS = (0.05, 0.10)

#: Above this `posthoc_error` a reconstruction is not the average that its name says.
GOOD_ERROR = 0.05


@dataclass(frozen=True)
class Snapshot:
    """A stored average. source: path or URL. kimg: images seen // 1000. sigma_rel: its length."""

    source: str
    prefix: str
    kimg: int
    sigma_rel: float

    @property
    def images(self) -> int:
        """Images seen, which are a multiple of 1024."""
        return (self.kimg * 1000 + 999) // SNAPSHOT_UNIT * SNAPSHOT_UNIT


@dataclass(frozen=True)
class Reconstruction:
    """An average to make. coefficients: weight of every snapshot of the plan. error: see `phema.posthoc_error`."""

    path: Path
    sigma_rel: float
    coefficients: tuple[float, ...]
    error: float


@dataclass(frozen=True)
class Plan:
    """Snapshots to read, in this order, and what to make of them."""

    snapshots: tuple[Snapshot, ...]
    outputs: tuple[Reconstruction, ...]

    def nearest_good(self, sigma_rel: float) -> float:
        """The length nearest to `sigma_rel` that these snapshots give with an error of at most GOOD_ERROR."""
        steps = np.arange(1, math.ceil(MAX_SIGMA_REL / 0.005)) * 0.005
        lengths = np.union1d(steps, [snapshot.sigma_rel for snapshot in self.snapshots])
        good = lengths[_solve(self.snapshots, lengths)[1] <= GOOD_ERROR]
        return float(good[np.abs(good - sigma_rel).argmin()])


# ----------------------------------------------------------------------------
# Finding snapshots.


def find_snapshots(
    source: str, *, prefix: str | None = None, sigma_rels: Sequence[float] | None = None, kimg: int | None = None
) -> list[Snapshot]:
    """Snapshots of one run, up to `kimg` if that is given, by time and length.

    source: folder with PREFIX-KIMG-LENGTH.pkl (or .safetensors), or a URL of the same, of which the names are known
        by rule: every 32 Mi images, lengths 0.050 and 0.100, prefix the last part of the URL. prefix, sigma_rels:
        take only these.

    Raises ValueError, saying what there is, if the choice is empty or holds several runs; OSError for a bad folder.
    """
    listing = _published(source, prefix, kimg) if is_url(source) else _in_folder(Path(source).expanduser())
    found = [snapshot for snapshot in listing if prefix in (None, snapshot.prefix)]
    if not found:
        there = _listed(sorted({snapshot.prefix for snapshot in listing}))
        what = "PREFIX-KIMG-LENGTH.pkl" if prefix is None else f"{prefix}-KIMG-LENGTH.pkl"
        raise ValueError(f"{source} holds no snapshots named {what} (prefixes there: {there})")
    prefixes = sorted({snapshot.prefix for snapshot in found})
    if len(prefixes) > 1:
        raise ValueError(f"{source} holds snapshots of several runs: choose one with --inprefix={'|'.join(prefixes)}")
    lengths = sorted({snapshot.sigma_rel for snapshot in found})
    for sigma_rel in sigma_rels or ():
        if sigma_rel not in lengths:
            raise ValueError(f"{source} holds no snapshots of length {sigma_rel:.3f}, only {_listed(lengths)}")
    chosen = [snapshot for snapshot in found if sigma_rels is None or snapshot.sigma_rel in sigma_rels]
    _check_time(chosen, kimg, source)
    until = [snapshot for snapshot in chosen if snapshot.images > 0 and (kimg is None or snapshot.kimg <= kimg)]
    return sorted(until, key=lambda snapshot: (snapshot.kimg, snapshot.sigma_rel))


def _check_time(snapshots: list[Snapshot], kimg: int | None, source: str) -> None:
    """The end of a profile weighs most, so a time between snapshots cannot be met."""
    times = sorted({snapshot.kimg for snapshot in snapshots if snapshot.images > 0})
    if not times:
        raise ValueError(f"{source} holds no snapshots but the one before training began")
    if kimg is not None and kimg not in times:
        nearest = min(times, key=lambda time: abs(time - kimg))
        raise ValueError(f"--outkimg={kimg}: there is no snapshot at that time in {source}; the nearest is {nearest}")


def _in_folder(folder: Path) -> list[Snapshot]:
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder {folder}")
    found: dict[tuple[str, int, str], Snapshot] = {}
    for path in sorted(folder.iterdir()):  # .pkl before a .safetensors of the same name, which holds the same
        match = _NAME.fullmatch(path.name)
        if match is not None and not path.name.startswith("."):
            prefix, kimg, length, _ = match.groups()
            found.setdefault((prefix, int(kimg), length), Snapshot(str(path), prefix, int(kimg), float(length)))
    return list(found.values())


def _published(url: str, prefix: str | None, kimg: int | None) -> list[Snapshot]:
    if kimg is None:
        raise ValueError("--outkimg is needed with a URL: the snapshots up to there are fetched, e.g. --outkimg=134217")
    url = url.rstrip("/")
    prefix = url.rpartition("/")[2] if prefix is None else prefix
    end = kimg * 1000 + PUBLISHED_INTERVAL  # one more than wanted, to name the nearest where the time is none of theirs
    times = [images // 1000 for images in range(PUBLISHED_INTERVAL, end, PUBLISHED_INTERVAL)]
    return [
        Snapshot(f"{url}/{prefix}-{time:07d}-{length:.3f}.pkl", prefix, time, length)
        for time in times
        for length in PUBLISHED_SIGMA_RELS
    ]


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in values) or "none"


# ----------------------------------------------------------------------------
# Planning.


def plan_reconstructions(
    snapshots: Sequence[Snapshot], sigma_rels: Sequence[float], outdir: str | os.PathLike[str], prefix: str = "phema"
) -> Plan:
    """Weights and file names of the averages of the given lengths at the time of the last snapshot.

    Raises ValueError for a length out of range, of more than the three decimals that file names have, or given twice;
    OSError if the files could not be written.
    """
    for sigma_rel in sigma_rels:
        if float(f"{sigma_rel:.3f}") != sigma_rel:
            raise ValueError(f"length {sigma_rel:g}: file names have three decimals, so give it as such as 0.130")
    coefficients, errors = _solve(snapshots, sigma_rels)
    kimg = max(snapshot.kimg for snapshot in snapshots)
    paths = [Path(outdir) / f"{prefix}-{kimg:07d}-{sigma_rel:.3f}.pkl" for sigma_rel in sigma_rels]
    sources = {os.path.realpath(snapshot.source) for snapshot in snapshots}
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"two of the lengths asked for would be written as {path.name}: leave one out")
        if os.path.realpath(path) in sources:
            raise ValueError(f"{path} is one of the snapshots: give another --outdir or --outprefix")
        check_destination(path)
    rows = zip(paths, sigma_rels, coefficients.T.tolist(), errors.tolist(), strict=True)
    outputs = (Reconstruction(path, length, tuple(weights), error) for path, length, weights, error in rows)
    return Plan(tuple(snapshots), tuple(outputs))


def _solve(snapshots: Sequence[Snapshot], sigma_rels: Any) -> tuple[np.ndarray, np.ndarray]:
    times, lengths = [s.images for s in snapshots], [s.sigma_rel for s in snapshots]
    coefficients = solve_posthoc_coefficients(times, lengths, max(times), sigma_rels)
    return coefficients, posthoc_error(coefficients, times, lengths, max(times), sigma_rels)


def describe(plan: Plan, wanted: Sequence[Reconstruction], passes: int) -> str:
    """What is about to be read and made, one line each, with a warning where the snapshots do not suffice."""
    first, last = plan.snapshots[0], plan.snapshots[-1]
    lengths = _listed(sorted({snapshot.sigma_rel for snapshot in plan.snapshots}))
    lines = [
        f"snapshots: {len(plan.snapshots)} of lengths {lengths}, {without_secrets(first.source)} to "
        f"{Path(without_secrets(last.source)).name}",
        f"to make: {len(wanted)} of {len(plan.outputs)}; passes over the snapshots: {passes}",
    ]
    for output in wanted:
        lines.append(f"{output.path.name}: profile met within {output.error:.2%}")
        if output.error > GOOD_ERROR:
            near = plan.nearest_good(output.sigma_rel)
            lines.append(
                f"warning: more than {GOOD_ERROR:.0%}, so {output.path.name} is no good average of that length: "
                f"the snapshots are too few or too far apart. The nearest length that they give is {near:.3f}"
            )
    return "\n".join(lines)


# ----------------------------------------------------------------------------
# Doing it.


def reconstruct(
    snapshots: Sequence[Snapshot],
    outputs: Sequence[Reconstruction],
    *,
    offline: bool = False,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Read every snapshot once and write all `outputs`: sums in float32, stored in float16.

    Buffers, encoder, data set and loss are those of the last snapshot. progress: told 1 for every snapshot.

    Raises ValueError if the snapshots are not of one network and run, or one is not finite, and as `load_network` and
    `save_network`.
    """
    sums: list[list[Tensor]] = [[] for _ in outputs]
    arguments: dict[str, Any] = {}
    file: NetworkFile | None = None
    for index, snapshot in enumerate(snapshots):
        file = None  # let go of one network before the next is read
        file = load_network(snapshot.source, offline=offline)
        _check_alike(file, arguments)
        for total, output in zip(sums, outputs, strict=True):
            _add(total, file, output.coefficients[index])
        if progress is not None:
            progress(1)
    assert file is not None
    for total, output in zip(sums, outputs, strict=True):
        for parameter, value in zip(file.net.parameters(), total, strict=True):
            parameter.data = value.to(torch.float16)
        total.clear()
        parts = {"encoder": file.encoder, "dataset_kwargs": file.dataset_kwargs, "loss_fn": file.loss_fn}
        save_network(output.path, file.net, **parts)


def _add(total: list[Tensor], file: NetworkFile, coefficient: float) -> None:
    parameters = [parameter.detach() for parameter in file.net.parameters()]
    if not total:
        total.extend(torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters)
    for value, parameter in zip(total, parameters, strict=True):
        value.add_(parameter.to(torch.float32), alpha=coefficient)


def _check_alike(file: NetworkFile, expected: dict[str, Any]) -> None:
    """Compare a network's constructor arguments and run with `expected`, or set these by the first network.

    ValueError also for one with values that are not finite: they would be in all averages.
    """
    net = file.net
    bad = first_not_finite(net.state_dict())
    if bad is not None:
        raise ValueError(
            f"{file.source} is no network to average: its {bad} is not finite. Move it elsewhere, or give an --outkimg "
            "before it"
        )
    run = file.dataset_kwargs.get("training_run", expected.get("training_run"))  # not every file says
    found = named_arguments(type(net), net.init_args, net.init_kwargs, file.source, defaults=True)
    found["training_run"] = run
    if not expected:
        expected.update(found)
    if expected["training_run"] is None:
        expected["training_run"] = run
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            there, before = found.get(name), expected.get(name)
            raise ValueError(f"{file.source} is another network: {name} is {there}, before it was {before}")
