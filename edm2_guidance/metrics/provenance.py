"""What a result says about the images it was computed from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dnnlib.inference import PLAIN
from edm2_guidance.images.members import RECIPE_NAME
from edm2_guidance.images.sources import StoredImages, content_sha256
from edm2_guidance.images.zips import parse_object
from edm2_guidance.metrics import ledger
from edm2_guidance.metrics.reference import Statistics
from edm2_guidance.recipe.prompts import with_few_prompts
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.stored import upgraded

# How each decoder makes 8 bits of its output: part of what a score depends on.
_QUANTISERS = {
    "StandardRGBEncoder": "x * 127.5 + 128, clipped to [0, 255], truncated",
    "StabilityVAEEncoder": "clipped to [0, 1], * 255, truncated",
    "AutoencoderKL": "x * 127.5 + 128, clipped to [0, 255], truncated",
}
_VAES = ("StabilityVAEEncoder", "AutoencoderKL")


def quantiser(encoder: object) -> str | None:
    """The rounding rule of an encoder as recipes describe it; None if unknown."""
    return _QUANTISERS.get(encoder_class(encoder))


def vae_ran(images: Mapping[str, Any]) -> bool:
    """Whether images, as described here, were decoded by a VAE of diffusers in this process."""
    encoder = (images.get("recipe") or {}).get("encoder")
    return images.get("kind") == "generated" and encoder_class(encoder) in _VAES


def encoder_class(encoder: object) -> str:
    """Class of an encoder: {"class": ...} (`Encoder.identity`); "" if unknown. A recipe.json may hold anything."""
    return str(encoder.get("class", "")) if isinstance(encoder, Mapping) else ""


def describe_stored(path: str | Path, source: StoredImages, total: int, seed: int) -> dict[str, Any]:
    """Stored images: where, how many of how many, chosen by which seed, and the recipe that lies with them.

    `content_sha256` is a hash of the images' names, sizes and checksums in a ZIP or .npz, which tells sets apart
    without reading them; None for folders and tars. A recipe.json that is no recipe, or says something in a form that
    no ledger takes, is left out, and `recipe_problem` says so. ValueError: it cannot be read at all.
    """
    path = Path(path)
    archive = source.archive
    data = archive.read(RECIPE_NAME) if archive is not None and RECIPE_NAME in archive else b"{}"
    images = {
        "path": str(path),
        "kind": "folder" if path.is_dir() else path.suffix.lower().lstrip(".") or "file",
        "num_images": source.num_images,
        "total": total,
        "subset_seed": seed if source.num_images < total else None,
        "size": list(source.image_size),
        "content_sha256": content_sha256(source) if archive is None or archive.knows_checksums else None,
    }
    try:
        stored = parse_object(data, "it")
    except ValueError as error:
        return _without(images, RECIPE_NAME, str(error))
    return _with(images, _said(upgraded(stored)), RECIPE_NAME)


def _said(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe.json says that ledgers tell, too."""
    said = {key: stored.get(key) for key in ("seeds", "recipe", "recipe_hash")}
    if isinstance(said["recipe"], Mapping):
        said["recipe"] = with_few_prompts(said["recipe"])
    chosen = {"chosen_by": str(stored["chosen_by"])[:200]} if "chosen_by" in stored else {}
    return {**said, **chosen, **{key: stored[key] for key in ("precision", "form") if key in stored}}


def describe_statistics(statistics: Statistics) -> dict[str, Any]:
    """Images of which only the statistics are there: the file, and what it says of its images."""
    images = {"path": statistics.source, "kind": "statistics", "sha256": statistics.sha256}
    return _with(images, statistics.images, "provenance")


def _with(images: dict[str, Any], claimed: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A description of images with what a file claims of them, unless the ledger could not be read with that in it."""
    described = {**claimed, **images}
    try:
        sample = {"schema": ledger.SCHEMA, "metric": "", "value": 0, **recipe_fields(described)}
        if len(ledger.checked_line(sample)) > ledger.MAX_LINE_BYTES // 4:  # the same may be said of the reference
            raise ValueError("is longer than a ledger takes")
    except ValueError as error:
        return _without(images, where, f"it {error}")
    return described


def _without(images: dict[str, Any], where: str, why: str) -> dict[str, Any]:
    return {**images, "recipe_problem": f"{where} of {images['path']} is not recorded: {why[:200]}"}


def recipe_fields(images: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a ledger line that come from the description of images. ValueError: the recipe is no object."""
    recipe = {} if images.get("recipe") is None else images["recipe"]
    if not isinstance(recipe, Mapping):
        raise ValueError("has a recipe that is no object")
    return {
        "images": {key: value for key, value in images.items() if key not in ("recipe", "recipe_hash")},
        "recipe": images.get("recipe"),
        "recipe_hash": images.get("recipe_hash"),
        "labels": recipe.get("labels"),
        "encoder": recipe.get("encoder"),
        "quantiser": quantiser(recipe.get("encoder")),
    }


def describe_generated(
    recipe: Recipe, seeds: Sequence[int], size: Sequence[int], precision: str | None = None, form: str = PLAIN
) -> dict[str, Any]:
    """Images that were scored as they were made and kept nowhere. seeds: consecutive. precision, form: of networks,

    as recorded: None for the usual float32."""
    return {
        "path": None,
        "kind": "generated",
        "num_images": len(seeds),
        "total": len(seeds),
        "subset_seed": None,
        "size": list(size),
        "seeds": f"{seeds[0]}-{seeds[-1]}",
        **({} if precision is None else {"precision": precision}),
        **({"form": form} if form != PLAIN else {}),
        "recipe": with_few_prompts(recipe.to_json()),
        "recipe_hash": recipe.hash,
    }
