from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edm2_guidance.images import grid
from edm2_guidance.images.fonts import Typeface
from edm2_guidance.images.grid import compose_grid


def tile(number: int, width: int = 16, height: int | None = None) -> Image.Image:
    """A dark picture of random pixels, so that captions and paper stand out from it."""
    shape = [width if height is None else height, width, 3]
    return Image.fromarray(np.random.RandomState(number).randint(0, 30, shape, dtype=np.uint8))


def rows_of(rows: int, columns: int, width: int = 16) -> list[list[Image.Image]]:
    return [[tile(i * columns + j, width) for j in range(columns)] for i in range(rows)]


def places(picture: Image.Image, part: Image.Image) -> list[tuple[int, int]]:
    """Where (x, y) the pixels of `part` stand in the picture, exactly."""
    whole, wanted = np.array(picture), np.array(part)
    height, width = wanted.shape[:2]
    candidates = np.argwhere((whole == wanted[0, 0]).all(axis=2))
    return [(int(x), int(y)) for y, x in candidates if np.array_equal(whole[y : y + height, x : x + width], wanted)]


def enlarged(image: Image.Image, factor: int) -> Image.Image:
    pixels = np.array(image)
    return Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1))


def assert_white_border(picture: Image.Image) -> None:
    pixels = np.array(picture)
    for edge in (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]):
        assert (edge == 255).all()


def test_every_tile_stands_at_its_row_and_column() -> None:
    tiles = rows_of(3, 4)
    captions = ["Unguided", "Autoguidance, w = 1.5, by a network trained for a shorter time", "CFG"]
    columns = ["w = 1", "a rather long caption above", "w = 2", "w = 2.5"]
    picture = compose_grid(tiles, captions, columns, "Four weights")
    found = [[places(picture, enlarged(image, 4)) for image in row] for row in tiles]
    assert all(len(place) == 1 for row in found for place in row)
    x = [place[0][0] for place in found[0]]
    y = [row[0][0][1] for row in found]
    assert [[place[0] for place in row] for row in found] == [[(a, b) for a in x] for b in y]
    assert np.diff(x).tolist() == [64 + 8] * 3
    assert np.diff(y).tolist() == [64 + 8] * 2
    assert_white_border(picture)


def test_captions_stand_beside_and_above() -> None:
    tiles = rows_of(2, 3)
    plain = compose_grid(tiles)
    x0, y0 = places(plain, enlarged(tiles[0][0], 4))[0]
    assert x0 == y0
    for captions, title in [((["one", "two"], []), None), (([], ["a", "b", "c"]), None), (([], []), "title")]:
        picture = compose_grid(tiles, *captions, title=title)
        x, y = places(picture, enlarged(tiles[0][0], 4))[0]
        ink = np.argwhere((np.array(picture) < 200).all(axis=2))
        left, above = (ink[:, 1] < x - 2).any(), (ink[:, 0] < y - 2).any()
        assert (left, above) == (bool(captions[0]), not captions[0])
        assert (x > x0, y > y0) == (left, above)
        assert_white_border(picture)


def test_each_row_has_its_own_caption() -> None:
    """The strip left of a row is the same whatever stands beside the other rows."""
    tiles = rows_of(2, 2)
    a, b = (compose_grid(tiles, ["the widest row", second]) for second in ("other row", "third row"))
    assert a.size == b.size
    y = places(a, enlarged(tiles[1][0], 4))[0][1]
    difference = np.argwhere((np.array(a) != np.array(b)).any(axis=2))
    assert difference[:, 0].min() >= y
    assert len(difference) > 0


def test_captions_higher_than_their_tiles_do_not_run_into_each_other() -> None:
    long = "a caption of so many words that it takes more lines than fit beside a tile of 64 pixels, " * 2
    tiles = rows_of(2, 1)
    picture = compose_grid(tiles, [long, long])
    y = [places(picture, enlarged(row[0], 4))[0][1] for row in tiles]
    lines = (np.array(picture)[:, :150] < 200).any(axis=(1, 2))
    between = lines[y[0] + 32 : y[1] + 32]
    assert (~between).nonzero()[0].size > 0
    assert max(map(len, "".join("x" if ink else " " for ink in between).split("x"))) >= 8  # a gap, not a line space
    assert_white_border(picture)


