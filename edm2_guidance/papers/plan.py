"""Plans as text: what a row needs and costs before it is run. No torch here."""

import re
from collections.abc import Sequence
from pathlib import Path

from dnnlib.terminal import counted
from edm2_guidance.papers.costs import GRADIENT, Cost, decoder_gflops, downloads, facts_of, snapshot_bytes
from edm2_guidance.papers.tables import NETWORKS, Row, how_to_make


def size(count: float) -> str:
    """Bytes for reading: 3.05 GB, 248 MB, 363 kB."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:g} bytes"


def duration(hours: float) -> str:
    """Hours for reading: 52 hours, 1.5 hours, 12 minutes."""
    return f"{hours:.3g} hours" if hours >= 1 else f"{max(hours * 60, 0.1):.2g} minutes"


def operations(peta: float) -> str:
    """P operations for reading: 5,489 PFLOP, 0.01283 PFLOP."""
    return f"{peta:,.0f} PFLOP" if peta >= 1000 else f"{peta:.4g} PFLOP"


def plan_lines(row: Row, cost: Cost | None, networks: str | Path = NETWORKS) -> list[str]:
    """The plan of one row: what it is, what it needs, what it costs, what to make before."""
    score = "" if row.published is None else f", published {row.published:g}"
    lines = [f"{row.name}: {row.metric}{score}", f"    {row.source}"]
    if row.assumed:
        lines.append(f"    assumed      {row.assumed}")
    if row.note:
        lines.append(f"    note         {row.note}")
    if row.real is not None:
        lines.append(f"    scores       {row.real.removesuffix('.npz')}, which ships: nothing is sampled")
    elif row.samples is not None:
        lines += [f"    fetch        {file} (of unknown size)" for file in (row.samples, row.reference)]
        lines.append("    scores       these samples, all metrics of them in one pass: nothing is sampled")
    elif cost is None:
        lines.append(f"    cannot run   {row.blocked}")
    else:
        lines += [*_networks(row), *_costs(row, cost), *_make_first(row.missing(networks), networks)]
    return lines


def _networks(row: Row) -> list[str]:
    where = ""
    if row.interval is not None:
        printed = f", printed {row.sigmas}" if row.sigmas else ""
        where = f" on {row.interval} = {row.interval.sigmas(row.levels())}{printed}"
    named, recipe = [f"{file} ({size(facts_of(file).bytes)})" for file in row.files], row.recipe()
    others = iter(named[1:])
    guides = [
        f"guided by {guide.name if guide.net is None else next(others)}, {guide.strength}{where}"
        for guide in recipe.guides
    ]
    unusual = [spec.caption for spec in recipe.unusual()] + ([] if row.dtype == "float32" else [row.dtype])
    by = [f"by {', '.join(unusual)}"] if unusual else []
    base = [] if row.base is None else [f"enlarges images of {row.base}: {', '.join(others)}"]
    return [f"    network      {named[0]}", *(f"                 {line}" for line in [*guides, *by, *base])]


def _costs(row: Row, cost: Cost) -> list[str]:
    made = dict(cost.evaluations)
    gradients = made.pop(GRADIENT, 0)
    counts = [f"{number} {re.sub(r' [0-9]+$', '', name)}" for name, number in made.items()]
    total = f" = {sum(made.values())}" if len(counts) > 1 else ""
    total += f" per image, {gradients} of them with the gradient" if gradients else " per image"
    decoding = decoder_gflops(row)
    decoder = f", the VAE decoder's {decoding / 1000:g} in it" if decoding else ""
    runs, devices = counted(cost.repeats, "run"), f"{cost.gpus} x " if cost.gpus > 1 else ""
    return [
        f"    evaluations  {' + '.join(counts)}{total}, {row.num_steps} steps",
        f"    operations   {cost.tflop:.4g} Tflop per image{decoder}",
        f"    in all       {cost.num_images:,} images x {runs}: {operations(cost.pflop)}, {duration(cost.hours)} at "
        f"{devices}{cost.throughput:.4g} TFLOP/s ({cost.rates.source})",
        f"    fetch        {size(cost.fetch)}",
        f"    disk         {size(cost.features)} of features while it runs; images, if kept, about {size(cost.images)}",
    ]


def _make_first(missing: Sequence[str], networks: str | Path) -> list[str]:
    lines = [f"    make first   {line}" for line in how_to_make(missing, networks)]
    read = snapshot_bytes(missing)
    return [*lines, f"                 (reads {size(read)} of raw snapshots)"] if read else lines


def total_lines(costs: Sequence[Cost], networks: str | Path = NETWORKS) -> list[str]:
    """What several rows cost together, every file, and images that rows share, counted once."""
    shared = {cost.row.images: cost for cost in costs}
    files = downloads((cost.row for cost in costs), networks)
    missing = list(dict.fromkeys(file for cost in costs for file in cost.row.missing(networks)))
    features, images = max((cost.features for cost in costs), default=0), sum(c.images for c in shared.values())
    return [
        f"together: {len(costs)} rows that can be sampled here",
        f"    operations   {operations(sum(c.pflop for c in shared.values()))}, "
        f"{duration(sum(c.hours for c in shared.values()))}",
        f"    fetch        {size(sum(files.values()))} in {counted(len(files), 'file')}",
        f"    disk         {size(features)} of features while it runs; images, if kept, about {size(images)}",
        *_make_first(missing, networks),
    ]
