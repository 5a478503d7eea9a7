"""Classes by folders: every folder at the top of an image set is one, numbered from 0 in sorted order. Torch-free."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from edm2_guidance.images.labels import Label
from edm2_guidance.images.members import shortened
from edm2_guidance.recipe.class_names import MAX_NAME

#: Folders of these names hold parts of a set, not classes of it.
_PARTS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


@dataclass(frozen=True)
class ClassFolders:
    """Labels by image name and names of classes 0, 1, ..., or None for both; and what somebody should know of it."""

    labels: dict[str, Label] | None = None
    names: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)


def class_folders(names: Sequence[str], folders: Sequence[str], root: str, where: str) -> ClassFolders:
    """The classes of images by the folders that they lie in.

    There are none where some image lies outside of all folders, or where there are not two folders at least.

    Args:
        names: Of all images.
        folders: Names of all folders in the root, sorted, also of those without images.
        root: The folder that everything lies in, with its slash, or "".
        where: Name of the set for messages.

    Raises ValueError if a folder holds no image: its class would vanish, and those after it move up by one.
    """
    tops = [name[len(root) :].partition("/") for name in names]
    outside = [name for name, (_, slash, _) in zip(names, tops, strict=True) if not slash]
    if outside and len(outside) < len(names):
        note = f"{len(outside)} of {len(names)} images lie in none, such as {outside[0]!r}: the set gets no labels"
        return ClassFolders(notes=[f"folders are no classes here, as {note}"])
    if outside or len(folders) < 2:
        return ClassFolders()
    used = Counter(top for top, _, _ in tops)
    empty = [folder for folder in folders if folder not in used]
    if empty:
        raise ValueError(
            f"{where} has folders without an image that is read, {shortened(map(repr, empty))}: as classes they would "
            "vanish, and others take their numbers. Put images of a known kind in, move the folders away, or say the "
            "labels in dataset.json"
        )
    index = {folder: number for number, folder in enumerate(folders)}
    labels: dict[str, Label] = {name: index[top] for name, (top, _, _) in zip(names, tops, strict=True)}
    return ClassFolders(labels, tuple(_readable(folder)[:MAX_NAME] for folder in folders), _notes(folders, root))


def _notes(folders: Sequence[str], root: str) -> list[str]:
    """What in the names of class folders may mean something else than it does."""
    notes = []
    if root:
        notes.append(f"everything lies in {root!r}: the {len(folders)} folders in it are the classes")
    numbers = [int(folder) for folder in folders if folder.isascii() and folder.isdecimal()]
    if len(numbers) == len(folders) and numbers != list(range(len(folders))):
        shown = shortened(f"{folder!r} is {index}" for index, folder in enumerate(folders))
        notes.append(f"folders named by numbers are numbered anew, in the order of their names as texts: {shown}")
    if {folder.lower() for folder in folders} <= _PARTS:
        notes.append(f"folders are taken for classes: {shortened(map(repr, folders))}; for one of them, give its path")
    long = [folder for folder in folders if len(_readable(folder)) > MAX_NAME]
    if long:
        notes.append(f"names of classes are cut to {MAX_NAME} characters: {shortened(map(repr, long))}")
    alike = Counter(map(_key, folders))
    twice = [folder for folder in folders if alike[_key(folder)] > 1]
    if twice:
        show = repr if all(unicodedata.is_normalized("NFC", folder) for folder in twice) else ascii
        alone = "case or by how letters with accents are written (Unicode form) alone"
        notes.append(f"folders that differ by {alone} are classes of their own: {shortened(map(show, twice))}")
    return notes


def _key(folder: str) -> str:
    """The same for names that a person takes for the same."""
    return unicodedata.normalize("NFC", folder).casefold()


def _readable(folder: str) -> str:
    """A folder's name as text, also where its bytes are none."""
    return folder.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
