"""What an output says of how it was made, so that it can be made again. Torch-free.

It is read from a ZIP, a folder of PNGs or its `recipe.json`, a picture that carries its recipes (FILE.png; the second
one is FILE.png:2), or a line of a ledger (LEDGER.jsonl:LINE, counted from 1). Nothing of it is run: networks are files,
found again by what they held, and Python code must be given again.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from dnnlib.download import cache_path, cached_as
from dnnlib.places import find_file, is_pipeline, near, python_function
from dnnlib.published import published_as
from dnnlib.regular import open_regular, read_regular, sha256_of
from dnnlib.urls import is_url
from edm2_guidance.images import zips
from edm2_guidance.images.members import RECIPE_NAME
from edm2_guidance.recipe import stored
from edm2_guidance.recipe.files import FileRef, ImageSet, NetworkRef
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.work.identity import differences
from edm2_guidance.work.plan import cut_of, format_seeds, seed_runs

Ref = TypeVar("Ref", NetworkRef, ImageSet)

MAX_BYTES = 1 << 28
MAX_IMAGES = 10**7
_LONGEST = 500  # characters that are shown of what a file says
_SUFFIXES = ("", ".pkl", ".safetensors", ".pt")  # which the names in recipes lack


@dataclass(frozen=True)
class Made:
    """How images were made.

    Attributes:
        name: What was read, as it was named.
        folder: Where that lies.
        recipe: Its files have the names that they had, and the hashes.
        seeds: None if nothing says which.
        batch: Images at a time; None if nothing says how many.
        shard_size: Images per shard, likewise.
        reference: What they were scored against, of a ledger's line.
        metric: By what, likewise.
        precision: In which networks computed, as recorded; None if that says nothing.
    """

    name: str
    folder: Path
    recipe: Recipe
    seeds: tuple[int, ...] | None = None
    batch: int | None = None
    shard_size: int | None = None
    reference: str | None = None
    metric: str | None = None
    precision: str | None = None

    def file(self, ref: Ref, option: str) -> Ref:
        """The file with its place: where it was found, beside what was read, or in the cache.

        ValueError, naming the option that gives the file anew, if its content is at none of these, and for Python code.
        """
        recorded = (ref.found or ref.source)[:_LONGEST]
        if python_function(recorded) is not None:
            raise ValueError(f"{self.name}: a recipe runs no code, such as {recorded}: give it, {option}={recorded}")
        for name in self._named(recorded):
            if is_pipeline(name):  # of several files: whether they are the same shows when they are opened
                return replace(ref, source=name)
        others = []
        for path, source in self._places(ref).items():
            digest = sha256_of(path) if isinstance(ref, NetworkRef) else None
            if digest is None or ref.sha256 in (None, digest):
                return replace(ref, source=source)
            others.append(f"{source} is another file than that of {self.name}, its SHA-256 {digest}, not {ref.sha256}")
        if is_url(published_as(recorded)[0]) and "?..." not in recorded:
            return replace(ref, source=recorded)
        missing = f"{self.name}: its file {recorded} is neither there, nor beside it, nor in the cache{near(recorded)}"
        raise ValueError(f"{others[0] if others else missing}: {option}=PATH|URL gives it anew")

    def base(self) -> ImageSet | Recipe | None:
        """The images that are enlarged, their files as `file`."""
        base: ImageSet | Recipe | None = _with_files(self.recipe.base, lambda ref, _: self.file(ref, "--upsample"))
        return base

    def changes(self, recipe: Recipe, seeds: Sequence[int] | None) -> list[str]:
        """In what an opened recipe, and the seeds if they are known, differ from what was read: there | now."""
        same = recipe.hash == self.recipe.hash
        before, now = ({}, {}) if same else (self.recipe.to_json(), recipe.to_json())
        if self.seeds is not None and seeds is not None:
            before["seeds"], now["seeds"] = format_seeds(self.seeds), format_seeds(tuple(seeds))
        return differences(before, now)

    def _named(self, recorded: str) -> list[str]:
        """As it was found, and beside what was read, or in the folders above it."""
        return [recorded, *(str(folder / recorded) for folder in (self.folder, *self.folder.absolute().parents))]

    def _places(self, ref: FileRef) -> dict[Path, str]:
        """Files that may be the one, and how one would name them."""
        there, above = Path.is_file if isinstance(ref, NetworkRef) else Path.exists, self.folder.absolute()
        found: dict[Path, str] = {}
        for name in [ref.found] if ref.found is not None else [ref.source + suffix for suffix in _SUFFIXES]:
            url, inside = published_as(name)[0], re.split(r"[?#]", name)[0]
            beside = [self.folder / inside.rpartition("/")[2], *(folder / inside for folder in (above, *above.parents))]
            with suppress(OSError):  # a text that no file can have for a name
                recorded = (cache_path(url) if is_url(url) else find_file(name)).absolute()
                places = {recorded: name} | {path.absolute(): str(path) for path in beside} | {recorded: name}
                found |= {path: as_named for path, as_named in places.items() if there(path)}
        return found | {path: str(path) for path in cached_as(ref.name) if path not in found}


def read_recipe(source: str | os.PathLike[str]) -> Recipe:
    """The recipe by which a ZIP, a folder, a picture or a line of a ledger was made, or that a recipe.json holds.

    source: a path; of a ledger with the number of the line, "LEDGER.jsonl:3", counted from 1. Networks are found where
    they were, beside the file, or in the cache, by their hashes, which are compared again when the recipe is opened.
    What is not found keeps its bare name, and so does Python code, which must be given again:
    `dataclasses.replace(recipe, net=...)`.

    Raises ValueError for what says no recipe, OSError for what cannot be read.
    """
    made = read_made(source)

    def place(ref: Any, option: str) -> Any:
        try:
            return made.file(ref, option)
        except ValueError:
            return replace(ref, source=ref.name)  # of FILE.py:function, too, no name by which it would run

    recipe: Recipe = _with_files(made.recipe, place)
    return recipe


def read_made(source: str | os.PathLike[str]) -> Made:
    """How something was made: see the head of this module. Raises as `read_recipe`."""
    name = os.fspath(source)
    path, number = _numbered(name)
    if path.is_dir():
        path /= RECIPE_NAME
    content = stored.upgraded(_content(path, number))
    data = content.get("recipe", content)  # a recipe may be all that a file holds
    if not isinstance(data, Mapping):
        raise ValueError(f"{name} says no recipe: its images are of another origin")
    try:
        recipe = stored.read_recipe(data)
    except ValueError as error:
        raise ValueError(f"{name}: {str(error)[:_LONGEST]}") from error
    images, run, reference = (_object(content.get(key)) for key in ("images", "run", "reference"))
    seeds = _seeds(content.get("seeds", content.get("asked", images.get("seeds"))), name)
    batches = content.get("batches")
    size = content.get("batch", run.get("batch"))
    batch, shard_size = (batches and seeds and cut_of(batches, len(seeds))) or (size, None)
    return Made(
        name, path.parent, recipe, seeds, _if(int, batch), shard_size,
        _if(str, reference.get("source")), _if(str, content.get("metric")),
        _if(str, content.get("precision", images.get("precision"))),
    )  # fmt: skip


def _numbered(name: str) -> tuple[Path, int | None]:
    """The file, and the number behind it: FILE:NUMBER."""
    found = re.fullmatch(r"(.+):(\d{1,9})", name)
    if found is None or Path(name).exists():
        return Path(name).expanduser(), None
    return Path(found[1]).expanduser(), int(found[2])


def _content(path: Path, number: int | None) -> dict[str, Any]:
    """What the file says of how it was made. ValueError if it says nothing."""
    with open_regular(path) as file:
        head = file.read(8)
    if head.startswith(b"\x89PNG"):
        return _of_picture(path, number)
    if head.startswith(b"PK"):
        found = zips.read_recipe(path)
        if number is not None:
            raise ValueError(f"{path} is no ledger: leave out the number")
        if found is None:
            raise ValueError(f"{path} holds no {RECIPE_NAME}")
        return found
    if head.startswith((b"\xff\xd8", b"%PDF")):
        raise ValueError(f"{path}: of pictures a PNG alone is read: save the grid as .png")
    data = read_regular(path, MAX_BYTES)
    if number is None:
        if path.suffix == ".jsonl":
            raise ValueError(f"{path} has a line for each score: say which, {path}:1 for the first")
        return zips.parse_object(data, str(path))
    lines = data.split(b"\n")
    if not 1 <= number <= len(lines) or not lines[number - 1].strip():
        raise ValueError(f"{path} has no line {number}")
    return zips.parse_object(lines[number - 1], f"{path}, line {number},")


def _of_picture(path: Path, number: int | None) -> dict[str, Any]:
    from edm2_guidance.images.decode import text_in_png
    from edm2_guidance.images.picture_file import RECIPE_KEY

    text = text_in_png(path, RECIPE_KEY)
    if text is None:
        raise ValueError(f"{path} carries no recipe: name its ZIP, or the {RECIPE_NAME} of its folder")
    content = zips.parse_object(text.encode(), f"the text of {path}")
    recipes = content.get("recipes")
    if not isinstance(recipes, list) or not recipes:
        raise ValueError(f"{path} carries no recipe of this program")
    if number is None and len(recipes) > 1:
        raise ValueError(f"{path} carries {len(recipes)} recipes: say which, {path}:1 for the first")
    number = 1 if number is None else number
    if not 1 <= number <= len(recipes):
        raise ValueError(f"{path} carries no recipe number {number}, but {len(recipes)}")
    return {"recipe": recipes[number - 1], **{key: content.get(key) for key in ("seeds", "precision")}}


def _with_files(recipe: Any, change: Callable[[Any, str], Any]) -> Any:
    """A recipe, or what has the place of one, with its files as `change` gives them: called with the file's option."""
    if not isinstance(recipe, Recipe):
        return recipe if recipe is None else change(recipe, "--upsample")
    guides = tuple(
        guide if guide.net is None else replace(guide, net=change(guide.net, guide.option)) for guide in recipe.guides
    )
    return replace(recipe, net=change(recipe.net, "--net"), guides=guides, base=_with_files(recipe.base, change))


def _seeds(said: Any, name: str) -> tuple[int, ...] | None:
    """Seeds as a list, or as text; None for none. ValueError for what is no such thing."""
    if said is None:
        return None
    listed = said if isinstance(said, list) else []
    runs = seed_runs(said) if isinstance(said, str) else [range(n, n + 1) for n in listed if type(n) is int and n >= 0]
    if not runs or len(runs) < len(listed) or sum(map(len, runs)) > MAX_IMAGES:
        raise ValueError(f"{name}: its seeds are no list that this program makes")
    return tuple(seed for run in runs for seed in run)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _if(kind: type[Any], value: Any) -> Any:
    """A value out of a file if it is of this type, and no empty one; else None."""
    return value if type(value) is kind and value else None
