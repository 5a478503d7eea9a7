"""Results as a Markdown table and as JSON."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

from benchmarks.side_by_side import Options, Result
from dnnlib.atomic import atomic_path
from dnnlib.processor import processor_name

HEAD = ("stage", "case", "way", "beside", "times as fast", "apart, largest (relative)", "of the ceiling", "note")


def save(out: Path, lines: Sequence[Result], options: Options) -> None:
    """OUT.md and OUT.json, whole or not at all."""
    made = {"about": about(options), "results": [asdict(line) for line in lines]}
    for suffix, text in ((".md", table(lines, options)), (".json", json.dumps(made, indent=1))):
        with atomic_path(out.with_name(out.name + suffix)) as path:
            path.write_text(text + "\n", encoding="utf-8")


def about(options: Options) -> dict[str, Any]:
    """What was measured on."""
    return {
        "device": device_kind(options.device),
        "processor": processor_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "quick": options.quick,
    }


def device_kind(device: torch.device) -> str:
    """The kind of device, as its maker calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def table(lines: Sequence[Result], options: Options) -> str:
    """One Markdown table with what it was measured on above."""
    ran = about(options)
    head = f"{ran['device']}, {ran['threads']} threads, torch {ran['torch']}, Python {ran['python']}"
    rows = [HEAD, ("---",) * len(HEAD), *map(_cells, lines)]
    return "\n".join(
        [head + (", quick" if options.quick else ""), "", *("| " + " | ".join(row) + " |" for row in rows)]
    )


def write_row(line: Result, stream: IO[str]) -> None:
    """A line as it is measured."""
    print("  ".join(filter(None, _cells(line))), file=stream, flush=True)


def _cells(line: Result) -> tuple[str, ...]:
    times = "" if line.times is None else f"{line.times:.2f} ({line.low:.2f} to {line.high:.2f})"
    apart = "" if line.difference is None else f"{line.difference:.1e} ({line.relative:.1e})"
    share = "" if line.share is None else f"{line.share:.0%} of {line.ceiling}"
    memory = "" if line.memory is None else f"{line.memory:.2f} times the memory"
    note = "; ".join(filter(None, (memory, line.note)))
    cells = (line.stage, line.case, line.way, line.plain, times, apart, share, note)
    return tuple(cell.replace("|", "/") for cell in cells)
