"""A folder of finished pictures, each with what determines it inside, so that none is taken for another. No torch."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from dnnlib.atomic import check_destination
from edm2_guidance.images.decode import text_in_png
from edm2_guidance.images.picture_file import RECIPE_KEY, about_text, save
from edm2_guidance.images.zips import parse_object
from edm2_guidance.recipe.stored import read_recipe


class FigureFolder:
    """PNGs by name, with plain data about their making in a text chunk.

    overwrite: make pictures again that are there. Raises OSError if files cannot be written to the folder.
    """

    def __init__(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        self.folder = Path(folder)
        self.overwrite = overwrite
        check_destination(self.folder / "picture.png")

    def has(self, name: str, content: Mapping[str, Any]) -> bool:
        """Whether this picture need not be made. ValueError if another one, or anything else, is under its name."""
        path = self.folder / name
        if self.overwrite or not path.exists():
            return False
        found = text_in_png(path, RECIPE_KEY)
        if found is not None and _is_same(found, content):
            return True
        origin = "of unknown origin" if found is None else "of other networks or settings"
        raise ValueError(f"{path} is {origin}: take another --results-dir, or --overwrite")

    def save(self, name: str, picture: Image.Image, content: Mapping[str, Any]) -> None:
        """Write it as one whole, with the data that `has` compares."""
        save(picture, self.folder / name, content)


def _is_same(text: str, content: Mapping[str, Any]) -> bool:
    """Whether a picture's text says what determines it as `content` does: recipes of any format, files anywhere."""
    if text == about_text(content):
        return True
    try:
        both = parse_object(text.encode(), "the picture's text"), content
        theirs, ours = ({**each, "recipes": [read_recipe(r).hash for r in each["recipes"]]} for each in both)
    except (ValueError, KeyError, TypeError):
        return False
    return about_text(theirs) == about_text(ours)
