"""Which folders are classes, and that none of them is lost or renumbered without a word."""

import re
from collections.abc import Sequence

import pytest

from edm2_guidance.images.class_folders import ClassFolders, class_folders
from edm2_guidance.recipe.class_names import checked_names


def classes(names: Sequence[str], folders: Sequence[str] = (), root: str = "") -> ClassFolders:
    tops = {name.removeprefix(root).partition("/")[0] for name in names if "/" in name.removeprefix(root)}
    return class_folders(names, sorted({*tops, *folders}), root, "set.zip")


def test_folders_are_numbered_in_sorted_order() -> None:
    found = classes(["dog/1.png", "cat/deep/er/2.png", "cat/1.png"])
    assert found == ClassFolders({"dog/1.png": 1, "cat/deep/er/2.png": 0, "cat/1.png": 0}, ("cat", "dog"), [])


@pytest.mark.parametrize("empty", [["bird"], ["zebra"], ["bird", "zebra"]])
def test_a_class_that_would_vanish_is_refused(empty: list[str]) -> None:
    with pytest.raises(ValueError, match=f"folders without an image that is read, '{empty[0]}'.*would vanish"):
        classes(["cat/1.png", "dog/1.png"], empty)


def test_one_folder_of_two_is_refused_too() -> None:
    with pytest.raises(ValueError, match="'dog': as classes they would vanish"):
        classes(["cat/1.png"], ["dog"])


def test_no_folders_no_classes() -> None:
    assert classes(["1.png", "2.png"]) == classes(["1.png"], ["empty"]) == classes(["a/1.png"]) == ClassFolders()


def test_images_beside_folders_are_said() -> None:
    found = classes(["0.png", "a/1.png", "b/2.png"])
    assert (found.labels, found.names) == (None, None)
    assert found.notes == [
        "folders are no classes here, as 1 of 3 images lie in none, such as '0.png': the set gets no labels"
    ]


@pytest.mark.parametrize(
    ("names", "root", "note"),
    [
        (["pets/cat/1.png", "pets/dog/1.png"], "pets/", "everything lies in 'pets/': the 2 folders in it are"),
        ([f"{i}/x.png" for i in range(11)], "", "numbered anew, .*'1' is 1, '10' is 2, '2' is 3"),
        (["1/x.png", "2/x.png"], "", "numbered anew, .*: '1' is 0, '2' is 1"),
        ([f"{'x' * 201}/x.png", "y/x.png"], "", "names of classes are cut to 200 characters: 'xxx"),
        (["train/x.png", "val/x.png"], "", "taken for classes: 'train', 'val'; for one of them, give its path"),
        (["Cat/x.png", "cat/y.png", "dog/x.png"], "", r"by case or .* alone are classes of their own: 'Cat', 'cat'"),
        (["caf\u00e9/x.png", "cafe\u0301/y.png"], "", r"of their own: 'cafe\\u0301', 'caf\\xe9'"),
    ],
)
def test_names_that_may_mean_something_else_are_said(names: list[str], root: str, note: str) -> None:
    found = classes(names, root=root)
    assert found.labels is not None
    assert len(found.notes) == 1
    assert re.search(note, found.notes[0])


@pytest.mark.parametrize(
    "names", [["0/x.png", "1/x.png"], ["00/x.png", "01/x.png", "02/x.png"], ["n01/x.png", "n02/x.png"]]
)
def test_numbers_that_stay_need_no_word(names: list[str]) -> None:
    assert classes(names).notes == []


def test_bytes_that_are_no_text_become_a_readable_name() -> None:
    names = classes(["caf\udce9" * 60 + "/x.png", "dog/x.png"]).names
    assert names == checked_names(names)
    assert classes(["caf\udce9/x.png", "dog/x.png"]).names == ("caf\\xe9", "dog")
