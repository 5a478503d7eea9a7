"""Whole commands, in processes of their own: killed and started again, two at a time, and scores."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dnnlib.versions import ROOT
from edm2_guidance.metrics import ledger
from edm2_guidance.metrics.catalog import interval_text, value_text
from edm2_guidance.reproduction.verification.check import Finding, Place, Skip, preset_for, skip_if_slow
from torch_utils.distributed import pick_device

#: Images, few and in few steps: what is tried is how they are kept, not how they look.
NUM, EACH, STEPS = 8, 2, 4
IMAGES = (f"--num-images={NUM}", f"--shard-size={EACH}", f"--batch={EACH}", f"--steps={STEPS}", "--deterministic")
SHARD = 128  # images of a score that running out of time costs at most


def resume(place: Place) -> Finding:
    """A command is killed when a first shard is there, and started again: the ZIP of a run that nobody disturbed."""
    alone, killed = _alone(place), _gone(place.folder / "killed.zip")
    log, shards = place.folder / "killed.log", killed.with_name("killed.zip.shards")
    with _started(_zip(place, killed), log) as process:
        while process.poll() is None and not list(shards.glob("shard-*.zip")):
            time.sleep(0.01)
        process.kill()
        code, kept = process.wait(), len(list(shards.glob("shard-*.zip")))
    if code == 0:
        raise Skip("it was done before it could be killed")
    if kept == 0:
        raise RuntimeError(_failure(code, log))
    run(_zip(place, killed), place.folder / "resumed.log")
    found = Finding(f"killed with {kept} of {NUM // EACH} shards there, then finished")
    _same(found, killed, alone)
    return found


def workers(place: Place) -> Finding:
    """Two processes share one ZIP: that of one process."""
    alone, shared = _alone(place), _gone(place.folder / "shared.zip")
    logs = [place.folder / f"worker-{number}.log" for number in (0, 1)]
    commands = [[*_zip(place, shared), "--share-device", f"--worker={number}/2"] for number in (0, 1)]
    with _started(commands[0], logs[0]) as first, _started(commands[1], logs[1]) as second:
        codes = [first.wait(), second.wait()]
    found = Finding("two processes made one ZIP")
    for number, code in enumerate(codes):
        found.row(f"worker {number}: exit code", code, 0)
        if code != 0:
            found.problems.append(_failure(code, logs[number]))
    if not found.problems:
        _same(found, shared, alone)
    return found


def _alone(place: Place) -> Path:
    """The ZIP of one process that nobody disturbs."""
    path = place.folder / "alone.zip"
    if pick_device(place.device).type == "cpu":
        skip_if_slow(place, 2 * NUM, STEPS)  # this one, and the one of the check
    run(_zip(place, path), place.folder / "alone.log")
    return path


def _gone(path: Path) -> Path:
    """A ZIP that is to be made anew, whatever a check that did not come to its end left of it."""
    shutil.rmtree(path.with_name(f"{path.name}.shards"), ignore_errors=True)
    path.unlink(missing_ok=True)
    return path


def _same(found: Finding, path: Path, alone: Path) -> None:
    found.row("bytes of the ZIP", "equal" if path.read_bytes() == alone.read_bytes() else "differ", "equal")


def _zip(place: Place, path: Path) -> list[str]:
    return ["generate_zip", f"--preset={preset_for('fid').name}", *IMAGES, f"--out={path}", *_where(place)]


def _where(place: Place) -> list[str]:
    return [f"--device={place.device}", "--offline"]  # the files are here: other checks fetch them


def score(place: Place, metric: str, num: int) -> Finding:
    """A score of images that are sampled now. Few images have no published score: only lower ones are wrong."""
    pace = place.values.get("speed", {}).get("images_per_second")
    if pace and num / pace > place.seconds:
        raise Skip(f"{num:,} images would take {num / pace / 60:.0f} min at {pace:.2g} images/s: run it by hand")
    preset, path = preset_for(metric), place.folder / "ledger.jsonl"
    if pick_device(place.device).type == "cpu":
        skip_if_slow(place, num, preset.num_steps)
    what = [f"--preset={preset.name}", f"--metrics={metric}", f"--num-images={num}", f"--shard-size={SHARD}"]
    places = [f"--ledger={path}", f"--workdir={place.folder / 'scores'}", *_where(place)]
    run(["calculate_metrics", "gen", *what, *places], place.folder / f"{metric}-{num}.log")
    line = next(line for line in reversed(ledger.read(path)) if line["name"] == f"{metric}@{num}")
    return _judged(line, num, preset.published or 0.0)


def _judged(line: Mapping[str, Any], num: int, published: float) -> Finding:
    """A score beside what is known. A Frechet distance of fewer images is higher (`metrics.uncertainty`)."""
    metric, value = line["metric"], line["value"]
    shown = f"{value_text(metric, value)} {interval_text(metric, line.get('interval'))}".rstrip()
    found = Finding(f"{shown}; published, of 50,000 images: {published:g}", values={"value": value})
    found.row(f"{metric} of {num:,} images, 95 % interval", shown, "none known of so few images", fine=True)
    text = f"above the {published:g} of 50,000 images (published): {metric} of few images is higher"
    found.row("the same beside the paper", value_text(metric, value), text, fine=value > published)
    found.row("flags", "; ".join(line.get("flags") or ()) or "none")
    return found


def run(words: Sequence[str], log: Path) -> None:
    """A command of this program to its end. RuntimeError, with the last of what it said, unless that is a good one."""
    with _started(words, log) as process:
        code = process.wait()
    if code != 0:
        raise RuntimeError(_failure(code, log))


@contextmanager
def _started(words: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A command of this program at work, which says into the log what it says; killed if the block ends before it."""
    name, *arguments = words
    with open(log, "wb") as file:
        process = subprocess.Popen(_command(name, arguments), stdout=file, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _command(name: str, arguments: Sequence[str]) -> list[str]:
    """A page of this program, from wherever it lies: a checkout or an installation."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from edm2_guidance.cli.start import run; run({name!r})"
    return [sys.executable, "-c", code, *arguments]


def _failure(code: int, log: Path) -> str:
    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
    return f"exit code {code}: {' / '.join(last)}"
