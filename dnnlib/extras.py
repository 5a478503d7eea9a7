"""Optional packages: asked for when they are needed, and if missing, with the command that installs them."""

import importlib
import os
from types import ModuleType
from typing import Any

#: Where a training run's numbers may go beside its files (`training.trackers`): packages, and extras of this project.
TRACKERS = ("tensorboard", "wandb")


def need(module: str, install: str) -> ModuleType:
    """The imported module. ImportError that names `install`, a command line, if it is not there."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise ImportError(f"{module.split('.')[0]} is not installed, and is needed for this: {install}") from error


def need_tracker(name: str) -> ModuleType:
    """The package of one of TRACKERS. ImportError as of `need`."""
    return need(name, f"pip install 'edm2-guidance[{name}]'")


def matplotlib_figure() -> Any:
    """matplotlib's class Figure, for pictures that go to a file. ImportError as of `need`.

    The backend that MPLBACKEND names, a notebook's perhaps that is not installed here, is for windows: it is not asked.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        return need("matplotlib.figure", "pip install matplotlib").Figure
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
