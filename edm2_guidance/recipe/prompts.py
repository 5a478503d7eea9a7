"""Prompts, the classes of a network that takes text: what is one, and how it is shown. Torch-free."""

from collections.abc import Sequence
from typing import Any

MAX_PROMPTS = 100_000
MAX_PROMPT = 10_000  # characters
MAX_BYTES = 1 << 23  # of all together, as JSON: readers of recipes take twice that
_SHOWN = 40  # characters


def checked_prompts(given: Any) -> tuple[str, ...]:
    """One text or several; one may be empty. ValueError for what is no text, or too much, or cannot be written."""
    prompts = (given,) if isinstance(given, str) else given
    if not isinstance(prompts, tuple | list):
        raise ValueError(f"prompts are a {type(prompts).__name__}: give a text, or a list of texts")
    if len(prompts) > MAX_PROMPTS:
        raise ValueError(f"{len(prompts):,} prompts: a recipe has at most {MAX_PROMPTS:,}")
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ValueError(f"prompt {number} is a {type(prompt).__name__}, not a text")
        if len(prompt) > MAX_PROMPT:
            raise ValueError(f"prompt {number} has {len(prompt):,} characters: at most {MAX_PROMPT:,}")
        if any("\ud800" <= letter <= "\udfff" for letter in prompt):
            raise ValueError(f"prompt {number} is no Unicode text: {shortened(prompt)}")
    if sum(len(prompt.encode("ascii", "backslashreplace")) for prompt in prompts) > MAX_BYTES:
        raise ValueError(f"the prompts are more than {MAX_BYTES >> 20} MiB of text: give fewer, or shorter ones")
    return tuple(prompts)


def shortened(prompt: str, most: int = _SHOWN) -> str:
    """A prompt as one line of at most so many characters, cut between words where it can be; in quotes."""
    line = " ".join(prompt.split())
    if len(line) > most:
        head = line[: most - 1]
        line = (head.rsplit(" ", 1)[0] if " " in head[most // 2 :] else head) + "…"
    return f'"{line}"'


def prompts_text(prompts: Sequence[str]) -> str:
    """Some prompts in a few words: the first one, and how many there are."""
    more = f" and {len(prompts) - 1:,} more" if len(prompts) > 1 else ""
    return f"prompt {shortened(prompts[0])}{more}"
