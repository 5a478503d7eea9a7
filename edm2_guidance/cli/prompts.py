"""Prompts on the command line: --prompt=TEXT, --prompts=FILE. No torch here."""

import re
from pathlib import Path

from dnnlib.regular import read_regular
from dnnlib.stand_ins import stand_in
from edm2_guidance.cli.recipe_options import SamplingOptions
from edm2_guidance.recipe.prompts import MAX_BYTES, Prompts, checked_prompts, why_no_prompt

_TOKEN = re.compile(rb"<(?!html|[!?])", re.IGNORECASE)  # what a prompt may begin with, and a web page does not


def asked_prompts(sampling: SamplingOptions, usual: Prompts = ()) -> Prompts:
    """The prompts that options give, else the usual ones. OSError or ValueError for what cannot be read, or used."""
    if sampling.prompt and sampling.prompts is not None:
        raise ValueError("--prompt and --prompts both say what to draw: give one of them")
    found = checked_prompts(sampling.prompt) if sampling.prompts is None else read_prompts(sampling.prompts)
    found = found or usual
    if found and sampling.labels == "random":
        raise ValueError("--labels=random: each seed has its prompt, seed mod prompts; leave it out")
    return found


def read_prompts(file: str) -> Prompts:
    """The lines of a UTF-8 text, prompts of seeds 0, 1, ...; empty ones at its end are none.

    OSError if there is no such file, ValueError, with the line, for what is no prompt.
    """
    try:
        lines = _lines(read_regular(Path(file).expanduser(), MAX_BYTES))
        for number, line in enumerate(lines, start=1):
            why = why_no_prompt(line)
            if why is not None:
                raise ValueError(f"line {number} {why}")
        return checked_prompts(lines)
    except ValueError as error:
        raise ValueError(f"--prompts={file}: {error}") from error


def _lines(data: bytes) -> list[str]:
    what = stand_in(data)
    if what is not None and not _TOKEN.match(data):
        raise ValueError(f"it is {what}")
    lines = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n")
    texts = []
    for number, line in enumerate(lines, start=1):
        try:
            texts.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            raise ValueError(f"line {number} is not UTF-8 text: save the file as UTF-8") from None
        if "\0" in texts[-1]:  # UTF-16 without its mark
            raise ValueError(f"line {number} is not UTF-8 text: save the file as UTF-8")
    while texts and not texts[-1].strip():
        texts.pop()
    if not texts:
        raise ValueError("it has no prompt: need one per line")
    return texts
