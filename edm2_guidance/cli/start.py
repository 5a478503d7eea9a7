"""What every script does first, before it imports what may be missing or take time. Standard library only."""

from __future__ import annotations  # an older Python must come as far as the line that says so

import atexit
import gc
import importlib
import importlib.util
import os  # none of the modules below takes time: until `start` has run, Ctrl-C ends in a traceback
import signal
import sys
from types import FrameType, TracebackType

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(os.path.dirname(__file__))))  # a checkout, or site-packages
OURS = ("dnnlib", "torch_utils", "training")  # names that network files fix, and that other projects have as well
PYTHON = (3, 11)


def run(command: str) -> None:
    """The page edm2_guidance/commands/`command`.py, as a script or a console command."""
    start()
    page = importlib.import_module(f"edm2_guidance.commands.{command}")
    if any(name.startswith("_EDM2_") and name.endswith("_COMPLETE") for name in os.environ):  # a shell asks
        from edm2_guidance.cli.completion import prepare

        prepare(page.main)
    page.main()


def start() -> None:
    """From here on Ctrl-C and a package that is missing end the script in one line.

    So does, at once, an old Python, and another project's package in the place of one of ours.
    """
    if sys.version_info < PYTHON:
        sys.exit(f"Error: Python {'.'.join(map(str, PYTHON))} or later is needed, this is {sys.version.split()[0]}")
    sys.excepthook = _excepthook
    atexit.register(gc.freeze)  # or Python looks for cycles in all that torch has made: a fifth of its import
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)
    for name in OURS:
        found = _found(name)
        if found is not None and os.path.realpath(found) != os.path.join(ROOT, name):
            sys.exit(
                f"Error: another '{name}' comes before that of this project: {found}; leave {os.path.dirname(found)} "
                "out of PYTHONPATH, or give this project a Python environment of its own"
            )


def as_started(text: str) -> str:
    """A text that names scripts, `python reproduce.py` or `reproduce.py`, in the words of whoever started the program.

    To users of an installation's console commands they are `edm2-reproduce`. Lines of torchrun start scripts anyway.
    """
    if not os.path.basename(sys.argv[0]).startswith("edm2-"):
        return text
    import re

    def named(found: re.Match[str]) -> str:
        page = found["page"] or ""
        is_ours = os.path.isfile(os.path.join(ROOT, "edm2_guidance", "commands", f"{page}.py"))
        return f"edm2-{page.removesuffix('_edm2').replace('_', '-')}" if is_ours else found[0]

    return re.sub(r"torchrun .*|(?<![\w/.-])(?:python )?(?P<page>\w+)\.py\b", named, text)


def _found(name: str) -> str | None:
    """The folder of the package that an import of this name takes, or the file of a module; None if it finds nothing.

    Nothing is executed. A folder without `__init__.py` counts only if no real package comes after it, as in an import.
    """
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    folders = spec.submodule_search_locations
    return spec.origin if folders is None else next(iter(folders), None)


def interrupted(number: int, frame: FrameType | None) -> None:
    """Handler of SIGINT while nothing is there to be put in order: before a command begins, and after it."""
    try:
        os.write(2, b"Error: interrupted\n")
    finally:  # stderr may be closed
        os._exit(128 + number)


def cure(error: ImportError) -> str:
    """What an import failed for, and what to do about it, in one line."""
    what = " ".join(str(error).split())
    top = (error.name or "").split(".")[0]
    if os.path.isdir(os.path.join(ROOT, top)) or os.path.isfile(os.path.join(ROOT, f"{top}.py")):
        return f"{what}: files of this project are missing in {ROOT}; fetch it again"
    if top in sys.stdlib_module_names:
        return f"{what}: this Python ({sys.executable}) was built without it; take another"
    venv = os.path.join(ROOT, ".venv")
    if os.path.isdir(venv) and os.path.realpath(sys.prefix) != os.path.realpath(venv):
        for before, folder in ("source ", "bin"), ("", "Scripts"):  # the latter on Windows
            if os.path.isfile(os.path.join(venv, folder, "activate")):
                activate = _from_here(os.path.join(".venv", folder, "activate"))
                return f"{what}: run `{before}{activate}` first, where everything is installed"
        return f"{what}: run `make install` in {ROOT} first"
    if not os.path.isfile(os.path.join(ROOT, "requirements.txt")):  # an installation, which pip made without it
        return f"{what}: run `{_this_python()} -m pip check`, which names what is to be installed"
    return f"{what}: run `{_this_python()} -m pip install -r {_from_here('requirements.txt')}` first"


def _this_python() -> str:
    """The running Python as one would type it: its name, unless that starts another one, or none."""
    import shlex
    import shutil

    name = os.path.basename(sys.executable)
    return name if shutil.which(name) == sys.executable else shlex.quote(sys.executable)


def _from_here(name: str) -> str:
    """A file of the project as one would type it."""
    path, here = os.path.join(ROOT, name), os.path.realpath(os.curdir)
    return os.path.relpath(path, here) if f"{here}{os.sep}".startswith(f"{ROOT}{os.sep}") else path


def _excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if isinstance(error, ModuleNotFoundError) and os.environ.get("EDM2_TRACEBACK", "") in ("", "0"):
        print(f"Error: {cure(error)}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)
