"""Optional packages: asked for when they are needed, and if missing, with the command that installs them."""

import importlib
from types import ModuleType


def need(module: str, install: str) -> ModuleType:
    """The imported module. ImportError that names `install`, a command line, if it is not there."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise ImportError(f"{module.split('.')[0]} is not installed, and is needed for this: {install}") from error
