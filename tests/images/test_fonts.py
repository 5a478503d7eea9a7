"""Captions in scripts that Pillow's own font lacks: drawn by an installed font that has them, or said."""

import shutil
import warnings
from pathlib import Path

import pytest
from matplotlib import get_data_path

from edm2_guidance.images import fonts
from edm2_guidance.images.fonts import Typeface, typeface_for

DEJAVU = Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")  # Greek and Cyrillic, no Chinese


@pytest.fixture
def one_font(tmp_path, monkeypatch):
    """A machine with this font, a broken one and one of last resort."""
    shutil.copy(DEJAVU, tmp_path / "DejaVuSans.ttf")
    shutil.copy(DEJAVU.with_name("LastResortHE-Regular.ttf"), tmp_path)
    (tmp_path / "ABrokenSans.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(fonts.importlib.util, "find_spec", lambda name: None)
    return tmp_path / "DejaVuSans.ttf"


def test_latin_captions_stay_in_the_font_that_comes_with_pillow(one_font):
    assert (
        typeface_for(["w = 1.5, \N{GREEK SMALL LETTER SIGMA} \N{LESS-THAN OR EQUAL TO} 3", "caf\u00e9"]) == Typeface()
    )


def test_another_script_is_drawn_by_a_font_that_has_it(one_font):
    text = "\u043a\u043e\u0442, caf\u00e9"  # Russian
    face = typeface_for(["class 3", text])
    assert face.file == one_font
    assert face.spell(text) == text
    shapes = {fonts._shape(face.at(20), char) for char in text[:3]}
    assert len(shapes) == 3, "no boxes"
    assert fonts._shape(face.at(20), fonts._NO_CHARACTER) not in shapes


def test_what_no_font_has_is_told(one_font):
    text = "\u732b \u043a"  # Chinese and Russian
    with pytest.warns(RuntimeWarning, match=r"no font here has \u732b \(CJK\).*fonts-noto-cjk"):
        assert typeface_for([text]).spell(text) == "? \u043a"


def test_without_any_font_it_is_told_too(monkeypatch):
    monkeypatch.setattr(fonts, "FOLDERS", ())
    monkeypatch.setattr(fonts.importlib.util, "find_spec", lambda name: None)
    with pytest.warns(RuntimeWarning, match="CYRILLIC"):
        assert typeface_for(["\u043a"]) == Typeface()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert typeface_for(["plain?"]) == Typeface()
