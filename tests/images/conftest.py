"""Image sets made on the spot, for the tests of this folder."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.pictures import encoded, picture


def png(number: int, size: int = 8, mode: str = "RGB") -> bytes:
    """The bytes of `picture` as a PNG."""
    return encoded(picture(number, size, mode))


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
