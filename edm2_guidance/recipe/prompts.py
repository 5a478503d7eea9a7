"""Prompts, the classes of a network that takes text: what is one, and how they are written and shown. Torch-free."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edm2_guidance.recipe.spec import digest

MAX_PROMPTS = 100_000
MAX_PROMPT = 10_000  # characters
MAX_BYTES = 1 << 23  # of all together, as JSON: readers of files take twice that
_FEW, _SHORT = 100, 10_000  # prompts, and characters of all, that a ledger's line has room for
_SHOWN = 40  # characters


@dataclass(frozen=True)
class PromptsRef:
    """Prompts of which only this is known: how many, and what `prompts_sha256` says; a ledger keeps no more of many."""

    count: int
    sha256: str

    def __len__(self) -> int:
        return self.count

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"count": self.count, "sha256": self.sha256}


Prompts = tuple[str, ...] | PromptsRef


def checked_prompts(given: Any) -> Prompts:
    """One text or several, any of which may be empty; or what stands for them, as an object or as plain data.

    ValueError for what is no text, or too much, or cannot be written.
    """
    if isinstance(given, PromptsRef):
        return given
    if isinstance(given, Mapping):
        return _ref(given)
    prompts = (given,) if isinstance(given, str) else given
    if not isinstance(prompts, tuple | list):
        raise ValueError(f"prompts are a {type(prompts).__name__}: give a text, or a list of texts")
    if len(prompts) > MAX_PROMPTS:
        raise ValueError(f"{len(prompts):,} prompts: a recipe has at most {MAX_PROMPTS:,}")
    for number, prompt in enumerate(prompts):
        why = why_no_prompt(prompt)
        if why is not None:
            raise ValueError(f"prompt {number} {why}")
    if sum(len(prompt.encode("ascii", "backslashreplace")) for prompt in prompts) > MAX_BYTES:
        raise ValueError(f"the prompts are more than {MAX_BYTES >> 20} MiB of text: give fewer, or shorter ones")
    return tuple(prompts)


def why_no_prompt(value: object) -> str | None:
    """What is wrong with a prompt, in a few words about it; None if nothing is."""
    if not isinstance(value, str):
        return f"is a {type(value).__name__}, not a text"
    if len(value) > MAX_PROMPT:
        return f"has {len(value):,} characters: at most {MAX_PROMPT:,}"
    return "is no Unicode text" if re.search("[\ud800-\udfff]", value) else None


def _ref(data: Mapping[str, Any]) -> PromptsRef:
    count, sha256 = data.get("count"), data.get("sha256")
    if type(count) is not int or not 0 < count <= MAX_PROMPTS or not re.fullmatch("[0-9a-f]{64}", str(sha256)):
        raise ValueError("prompts are an object, but no count and sha256")
    return PromptsRef(count, str(sha256))


def prompts_sha256(prompts: Prompts) -> str:
    """What a recipe's hash knows of them: SHA-256 of the list as canonical JSON (`spec.digest`)."""
    return prompts.sha256 if isinstance(prompts, PromptsRef) else digest(prompts)


def prompts_json(prompts: Prompts) -> Any:
    """Plain data that `checked_prompts` reads."""
    return prompts.to_json() if isinstance(prompts, PromptsRef) else list(prompts)


def with_few_prompts(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe as plain data, with what stands for its prompts in their place where they would make a line too long."""
    prompts = recipe.get("prompts")
    if not isinstance(prompts, list) or (len(prompts) <= _FEW and sum(len(str(each)) for each in prompts) <= _SHORT):
        return recipe
    return {**recipe, "prompts": PromptsRef(len(prompts), digest(prompts)).to_json()}


def shortened(prompt: str, most: int = _SHOWN) -> str:
    """A prompt as one line of at most so many characters, in quotes; cut between words where it can be."""
    line = " ".join(prompt.split())
    if len(line) > most:
        head = line[: most - 3]
        line = f"{head.rsplit(' ', 1)[0] if ' ' in head[most // 2 :] else head}..."
    return f'"{line}"'


def prompt_text(prompts: Prompts, number: int, most: int = _SHOWN) -> str:
    """One of some prompts, for a caption: its number, and its text if that is known."""
    return f"prompt {number}" + ("" if isinstance(prompts, PromptsRef) else f", {shortened(prompts[number], most)}")


def prompts_text(prompts: Prompts) -> str:
    """All of some prompts, by seed, in a few words: the first one, and how many there are."""
    if isinstance(prompts, PromptsRef):
        return f"{len(prompts):,} prompts ({prompts.sha256[:8]})"
    return f"prompt {shortened(prompts[0])}" + (f" and {len(prompts) - 1:,} more, by seed" if len(prompts) > 1 else "")


def texts_of(prompts: Prompts) -> Sequence[str]:
    """The prompts themselves. ValueError where only their number and hash are known."""
    if isinstance(prompts, PromptsRef):
        what = f"{len(prompts):,} prompts, of which it keeps the hash alone"
        raise ValueError(f"the recipe has {what}: give them again, --prompts=FILE")
    return prompts
