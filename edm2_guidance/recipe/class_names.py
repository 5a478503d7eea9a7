"""Names of classes: how they are read, and how a name that somebody typed becomes an index. Torch-free."""

import difflib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

MAX_CLASSES = 1 << 20
MAX_NAME = 200  # characters
_NEAR = 5


@dataclass(frozen=True)
class ClassName:
    """A class by its name, until the network is known whose class it is."""

    text: str

    def __str__(self) -> str:
        return self.text


def checked_names(value: object) -> tuple[str, ...] | None:
    """A list of names of classes 0, 1, ... from a file that anybody may have made; None for anything else.

    What no file or terminal can show, lone surrogates, is written out.
    """
    if not isinstance(value, list | tuple) or why_no_names(value) is not None:
        return None
    return tuple(name.encode("utf-8", "backslashreplace").decode("utf-8") for name in value)


def why_no_names(value: object, num_classes: int = 0) -> str | None:
    """What is wrong with names of so many classes, in a few words about them; None if nothing is."""
    if not isinstance(value, list | tuple):
        return f"they are a {type(value).__name__}, not a list"
    if not 0 < len(value) <= MAX_CLASSES:
        return f"there are {len(value)} of them"
    for index, name in enumerate(value):
        if not isinstance(name, str):
            return f"that of class {index} is a {type(name).__name__}, not a text"
        if not 0 < len(name) <= MAX_NAME:
            return f"that of class {index} has {len(name)} characters, not 1 to {MAX_NAME}"
    return f"there are {len(value)} of them for {num_classes} classes" if len(value) < num_classes else None


def find_class(name: str, names: Sequence[str] | None, where: str, count: int = 1) -> int:
    """The index of the class of this name; case does not count, and `_`, `-` and blanks are the same.

    Nor does it count whether letters are composed with their accents, as keyboards write them, or not, as macOS does.

    names: of classes 0, 1, ...; None if they are unknown. where: whose classes they are, for error messages; count: how
    many.
    Raises ValueError if there is no such class, or more than one: it names those near, or all of them.
    """
    if names is None:
        raise ValueError(
            f"--class={name}: give a class number from 0 to {count - 1}, or leave it out for random classes; {where} "
            "has no class names (--class-names=FILE gives them, one per line)"
        )
    found = [index for index, known in enumerate(names) if _key(known) == _key(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"--class={name}: {where} has several of that name, {_listed(found, names)}; give the index")
    near = _near(name, names)
    hint = f"near it: {_listed(near, names)}" if near else f"its first is {names[0]!r}, its last {names[-1]!r}"
    raise ValueError(f"--class={name}: {where} has no class of that name; {hint}")


def class_text(item: int | ClassName, names: Sequence[str] | None) -> str:
    """A class for a caption: "class 3", or "class 3, cat" where the names of classes are known."""
    known = names is not None and isinstance(item, int) and item < len(names)
    return f"class {item}, {names[item]}" if known else f"class {item}"  # type: ignore[index]


def _key(name: str) -> str:
    composed = unicodedata.normalize("NFC", name)
    return " ".join(composed.casefold().replace("_", " ").replace("-", " ").split())


def _near(name: str, names: Sequence[str]) -> list[int]:
    """Indices of a few classes whose names have this word, or are written in nearly the same way."""
    keys = [_key(known) for known in names]
    with_word = [index for index, key in enumerate(keys) if _key(name) in key.split()]
    alike = difflib.get_close_matches(_key(name), keys[: 1 << 12], n=_NEAR, cutoff=0.6)
    return list(dict.fromkeys([*with_word, *(keys.index(key) for key in alike)]))[:_NEAR]


def _listed(indices: Sequence[int], names: Sequence[str]) -> str:
    return ", ".join(f"{names[index]} ({index})" for index in indices)
