"""Finished pictures are kept; others under their names are never taken for them."""

import os

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from edm2_guidance.work.figure_folder import FigureFolder

CONTENT = {"recipes": [{"labels": 0, "name": "caf\N{LATIN SMALL LETTER E WITH ACUTE}"}], "seeds": (1, 2)}


def test_what_was_saved_is_there(tmp_path):
    folder = FigureFolder(tmp_path / "new")
    assert not folder.has("a.png", CONTENT)
    picture = Image.new("RGB", (9, 7), (1, 2, 3))
    folder.save("a.png", picture, CONTENT)
    assert folder.has("a.png", CONTENT)
    assert not folder.has("b.png", CONTENT)
    with Image.open(tmp_path / "new" / "a.png") as found:
        assert found.tobytes() == picture.tobytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_another_picture_under_the_name(tmp_path):
    FigureFolder(tmp_path).save("a.png", Image.new("RGB", (9, 7)), CONTENT)
    Image.new("RGB", (9, 7)).save(tmp_path / "plain.png")
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    folder = FigureFolder(tmp_path)
    with pytest.raises(ValueError, match=r"a\.png is of other networks or settings: .*--overwrite"):
        folder.has("a.png", {**CONTENT, "seeds": (1, 3)})
    for name in ("plain.png", "damaged.png"):
        with pytest.raises(ValueError, match="of unknown origin"):
            folder.has(name, CONTENT)
    again = FigureFolder(tmp_path, overwrite=True)
    assert not any(again.has(name, CONTENT) for name in ("a.png", "plain.png", "damaged.png"))


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="is a file"):
        FigureFolder(tmp_path / "file")


def test_a_text_of_any_size_or_another_file_is_of_unknown_origin(tmp_path):
    info = PngInfo()
    info.add_text("recipe", "x" * (2 << 20), zip=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    os.mkfifo(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        with pytest.raises(ValueError, match="of unknown origin"):
            FigureFolder(tmp_path).has(name, {})
