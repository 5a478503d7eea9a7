"""Which files of an image set are its images, which are known junk, and which are neither: by their names alone.

A set is read as its maker meant it: backslashes separate folders, and the top is the folder that everything lies in.
Whatever is left out is counted, so that somebody can be told. Torch-free.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dnnlib.terminal import counted

#: File name endings, in lower case, that make a member an image (or, for `.npy`, an array of latents).
IMAGE_SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".npy",
)  # fmt: skip

#: Longest name of a member, in characters: what file systems take for a path is hardly longer.
MAX_NAME = 1024

#: Name of the optional member that holds the labels.
LABELS_NAME = "dataset.json"

#: Name of the member that says how the images were made.
RECIPE_NAME = "recipe.json"

#: Members of sets that are read by name; anything else that is no image is left out.
_BY_NAME = frozenset({LABELS_NAME, RECIPE_NAME})

_THUMBNAILS = "@eaDir"  # of small copies that a Synology disk keeps beside images
_JUNK_FOLDERS = frozenset(
    {"__MACOSX", _THUMBNAILS, "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
)
_JUNK_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})

_SHOWN = 10


@dataclass(frozen=True)
class Members:
    """The files of a set, sorted out.

    Attributes:
        stored: From every member's name to the name under which it is stored. Junk is not in it; files that are read by
            name are in it by that name alone too, without the folder that everything lies in.
        images: Names of the images and `.npy` arrays, sorted by code point.
        root: The top: the folder that everything lies in, such as "pets/"; "" if there is none.
        folders: Names of the folders in the root, sorted, also of those that hold no image.
        label_files: From every image's name to that of the file beside it that holds its label, as webdataset has them:
            KEY.cls or KEY.json; empty without them, and where `dataset.json` is there.
        notes: What is not read, as a sentence each.
    """

    stored: Mapping[str, str]
    images: tuple[str, ...]
    root: str
    folders: tuple[str, ...]
    label_files: Mapping[str, str]
    notes: tuple[str, ...]


def sort_out(
    files: Iterable[tuple[str, str]], folders: Iterable[str], holds_label: Callable[[str], bool] = lambda stored: False
) -> Members:
    """Sort out the files of a set.

    Args:
        files: (name, name under which it is stored) of every file, in any order.
        folders: Names of all folders, as far as they are known, also of empty ones.
        holds_label: Whether a JSON file beside an image, given by the name under which it is stored, holds a label;
            asked of the first image's alone.

    Raises ValueError if two files have one name, or if there are labels beside some images but not all.
    """
    found: dict[str, str] = {}
    hidden: Counter[str] = Counter()  # images by the folder that hides them, "" for their own names
    for raw, stored in files:
        name = clean_name(raw)
        if is_junk(name):
            if _is_hidden_image(name):
                hidden[_hiding_folder(name)] += 1
        elif name in found:
            raise ValueError(f"two members named {name!r}; rename one of them, or write the set again")
        else:
            found[name] = stored
    known = {name + "/" for name in map(clean_name, folders) if name and not is_junk(name)}
    images = tuple(sorted(filter(has_image_suffix, found)))
    others = [name for name in found if not has_image_suffix(name)]
    root = _common_folder(images, others, known)
    below = (name[len(root) :] for name in (*found, *known) if name.startswith(root))
    top = {name.partition("/")[0] for name in below if "/" in name}
    label_files = _label_files(images, found, holds_label) if _may_hold_labels(others, root) else {}
    notes = tuple(_notes(others, root, hidden, set(label_files.values())))
    found |= {name: found[root + name] for name in _BY_NAME if root + name in found}
    return Members(found, images, root, tuple(sorted(top)), label_files, notes)


def _may_hold_labels(others: Sequence[str], root: str) -> bool:
    """Whether any of the files that are no images may hold the label of one, and no `dataset.json` holds all."""
    return root + LABELS_NAME not in others and any(name.endswith((".cls", ".json")) for name in others)


def _label_files(images: Sequence[str], found: Mapping[str, str], holds_label: Callable[[str], bool]) -> dict[str, str]:
    """The file beside each image that holds its label; none where there are none."""
    keys = {name: name[: len(name) - len(_base(name))] + _base(name).partition(".")[0] for name in images}
    missing = [name for name in images if keys[name] + ".cls" not in found]
    ending = ".cls"
    if len(missing) == len(images):
        first = keys[images[0]] + ".json" if images else ""
        if first not in found or not holds_label(found[first]):
            return {}
        ending = ".json"
        missing = [name for name in images if keys[name] + ending not in found]
    if missing:
        raise ValueError(
            f"a label ({ending}) beside some images, and none beside {shortened(map(repr, missing))}: "
            "add them, or take all away"
        )
    return {name: key + ending for name, key in keys.items()}


def clean_name(name: str) -> str:
    """A member's name with slashes between its parts, and none of the parts empty or `.`."""
    if "\\" in name or "./" in name or "//" in name or name.endswith("/"):
        return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
    return name


