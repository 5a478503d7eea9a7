"""Completion by Tab for the console commands: click's, and after `=` as well, with files, names and presets."""

import re

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

from dnnlib.places import embedded
from dnnlib.published import PUBLISHED
from edm2_guidance.papers.references import REFERENCES

_FILES = re.compile(r"PATH|DIR|FILE|ZIP|NPZ|PKL|PNG|PDF|JSON|LEDGER|SAMPLES|REFERENCE")  # in an option's metavar
_READ = re.compile(r"URL|NPZ|SAMPLES|REFERENCE")  # of these, what may ship

_SIDES = ("samples", "reference", "images", "ref", "gen_zip", "ref_path", "a", "b")


class _Bash(BashComplete):
    def get_completion_args(self) -> tuple[list[str], str]:
        """To bash, `--net=mni` is three words."""
        args, incomplete = super().get_completion_args()
        return [arg for arg in args if arg != "="], incomplete.removeprefix("=")


class _File(click.types.StringParamType):
    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names of what ships that begin so; where none does, the shell's own completion of files."""
        known = _names(param) if _READ.search(param.metavar or "") and incomplete else []
        names = [CompletionItem(name) for name in known if name.startswith(incomplete)]
        return names or [CompletionItem(incomplete, type="file")]


def _names(param: click.Parameter) -> list[str]:
    """Of what ships, and is published, what fits: statistics for a side of a score, else networks."""
    if param.name in _SIDES:
        return [*(name for name, file in embedded().items() if file.suffix == ".npz"), *REFERENCES]
    return [*(name for name, file in embedded().items() if file.suffix == ".pkl"), *PUBLISHED]


def prepare(command: click.Command) -> None:
    """Tell click of the parameters of a command and its subcommands what can be completed."""
    add_completion_class(_Bash)
    for each in (command, *getattr(command, "commands", {}).values()):
        for param in each.params:
            if isinstance(param.type, click.types.StringParamType) and _FILES.search(param.metavar or ""):
                param.type = _File()
