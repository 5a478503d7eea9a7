"""Finished pictures, such as grids, as files: PNG, JPEG or PDF, with what made them inside. Torch-free."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dnnlib.atomic import atomic_path, check_destination

RECIPE_KEY = "recipe"  # of the PNG's text chunk
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".pdf": "PDF"}

_EXIF, _COMMENT, _ASCII = 0x8769, 0x9286, b"ASCII\0\0\0"  # EXIF's sub-directory, user comment and its encoding
_MAX_COMMENT = 60_000  # bytes: a JPEG holds all EXIF data in one segment of 64 KiB
_MAX_SIDE = 65_500  # pixels of a JPEG
_INCH = 300  # pixels of a PDF
# JPEG at its best, with colours as sharp as brightness: digits and captions have hard edges. A PDF holds such a JPEG.
_LEAST_LOSS = {"quality": 95, "subsampling": 0}


def check_target(path: Path, overwrite: bool) -> None:
    """ValueError or OSError, before any work, if no picture could be written there."""
    check_destination(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: give a name that ends in {', '.join(FORMATS)}")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: take another name, or --overwrite")


def check_size(path: Path, size: tuple[int, int]) -> None:
    """ValueError if a picture of this width and height, or more, would not fit into a file of this kind."""
    kind = FORMATS[path.suffix.lower()]
    if kind != "PNG" and max(size) > _MAX_SIDE:
        raise ValueError(f"{path} would have {size[0]}x{size[1]} pixels or more, too many for {kind}: take .png")


def save(picture: Image.Image, path: Path, about: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Write an RGB picture, the format by its suffix; it appears whole or not at all, of the same bytes every time.

    about: plain data of its making, such as seeds and recipes. A PNG carries it as its text `recipe`, a JPEG as EXIF's
    user comment, a PDF as its keywords. Returns what the user should know, as sentences. ValueError as `check_size`.
    """
    kind, notes = FORMATS[path.suffix.lower()], tuple[str, ...]()
    check_size(path, picture.size)
    text = "" if about is None else about_text(about)
    if kind == "JPEG" and len(text) > _MAX_COMMENT:
        text, notes = "", (f"{path}: what made it is too long for a JPEG, and is left out; a .png or .pdf holds it",)
    with atomic_path(path) as temporary:
        picture.save(temporary, format=kind, **_options(kind, text, path.stem))
    return notes


def about_text(about: Mapping[str, Any]) -> str:
    """The text that pictures carry of their making, in ASCII."""
    return json.dumps(about, sort_keys=True, allow_nan=False)


def _options(kind: str, about: str, title: str) -> dict[str, Any]:
    """Of Pillow, for one of FORMATS."""
    if kind == "PNG":
        return {"pnginfo": _png_text(about)}
    if kind == "JPEG":
        return {"exif": _exif(about), **_LEAST_LOSS}
    no_dates = {"creationDate": None, "modDate": None}
    return {"title": title, "keywords": about, "resolution": _INCH, **no_dates, **_LEAST_LOSS}


def _png_text(text: str) -> PngInfo:
    info = PngInfo()
    if text:
        info.add_text(RECIPE_KEY, text)
    return info


def _exif(text: str) -> Image.Exif:
    exif = Image.Exif()
    if text:
        exif.get_ifd(_EXIF)[_COMMENT] = _ASCII + text.encode("ascii")
    return exif
