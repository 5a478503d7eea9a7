"""Finished pictures as PNG, JPEG and PDF: pixels, what made them, and the same bytes every time."""

import json
import re

import numpy as np
import pytest
from PIL import Image, PdfParser

from edm2_guidance.images import picture_file
from tests.pictures import picture

ABOUT = {"seeds": [3], "recipes": [{"labels": "random", "name": "\u03c3"}]}


def flat(size=(40, 30)):
    """Two halves with a hard edge of colour between them."""
    image = Image.new("RGB", size, (250, 20, 20))
    image.paste((20, 20, 250), (size[0] // 2, 0, *size))
    return image


@pytest.mark.parametrize("suffix", picture_file.FORMATS)
def test_bytes_are_the_same_every_time(tmp_path, suffix):
    first, second = tmp_path / f"a{suffix}", tmp_path / "b" / f"a{suffix}"
    second.parent.mkdir()
    for path in (first, second):
        assert picture_file.save(flat(), path, ABOUT) == ()
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, "b"]


def test_what_made_it_is_inside(tmp_path):
    for name in ("a.png", "a.jpg", "a.PDF"):
        picture_file.save(flat(), tmp_path / name, ABOUT)
    assert json.loads(Image.open(tmp_path / "a.png").text["recipe"]) == ABOUT
    comment = Image.open(tmp_path / "a.jpg").getexif().get_ifd(0x8769)[0x9286]
    assert json.loads(comment.removeprefix(b"ASCII\0\0\0")) == ABOUT
    with PdfParser.PdfParser(str(tmp_path / "a.PDF")) as pdf:
        assert json.loads(pdf.info.Keywords) == ABOUT
        assert pdf.info.Title == "a"
    picture_file.save(flat(), tmp_path / "plain.jpg")
    assert not Image.open(tmp_path / "plain.jpg").getexif().get_ifd(0x8769)


def test_pixels_are_kept_or_nearly(tmp_path):
    image = flat()
    for name in ("a.png", "a.jpg", "a.pdf"):
        picture_file.save(image, tmp_path / name)
    assert (np.asarray(Image.open(tmp_path / "a.png")) == np.asarray(image)).all()
    inside = re.search(rb"stream\r?\n(\xff\xd8.*?\xff\xd9)", (tmp_path / "a.pdf").read_bytes(), re.S)
    (tmp_path / "inside.jpg").write_bytes(inside[1])
    for name in ("a.jpg", "inside.jpg"):
        found = np.asarray(Image.open(tmp_path / name)).astype(int)
        assert abs(found - np.asarray(image)).max() <= 8, "colours are not blurred over the edge"
    assert b"/MediaBox [ 0 0 9.6 7.2 ]" in (tmp_path / "a.pdf").read_bytes(), "300 pixels an inch"


def test_what_a_jpeg_cannot_hold_is_said(tmp_path):
    (note,) = picture_file.save(picture(0), tmp_path / "a.jpg", {"recipes": ["x" * 70_000]})
    assert "too long for a JPEG, and is left out; a .png or .pdf holds it" in note
    assert picture_file.save(picture(0), tmp_path / "a.pdf", {"recipes": ["x" * 70_000]}) == ()
    with pytest.raises(ValueError, match=r"would have 70000x1 pixels or more, too many for JPEG: take \.png"):
        picture_file.save(Image.new("RGB", (70_000, 1)), tmp_path / "b.jpg")
    assert not (tmp_path / "b.jpg").exists()


def test_targets(tmp_path):
    with pytest.raises(ValueError, match=r"a\.gif: give a name that ends in \.png, \.jpg, \.jpeg, \.pdf"):
        picture_file.check_target(tmp_path / "a.gif", False)
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match=r"a\.png exists: take another name, or --overwrite"):
        picture_file.check_target(tmp_path / "a.png", False)
    picture_file.check_target(tmp_path / "a.png", True)
