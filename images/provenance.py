"""The recipe beside a folder of images, so that no folder silently holds images of two recipes. No torch here."""

import json
import os
from pathlib import Path

from dnnlib.util import atomic_path
from images.recipe import Recipe
from images.shards import differences
from images.zips import RECIPE_NAME, json_bytes


def claim_folder(folder: str | os.PathLike[str], recipe: Recipe, *, replace: bool = False) -> None:
    """Write recipe.json into a folder of images, making the folder if need be.

    One of the same recipe is left alone, one of another recipe only replaced if `replace` says so: else ValueError
    with the differences.
    """
    path = Path(folder) / RECIPE_NAME
    wanted = {"format": 1, "recipe": recipe.to_json(), "recipe_hash": recipe.hash}
    if path.exists() and not replace:
        try:
            found = dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} is not readable as a recipe ({error}): take another folder, or --overwrite"
            ) from error
        if found.get("recipe_hash") == wanted["recipe_hash"]:
            return
        lines = "\n".join(differences(found, wanted))
        raise ValueError(
            f"{folder} holds images of another recipe: take another folder, or --overwrite. There | asked now:\n{lines}"
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(json_bytes(wanted))
