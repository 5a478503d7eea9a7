"""Contact sheets: which images they show, where, and how large; read from their pixels."""

import json

import numpy as np
import pytest
from PIL import Image

from edm2_guidance.images.contact_sheet import ContactSheet, captioned_sheet
from edm2_guidance.recipe.class_names import ClassName
from tests.pictures import write_set


def colour(number):
    return (40 + 10 * number, 255 - 10 * number, 7)


def box(sheet, number):
    """(left, top, width, height) of an image of that colour on the sheet; None if it is not there."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour(number)).all(axis=2))
    if not len(rows):
        return None
    left, top = columns.min(), rows.min()
    assert len(rows) == (columns.max() - left + 1) * (rows.max() - top + 1), "one rectangle"
    return int(left), int(top), int(columns.max() - left + 1), int(rows.max() - top + 1)


def shown(sheet, count=20):
    """Numbers of the images on the sheet, row by row."""
    found = {number: box(sheet, number) for number in range(count)}
    return sorted((n for n, place in found.items() if place), key=lambda n: (found[n][1], found[n][0]))


@pytest.fixture
def flat(tmp_path):
    """A ZIP of twelve images of 4x4 pixels, each of its colour, classes 0, 1, 2, 0, ..."""
    images = [np.full([4, 4, 3], colour(number), dtype=np.uint8) for number in range(12)]
    return write_set(tmp_path / "set.zip", images, [number % 3 for number in range(12)])


def test_the_first_images_in_rows(flat):
    told = []
    sheet = ContactSheet(flat, num=5, columns=3, tile=22).draw(told.append)
    assert shown(sheet) == [0, 1, 2, 3, 4]
    first, second, fourth = (box(sheet, number) for number in (0, 1, 3))
    assert first[2:] == (20, 20), "enlarged by a whole factor, no more than asked for"
    assert (second[1], fourth[0]) == (first[1], first[0])
    assert second[0] >= first[0] + 20
    assert fourth[1] >= first[1] + 20
    assert told == [1] * 5


def test_images_by_chance_are_those_of_the_seed(flat):
    sheets = [shown(ContactSheet(flat, num=4, columns=2, seed=seed).draw()) for seed in (0, 0, 1)]
    assert sheets[0] == sheets[1] == sorted(sheets[0])
    assert len(sheets[0]) == 4
    assert sheets[2] != sheets[0]


def test_a_row_per_class(flat):
    sheet = ContactSheet(flat, columns=3, classes=[])
    drawn = sheet.draw()
    assert shown(drawn) == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert box(drawn, 0)[0] == box(drawn, 1)[0] == box(drawn, 2)[0] > 40, "captions stand to the left"
    assert shown(ContactSheet(flat, columns=9, classes=[2, 0]).draw()) == [2, 5, 8, 11, 0, 3, 6, 9]
    by_chance = shown(ContactSheet(flat, columns=2, classes=[1], seed=3).draw())
    assert len(by_chance) == 2
    assert set(by_chance) <= {1, 4, 7, 10}


def test_images_of_any_size_and_kind_stand_in_equal_fields(tmp_path):
    for name, size, mode in (("a", (40, 20), "RGB"), ("b", (10, 30), "RGB"), ("c", (200, 100), "RGB")):
        Image.new(mode, size, colour("abc".index(name))).save(tmp_path / f"{name}.png")
    Image.new("L", (8, 8), 99).save(tmp_path / "d.png")
    sheet = ContactSheet(tmp_path, columns=2, tile=40).draw()
    assert [box(sheet, number)[2:] for number in range(3)] == [(40, 20), (10, 30), (40, 20)]
    (left, top, *_), (left_b, top_b, *_) = box(sheet, 0), box(sheet, 1)
    assert top - 10 == top_b - 5, "in the middle of fields of 40x40"
    assert box(sheet, 2)[0] == left
    assert left_b - 15 >= left + 40
    grey = (np.asarray(sheet) == 99).all(axis=2)
    assert grey.sum() == 40 * 40, "grey images too"


def test_folders_are_classes_with_names(tmp_path):
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), colour(number)).save(tmp_path / name / "1.png")
    sheet = ContactSheet(tmp_path, classes=[ClassName("dog")])
    assert sheet.num_images == 1
    assert shown(sheet.draw()) == [1]
    with pytest.raises(ValueError, match="no class of that name"):
        ContactSheet(tmp_path, classes=[ClassName("horse")])


def test_what_cannot_be_shown_is_refused_first(tmp_path, flat):
    with pytest.raises(ValueError, match="has no class names, such as cat: give numbers from 0 to 2"):
        ContactSheet(flat, classes=[ClassName("cat")])
    with pytest.raises(ValueError, match="no image of class 7; its classes are up to 2"):
        ContactSheet(flat, classes=[7])
    with pytest.raises(ValueError, match="has no classes: leave out --classes"):
        ContactSheet(write_set(tmp_path / "plain.zip", [np.zeros([4, 4, 3], np.uint8)]), classes=[])
    with pytest.raises(ValueError, match="holds arrays, no image files"):
        ContactSheet(write_set(tmp_path / "latents.zip", [np.zeros([8, 2, 2], np.float32)]))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (tmp_path / "bad" / "dataset.json").write_text(json.dumps({"labels": None}))
    with pytest.raises(ValueError, match=r"a\.png"):
        ContactSheet(tmp_path / "bad").draw()


def test_a_captioned_sheet_has_a_line_for_every_row_of_a_group():
    def pictures(*numbers):
        return [(Image.fromarray(np.full([4, 4, 3], colour(n), np.uint8)), f"{n}.0\nseed {n}") for n in numbers]

    sheet = captioned_sheet({"best": pictures(3), "worst": pictures(9, 8, 7)}, columns=2, tile=32)
    boxes = {number: box(sheet, number) for number in (3, 9, 8, 7)}
    assert {found[2:] for found in boxes.values()} == {(32, 32)}
    assert [boxes[n][0] == boxes[3][0] for n in (9, 8, 7)] == [True, False, True]
    tops = [boxes[n][1] for n in (3, 9, 8, 7)]
    assert tops[0] < tops[1] == tops[2] < tops[3]
    below = np.asarray(sheet)[boxes[9][1] + 33 : boxes[7][1], boxes[9][0] : boxes[9][0] + 32]
    assert (below < 200).any(), "the text stands below its picture"
    with pytest.raises(ValueError, match="a sheet without images: ask for 1 or more"):
        captioned_sheet({})
    with pytest.raises(ValueError, match="a sheet of 10,001 images: ask for 10,000 or fewer"):
        captioned_sheet({"best": pictures(1) * 10_001})
