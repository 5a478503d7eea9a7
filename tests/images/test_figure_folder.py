"""Finished pictures are kept; others under their names are never taken for them."""

import os

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from edm2_guidance.images.figure_folder import FigureFolder
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.recipe import Recipe

CONTENT = {"recipes": [{"labels": 0, "name": "caf\N{LATIN SMALL LETTER E WITH ACUTE}"}], "seeds": (1, 2)}
RECIPE = Recipe(NetworkRef("main.pkl", "a" * 64))
FORMAT_1 = {
    "net": {"source": "main", "sha256": "a" * 64}, "guides": [], "labels": "random", "seed_rule": "edm2",
    "noise_device": "cpu", "encoder": {},
    "sampler": {
        "num_steps": 32, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0, "S_churn": 0.0, "S_min": 0.0,
        "S_max": "inf", "S_noise": 1.0, "dtype": "float32",
    },
}  # fmt: skip


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


def test_pictures_of_the_version_before_are_kept(tmp_path):
    folder, picture = FigureFolder(tmp_path), Image.new("RGB", (2, 2))
    folder.save("a.png", picture, {"seeds": [1], "recipes": [FORMAT_1]})
    folder.save("b.png", picture, {"seeds": [1], "recipes": ["another program's"]})
    now = {"seeds": [1], "recipes": [RECIPE.to_json()]}
    moved = Recipe(NetworkRef("elsewhere/main.pkl", "a" * 64, "https://host/main.pkl"))
    assert folder.has("a.png", now)
    assert folder.has("a.png", {**now, "recipes": [moved.to_json()]})
    for name, other in (("a.png", {**now, "seeds": [2]}), ("b.png", now)):
        with pytest.raises(ValueError, match="of other networks or settings"):
            folder.has(name, other)
