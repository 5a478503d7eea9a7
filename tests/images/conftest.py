"""Image sets made on the spot, for the tests of this folder."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def picture(number: int, size: int = 8, mode: str = "RGB") -> Image.Image:
    """A picture that differs from number to number."""
    pixels = np.random.RandomState(number).randint(0, 256, [size, size, 3], dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def png(number: int, size: int = 8, mode: str = "RGB") -> bytes:
    """The bytes of `picture` as a PNG."""
    buffer = io.BytesIO()
    picture(number, size, mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def make_zip(tmp_path: Path) -> Callable[..., Path]:
    """Write members {name: bytes} and labels into a stored ZIP; returns its path."""

    def make(members: dict[str, bytes], labels: Any = ..., name: str = "set.zip", **kwargs: Any) -> Path:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", **kwargs) as file:
            for member, data in members.items():
                file.writestr(member, data)
            if labels is not ...:
                file.writestr("dataset.json", json.dumps({"labels": labels}))
        return path

    return make


@pytest.fixture
def make_png() -> Callable[..., bytes]:
    return png


@pytest.fixture
def make_picture() -> Callable[..., Image.Image]:
    return picture
