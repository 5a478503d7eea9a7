"""What a check is: a question to the machine, asked by one function, and what it found. No torch here."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edm2_guidance.papers.costs import DECODER_GFLOPS, facts_of
from edm2_guidance.papers.presets import Preset, all_presets

#: The smallest published networks under guidance, by what they were tuned for.
PRESETS: Mapping[str, str] = {"fid": "edm2-img512-xs-guid-fid", "fd_dinov2": "edm2-img512-xs-guid-dino"}
ABOUT = 0.02  # how far sizes of files may be from what is known of them, relative
_HERE = __name__.rpartition(".")[0]


class Skip(Exception):
    """The check cannot be made here, which is nobody's mistake. Its text says why."""


@dataclass(frozen=True)
class Place:
    """Where a check is made.

    folder: for what it makes. device: as --device, resolved. offline: fetch nothing. seconds: until it is ended.
    values: what earlier checks measured, by their names.
    """

    folder: Path
    device: str
    offline: bool
    seconds: float
    values: Mapping[str, Mapping[str, Any]]


@dataclass
class Finding:
    """What a check found. It is ok if there are no problems; a check that cannot go on raises.

    summary: in a few words. table: rows of cells, the header first. values: for later checks, plain JSON.
    """

    summary: str = ""
    table: list[tuple[str, ...]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def row(self, what: str, found: object, wanted: object = "", *, fine: bool | None = None) -> None:
        """A row of the table, found beside wanted. fine: None = whether they are equal; "" wants nothing."""
        self.table = self.table or [("what", "found", "expected")]
        self.table.append((what, str(found), str(wanted)))
        if not (fine if fine is not None else wanted in ("", found)):
            self.problems.append(f"{what}: {found}, expected {wanted}")

    def about(self, what: str, size: int, wanted: int) -> None:
        """A size in bytes, of which the numbers in a file alone are counted."""
        self.row(what, f"{size:,} bytes", f"about {wanted:,}", fine=abs(size / wanted - 1) <= ABOUT)


@dataclass(frozen=True)
class Check:
    """A question.

    asks: in words. run: "module:function", called with a `Place` and `args`. minutes: it may take.
    in_quick: its minutes with --quick; None = left out there. needs: the checks that it makes no sense without.
    by_hand: commands that do the same.
    """

    name: str
    asks: str
    run: str
    minutes: float
    in_quick: float | None
    needs: tuple[str, ...] = ()
    args: tuple[Any, ...] = ()
    by_hand: tuple[str, ...] = ()

    def __call__(self, place: Place) -> Finding:
        module, name = self.run.split(":")
        found: Finding = getattr(importlib.import_module(module), name)(place, *self.args)
        return found


def preset_for(metric: str) -> Preset:
    """The published setting that a check of this metric takes."""
    return all_presets()[PRESETS[metric]]


def skip_if_slow(place: Place, num: int, steps: int) -> None:
    """Skip if the CPU would take longer for so many images than the check may, by the pace that `precision` found."""
    preset = preset_for("fid")
    known = [facts_of(source.rpartition("/")[2]).gflops for source in preset.sources]
    work = num * ((2 * steps - 1) * sum(known) + DECODER_GFLOPS[preset.data])
    seconds = place.values.get("precision", {}).get("cpu_seconds", 0.0) * work / known[0]
    if seconds > place.seconds:
        raise Skip(f"the CPU would take about {seconds / 3600:.1f} h: a GPU is for this, or run it by hand")


def _check(name: str, asks: str, run: str, *more: Any, **named: Any) -> Check:
    """run: "module:function" of this package."""
    return Check(name, asks, f"{_HERE}.{run}", *more, **named)


def _score(metric: str, num: int, minutes: float, in_quick: float | None, detector: str, networks: str) -> Check:
    preset = PRESETS[metric]
    return _check(
        f"{'fid' if metric == 'fid' else 'dino'}-{num}",
        f"What is {metric} of {num:,} images of {preset}?",
        "commands:score", minutes, in_quick, (networks, "statistics", "vae", detector), (metric, num),
        (f"python calculate_metrics.py gen --preset={preset} --metrics={metric} --num-images={num}",),
    )  # fmt: skip


def _inspect(metric: str) -> tuple[str, ...]:
    """Of the networks of a setting."""
    return tuple(f"python network_tool.py inspect {source}" for source in preset_for(metric).sources)


_SAMPLED = ("networks", "vae")
_PAIR = f"python generate_images.py --preset={PRESETS['fid']} --noise-device=cpu --seeds=0-1 --outdir=out"
_ZIP = f"python generate_zip.py --preset={PRESETS['fid']} --num-images=8 --shard-size=2 --deterministic --out=a.zip"
_score_fid = partial(_score, "fid", detector="fid-network", networks="networks")
_score_dino = partial(_score, "fd_dinov2", detector="dino-network", networks="networks-dino")

#: Every check by name, in the order they are made. The minutes are estimates for one A100, not measured.
CHECKS: Mapping[str, Check] = {check.name: check for check in (
    _check("machine", "What is this machine?", "numerics:machine", 2, 1),
    _check("networks", "Are these networks what their names say?", "files:networks", 10, 4, (), ("fid",),
          _inspect("fid")),
    _check("statistics", "Are the statistics of img512 whole?", "files:statistics", 4, 2),
    _check("vae", "Does the VAE decode what it encodes?", "files:vae", 6, 2, ("networks",)),
    _check("fid-network", "Is this the Inception network, here and on the device?", "files:detector", 5, 2, (),
          ("fid",)),
    _check("precision", "Does the device compute what the CPU does?", "numerics:precision", 5, 3, ("networks",)),
    _check("images", "Are images of the device those of the CPU?", "numerics:images", 6, 3, _SAMPLED,
          by_hand=(_PAIR,)),
    _check("speed", "How many images per second, in how much memory?", "numerics:speed", 4, 2, _SAMPLED),
    _check("resume", "Does a killed command go on?", "commands:resume", 5, 3, _SAMPLED, by_hand=(_ZIP,)),
    _check("workers", "Do two workers make what one makes?", "commands:workers", 5, 3, _SAMPLED,
          by_hand=(f"{_ZIP} --share-device --worker=0/2", f"{_ZIP} --share-device --worker=1/2")),
    _score_fid(1000, 10, 5),
    _check("networks-dino", "Are these networks what their names say?", "files:networks", 10, None, (), ("fd_dinov2",),
          _inspect("fd_dinov2")),
    _check("dino-network", "Is this the DINOv2 network, here and on the device?", "files:detector", 10, None, (),
          ("fd_dinov2",)),
    _score_dino(1000, 10, None),
    _score_fid(5000, 20, None),
    _score_dino(5000, 20, None),
)}  # fmt: skip
