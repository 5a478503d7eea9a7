"""Classes by name on the command line: --class=goldfish, --class-names=FILE. No torch here."""

import re
from pathlib import Path
from typing import Any

from dnnlib.plain_json import parse_json
from dnnlib.regular import read_regular
from dnnlib.stand_ins import stand_in
from edm2_guidance.cli import typed
from edm2_guidance.cli.command import bad_input
from edm2_guidance.cli.lists import IntList, check_once
from edm2_guidance.cli.param_type import ParamType
from edm2_guidance.cli.say import note
from edm2_guidance.papers.imagenet import SHARED_WORDS, imagenet_classes, is_published
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.recipe.class_names import MAX_NAME, ClassName, checked_names, find_class, why_no_names

MAX_FILE_BYTES = 1 << 26


class Class(ParamType):
    """A class: its index as an int, or its name as a ClassName."""

    name = "int|name"

    def parse(self, text: str) -> int | ClassName:
        if re.fullmatch(r"\d{1,9}", text, re.ASCII):
            return int(text)
        if text == "" or re.fullmatch(r"[-+]?[\d.,eE+_]+", text, re.ASCII):
            raise ValueError(f"give a class number{_known_numbers()}, or a name, or leave it out for random classes")
        return ClassName(text)


class Classes(ParamType):
    """Classes such as 0,5,10-19 or cat,dog, as a list that holds none twice."""

    name = "list"

    def parse(self, text: str) -> list[int | ClassName]:
        found: list[int | ClassName] = []
        for part in text.split(","):
            numbers = re.fullmatch(r"[\s\d-]+", part, re.ASCII)
            found += IntList().parse(part) if numbers else [Class().parse(part.strip())]
        return check_once(found)


def _known_numbers() -> str:
    """Which numbers there are, by the presets that were typed."""
    presets = all_presets()
    counts = [presets[name].num_classes for name in typed.values("preset") if name in presets]
    return next((f" from 0 to {count - 1}" for count in reversed(counts) if count > 0), " of 0 or more")


def known_names(source: str, file: str | None) -> tuple[str, ...] | None:
    """Class names that are known before a network is opened: of --class-names, else those of a published network.

    source: path or URL of the network. Raises OSError or ValueError if the file cannot be read.
    """
    if file is not None:
        return read_names(file)
    return imagenet_classes() if is_published(source) else None


def read_names(file: str) -> tuple[str, ...]:
    """Names of classes 0, 1, ... from a text of one per line, or JSON: a list, or an object with `class_names`.

    Raises OSError if there is no such file, ValueError if it holds no names.
    """
    try:
        data = read_regular(Path(file).expanduser(), MAX_FILE_BYTES)
    except ValueError as error:
        raise ValueError(f"--class-names={file} cannot be read: {error}") from error
    try:
        names = _names_in(data)
    except ValueError as error:
        raise ValueError(f"--class-names={file} {error}") from error
    return tuple(name.strip() for name in names)


def _names_in(data: bytes) -> tuple[str, ...]:
    """ValueError, whose text continues "FILE ...", where there are none."""
    what = stand_in(data)
    if what is not None:
        raise ValueError(f"is {what}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8 text: save it as UTF-8") from error
    if "\0" in text:  # UTF-16 without its mark
        raise ValueError("is not UTF-8 text: save it as UTF-8")
    content: Any  # JSON of others
    if text.lstrip()[:1] in ("{", "["):
        content = parse_json(text)
    else:
        content = text.rstrip().splitlines()
        _check_lines(content)
    value = content.get("class_names") if isinstance(content, dict) else content
    names = checked_names(value)
    if names is None:
        why = "" if value is None else f"; {why_no_names(value)}"
        raise ValueError(f"has no list of names: need one name per line, or JSON with a list class_names{why}")
    return names


def _check_lines(lines: list[str]) -> None:
    """ValueError naming the first line that is no name: the classes after it would move."""
    for number, line in enumerate(lines, 1):
        if line.strip() == "":
            raise ValueError(f"has no name in line {number}: need one per line, for classes 0, 1, ...")
        if len(line) > MAX_NAME:
            raise ValueError(f"has {len(line):,} characters in line {number}: a name has at most {MAX_NAME}")


def known_class(named: int | ClassName | None, file: str | None, source: str | None) -> int | ClassName | None:
    """The index of a --class that is a name, if names are known by now.

    file: of --class-names. source: the main network. Else the name stays, for the network to resolve when it is
    opened. A usage error for a name that is not among them.
    """
    if file is not None:
        with bad_input():
            read_names(file)  # of use for captions at least: nobody gives it to be ignored
    if source is None or not isinstance(named, ClassName):
        return named
    index = index_of(named, source, file)
    if isinstance(index, int):
        note(f"--class={named} is class {index}")
    return index


def index_of(named: int | ClassName, source: str, file: str | None) -> int | ClassName:
    """The index of a class; its name as it is, where no names are known before the network is opened."""
    with bad_input():
        names = known_names(source, file)
        if isinstance(named, int) or names is None:
            return named
        if file is None and (shared := SHARED_WORDS.get(named.text.casefold())):
            both = " and ".join(f"{names[index]} ({index})" for index in shared)
            raise ValueError(f"--class={named}: ImageNet has {both}; give the index")
        return find_class(named.text, names, "ImageNet" if file is None else file)