def has_image_suffix(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_junk(name: str) -> bool:
    """Whether a clean name is hidden, or of a file or folder that file managers leave behind."""
    parts = name.split("/")
    return any(map(_hides, parts)) or parts[-1].lower() in _JUNK_FILES


def shortened(items: Iterable[str], separator: str = ", ") -> str:
    """The first ten of some texts, and how many more there are."""
    listed = list(items)
    more = "" if len(listed) <= _SHOWN else f" and {len(listed) - _SHOWN} more"
    return separator.join(listed[:_SHOWN]) + more


def _hides(part: str) -> bool:
    return part.startswith(".") or part in _JUNK_FOLDERS


def _is_hidden_image(name: str) -> bool:
    """Whether a junk name may be that of an image, whose owner should know: no thumbnail, nor macOS's `._name`."""
    return has_image_suffix(name) and not _base(name).startswith("._") and _THUMBNAILS not in name.split("/")


def _hiding_folder(name: str) -> str:
    """The folder for which a junk name is hidden, such as "a/.b"; "" if it is hidden for the file's own name."""
    folders = name.split("/")[:-1]
    depth = next((depth for depth, part in enumerate(folders, start=1) if _hides(part)), 0)
    return "/".join(folders[:depth])


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _suffix(name: str) -> str:
    """The ending of a name in lower case, with its dot; "" for none."""
    stem, dot, ending = _base(name).rpartition(".")
    return dot + ending.lower() if stem else ""


def _common_folder(images: Sequence[str], others: Sequence[str], folders: Collection[str]) -> str:
    """The longest "a/b/" that all images, files read by name and folders lie in; "" if there is none.

    Other files may lie beside it: somebody's notes, say. Another folder, even an empty one, makes it one of several.
    """
    kept = [*images, *(name for name in others if _base(name) in _BY_NAME)]
    root = ""
    while kept:
        first, slash, _ = kept[0][len(root) :].partition("/")
        longer = f"{root}{first}/"
        below = (name for name in others if "/" in name[len(root) :])
        alone = all(name.startswith(longer) or longer.startswith(name) for name in folders)
        if not (slash and alone and all(name.startswith(longer) for name in itertools.chain(kept, below))):
            break
        root = longer
    return root


def _unread(number: int, noun: str) -> str:
    return f"{counted(number, noun)} {'is' if number == 1 else 'are'} not read"


def _notes(others: Sequence[str], root: str, hidden: Counter[str], read: Collection[str]) -> Iterator[str]:
    """What of the members, of which `others` are no images, is not read, and which folders hide how many images.

    read: those of the others that hold labels.
    """
    strays = [name for name in others if _base(name).lower() == LABELS_NAME and name != root + LABELS_NAME]
    by_name = {root + name for name in _BY_NAME}.union(strays, read)
    endings = Counter(_suffix(name) or "without ending" for name in others if name not in by_name)
    if endings:
        kinds = shortened(f"{count} {ending}" for ending, count in sorted(endings.items()))
        yield f"{_unread(endings.total(), 'file')}, as no images of a known kind: {kinds}"
    if by_themselves := hidden.pop("", 0):
        why = "its name begins" if by_themselves == 1 else "their names begin"
        yield f"{_unread(by_themselves, 'image')}, as {why} with a dot"
    if hidden:
        folders = shortened(map(repr, sorted(hidden)))
        why = "it lies" if hidden.total() == 1 else "they lie"
        yield (
            f"{_unread(hidden.total(), 'image')}, as {why} in folders that are hidden or of the system: "
            f"{folders}; rename those that are meant, or delete them"
        )
    if strays:
        yield f"{shortened(map(repr, strays))} is not read: labels are in {LABELS_NAME} at the top of the set"
