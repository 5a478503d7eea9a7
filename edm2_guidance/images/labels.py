"""The labels of an image set, and the names of its classes, as its `dataset.json` has them. Torch-free."""

import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dnnlib.plain_json import parse_json
from edm2_guidance.images.members import MAX_NAME, clean_name, shortened
from edm2_guidance.recipe.class_names import checked_names, why_no_names

Label = int | list[float]

_MAX_DIGITS = 32  # of a class index in a file of its own, with what is around it


def parse_label_file(data: bytes, where: str) -> dict[str, Any]:
    """Content of a `dataset.json`, which has an entry `labels`; ValueError, which `where` begins, for anything else."""
    try:
        content = parse_json(data)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from error
    if not isinstance(content, dict) or "labels" not in content:
        raise ValueError(f'{where} has no "labels"; expected {{"labels": [[name, label], ...]}} or null')
    return content


def parse_labels(content: dict[str, Any], where: str, root: str, names: Sequence[str]) -> dict[str, Label] | None:
    """The label of every image: all class indices, or all vectors of one length; None for null.

    root: the folder that everything lies in, which the names may begin with or not. names: of the images.

    Raises ValueError if they are malformed, name an image that is not there or twice, leave one out, or mix kinds.
    """
    if content["labels"] is None:
        return None
    listed = _parse_pairs(content["labels"], where, root, names)
    known = set(names)
    strange = [name for name in listed if name not in known]
    missing = [name for name in names if name not in listed]
    if strange:
        raise ValueError(f"{where} has a label for {shortened(map(repr, strange))}, which is not in the image set")
    if missing:
        label = shortened(map(repr, missing))
        raise ValueError(f'{where} has no label for {label}; add it, or write {{"labels": null}}')
    return listed


def parse_label_beside(data: bytes, name: str, where: str) -> Label:
    """The label in a file of this name beside an image: the text of KEY.cls, an integer, or what KEY.json says.

    ValueError, which `where` begins, for anything else.
    """
    label: object
    if name.endswith(".json"):
        try:
            label = _said_label(parse_json(data))
        except ValueError as error:
            raise ValueError(f"{name!r} in {where} {error}") from error
    else:
        text = data[:_MAX_DIGITS]
        label = int(text) if text.strip().isdigit() and len(data) < _MAX_DIGITS else text.decode("utf-8", "replace")
    return _parse_label(label, name, where)


def says_label(data: bytes) -> bool:
    """Whether the JSON beside an image, of which anything may be said, holds its label."""
    try:
        return _said_label(parse_json(data)) is not None
    except ValueError:
        return False


def _said_label(content: Any) -> object:
    """The label that the JSON beside an image holds: under "cls" or "label", as webdataset's users write; or None."""
    said = content if isinstance(content, dict) else {}
    return next((said[key] for key in ("cls", "label") if isinstance(said.get(key), int | list)), None)


def parse_class_names(
    content: dict[str, Any], where: str, num_classes: int
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The names of classes 0, 1, ..., or None; and what keeps them from being read, or is to be said, as sentences."""
    value = content.get("class_names")
    problem = None if value is None else why_no_names(value, num_classes)
    names = checked_names(value)
    text = "some classes have no names" if names else "classes have no names"
    notes = () if problem is None else (f"{text}; class_names in {where}: {problem}",)
    return names, notes


def count_classes(labels: Iterable[Label]) -> int:
    """The largest class index + 1; 0 without labels, or for vectors."""
    return 1 + max((label for label in labels if isinstance(label, int)), default=-1)


def _parse_pairs(pairs: object, where: str, root: str, names: Sequence[str]) -> dict[str, Label]:
    """The pairs of `{"labels": [[name, label], ...]}`, checked for shape and kind."""
    if not isinstance(pairs, list):
        raise ValueError(f'"labels" in {where} is a {type(pairs).__name__}; expected a list or null')
    image_of = _name_finder(root, names)
    labels: dict[str, Label] = {}
    for index, pair in enumerate(pairs):
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ValueError(f"entry {index} of the labels in {where} is not [name, label]: {str(pair)[:80]}")
        if len(pair[0]) > MAX_NAME:
            raise ValueError(f"entry {index} of the labels in {where} has a name of {len(pair[0])} characters")
        name = image_of(pair[0])
        if name in labels:
            raise ValueError(f"{where} has two labels for {name!r}")
        labels[name] = _parse_label(pair[1], name, where)
    check_same_kind(labels, where)
    return labels


def _name_finder(root: str, names: Sequence[str]) -> Callable[[str], str]:
    """A function from a name in `dataset.json` to that of the image it means; other names come back clean."""
    known = frozenset(names)
    by_form: dict[str, str] = {}

    def find(name: str) -> str:
        if name in known:
            return name
        name = clean_name(name)  # some data sets were packed on Windows
        for meant in (root + name, name):
            if meant in known:
                return meant
        if not by_form:
            by_form.update(_by_form(names))
        forms = (unicodedata.normalize("NFC", meant) for meant in (root + name, name))
        return next((by_form[form] for form in forms if form in by_form), name)

    return find


def _by_form(names: Sequence[str]) -> dict[str, str]:
    """Names by their composed Unicode form, where only one has it: macOS takes letters and their accents apart."""
    forms = [unicodedata.normalize("NFC", name) for name in names]
    counts = Counter(forms)
    return {form: name for form, name in zip(forms, names, strict=True) if counts[form] == 1}


def _parse_label(value: object, name: str, where: str) -> Label:
    """A class index or a vector of finite floats."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
        return value
    if isinstance(value, list) and value and all(_is_finite(x) for x in value):
        return [float(x) for x in value]
    raise ValueError(
        f"the label of {name!r} in {where} is {str(value)[:80]}; "
        "expected a class index (0 or more) or a vector of finite numbers"
    )


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # False for NaN too


def check_same_kind(labels: Mapping[str, Label], where: str) -> None:
    """ValueError unless all labels are class indices, or all are vectors of one length."""
    first: tuple[str, int | None] | None = None
    for name, label in labels.items():
        length = len(label) if isinstance(label, list) else None
        first = (name, length) if first is None else first
        if length != first[1]:
            kinds = ["a class index" if n is None else f"a vector of {n}" for n in (first[1], length)]
            raise ValueError(f"{where} mixes labels: {first[0]!r} has {kinds[0]}, {name!r} {kinds[1]}")