@pytest.mark.parametrize(("width", "expected"), [(1, 64), (8, 64), (16, 64), (28, 84), (63, 126), (64, 64)])
def test_small_tiles_grow_by_whole_factors(width: int, expected: int) -> None:
    image = tile(0, width)
    assert len(places(compose_grid([[image]]), enlarged(image, expected // width))) == 1


def test_tile_size() -> None:
    image = tile(0, 100)
    assert len(places(compose_grid([[image]], tile_size=250), enlarged(image, 2))) == 1
    assert len(places(compose_grid([[image]], tile_size=100), image)) == 1
    reduced = image.resize((50, 50), Image.Resampling.LANCZOS)
    assert len(places(compose_grid([[image]], tile_size=50), reduced)) == 1
    wide = tile(0, 100, 40)
    reduced = wide.resize((50, 20), Image.Resampling.LANCZOS)
    assert len(places(compose_grid([[wide]], tile_size=50), reduced)) == 1
    grey = Image.new("L", (64, 64), 7)
    assert len(places(compose_grid([[grey]]), grey.convert("RGB"))) > 0
    with pytest.raises(ValueError, match="0 pixels"):
        compose_grid([[image]], tile_size=0)


def test_blocks_of_tiles_in_one_cell() -> None:
    blocks = [[rows_of(2, 3), rows_of(2, 3)[::-1]]]
    picture = compose_grid(blocks, ["method"], ["w = 1", "w = 2"])
    found = [[places(picture, enlarged(image, 4)) for image in row] for row in blocks[0][0]]
    assert all(len(place) == 2 for row in found for place in row)
    first = [[min(place) for place in row] for row in found]
    assert np.diff([place[0] for place in first[0]]).tolist() == [66, 66]
    assert first[1][0][1] - first[0][0][1] == 66
    assert_white_border(picture)


@pytest.mark.parametrize("size", [15, 30])
def test_long_captions_are_wrapped(size: int) -> None:
    font = Typeface().at(size)
    text = "Guidance in the limited interval (0.28, 5.42], supercalifragilisticexpialidocious and then some"
    for limit in (60, 150, 400):
        lines = grid._wrap(text, font, limit).splitlines()
        assert max(font.getlength(line) for line in lines) <= limit
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert grid._wrap(text, font, 10**6) == text
    assert grid._wrap("two\nlines", font, 10**6) == "two\nlines"
    assert grid._wrap("", font, 100) == ""
    assert grid._wrap("ww", font, 1) == "w\nw"


def test_captions_keep_to_what_the_font_can_draw() -> None:
    drawn = "\N{GREEK SMALL LETTER SIGMA} \N{MULTIPLICATION SIGN} \N{EM DASH} caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    assert Typeface().spell(drawn) == "sigma x - cafe"
    assert Typeface().spell("\N{SNOWMAN}") == "?"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "at least one"),
        (([[]],), "at least one"),
        (([[[]]],), "at least one"),
        (([[tile(0), tile(1)], [tile(2)]],), "row 1 of the grid has 1 cells"),
        (([[tile(0), tile(1, 8)]],), r"row 0, column 1 .* \(8, 8\), others \(16, 16\)"),
        (([[[[tile(0), tile(1)]], [[tile(0)], [tile(1)]]]],), "not a block of 1x2"),
        (([[[[tile(0), tile(1)], [tile(2)]]]],), "not a block"),
        (([[tile(0)]], ["a", "b"]), "2 row captions for 1 rows"),
        (([[tile(0)]], [], ["a", "b"]), "2 column captions for 1 columns"),
    ],
)
def test_what_does_not_fit_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose_grid(*arguments)


def test_a_saved_grid_is_repeatable(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        compose_grid(rows_of(2, 2), ["a", "b"], ["c", "d"], "t").save(tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
