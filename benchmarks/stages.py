"""The stages by name: modules with `run(options)`, which gives the lines of the table one after the other."""

import importlib
from collections.abc import Iterable

from benchmarks.side_by_side import Options, Result

STAGES = {
    "evaluation": "networks",
    "image": "image",
    "vae": "vae",
    "files": "files",
    "features": "extractors",
    "frechet": "frechet",
    "end-to-end": "end_to_end",
    "training": "training_step",
    "imports": "imports",
    "peers": "peers",
    "pipeline": "pipeline",
    "coordination": "coordination",
}


def lines_of(stage: str, options: Options) -> Iterable[Result]:
    """The lines of a stage; one that cannot run gives a line that says why."""
    try:
        yield from importlib.import_module(f"benchmarks.{STAGES[stage]}").run(options)
    except Exception as error:  # the other stages go on
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        yield Result(stage, "", note=f"failed: {reason}", failed=True)
