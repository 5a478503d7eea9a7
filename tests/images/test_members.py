"""What of a set is an image, what is junk, and what is said of the rest."""

from typing import Any

import pytest

from edm2_guidance.images.members import Members, sort_out


def members(*names: str) -> Members:
    """Names that end with a slash are folders."""
    files = [(name, f"stored {name}") for name in names if not name.endswith("/")]
    return sort_out(files, [name for name in names if name.endswith("/")])


def test_endings_of_any_case_and_files_without() -> None:
    found = members("a.PNG", "b.Tiff", "c.JFIF", "d.jpe", "e.gif", "f.apng", "g.npy", "h", "i.avif", "j.HEIC", "k.heic")
    assert [name[0] for name in found.images] == list("abcdefg")
    assert found.notes == ("4 files are not read, as no images of a known kind: 1 .avif, 2 .heic, 1 without ending",)


@pytest.mark.parametrize(
    "junk",
    [
        "Thumbs.db", "a/desktop.ini", ".DS_Store", "a/._x.png", "__MACOSX/._x.png", "a/@eaDir/x.png/THUMB.jpg",
        ".git/index", "$RECYCLE.BIN/desktop.ini", "dataset.json", "recipe.json", "Icon\r", "a/Icon\r",
    ],
)  # fmt: skip
def test_known_junk_is_left_out_in_silence(junk: str) -> None:
    found = members("x.png", junk)
    assert (found.images, found.notes) == (("x.png",), ())
    assert found.folders in ((), ("a",))


def test_hidden_images_are_said() -> None:
    assert members("x.png", ".y.png", "a/.z.jpg", "._x.png").notes == (
        "2 images are not read, as their names begin with a dot",
    )


@pytest.mark.parametrize("folder", [".NET", "lost+found", "#recycle", "__MACOSX", "$RECYCLE.BIN", "a/.thumbnails"])
def test_images_in_hidden_folders_are_said(folder: str) -> None:
    """As classes they would vanish, and others take their numbers."""
    found = members("a/x.png", "b/x.png", f"{folder}/1.png", f"{folder}/deep/.2.jpg", f"{folder}/._1.png")
    assert found.folders == ("a", "b")
    assert [note.partition(";")[0] for note in found.notes] == [
        f"2 images are not read, as they lie in folders that are hidden or of the system: '{folder}'"
    ]


def test_backslashes_dots_and_doubled_slashes_separate_folders() -> None:
    found = members("./b//2.png", "a\\1.png", "c\\")
    assert found.images == ("a/1.png", "b/2.png")
    assert found.stored["a/1.png"] == "stored a\\1.png"
    assert members("a\\1.png", "b\\2.png", "c\\x/").folders == ("a", "b", "c")
    with pytest.raises(ValueError, match=r"two members named 'a/1\.png'"):
        members("a/1.png", "a\\1.png")


@pytest.mark.parametrize(
    ("names", "root", "folders"),
    [
        (["pets/cat/0.png", "pets/dog/0.png"], "pets/", ("cat", "dog")),
        (["a/b/c/cat/0.png", "a/b/c/dog/0.png"], "a/b/c/", ("cat", "dog")),
        (["pets/0.png", "pets/dataset.json"], "pets/", ()),
        (["pets/cat/0.png", "pets/cat/1.png", "pets/dataset.json"], "pets/", ("cat",)),
        (["pets/cat/0.png", "pets/dog/0.png", "README.txt", "pets/notes.txt"], "pets/", ("cat", "dog")),
        (["pets/cat/0.png", "pets/dog/0.png", "__MACOSX/pets/._x", ".DS_Store"], "pets/", ("cat", "dog")),
        (["pets/", "pets/cat/", "pets/cat/0.png", "pets/dog/"], "pets/", ("cat", "dog")),
        (["cat/0.png", "dog/0.heic"], "", ("cat", "dog")),  # another folder, though without images
        (["cat/0.png", "dog/"], "", ("cat", "dog")),
        (["00000/img00000000.png", "dataset.json"], "", ("00000",)),
        (["cat/0.png", "x.png"], "", ("cat",)),
    ],
)
def test_the_folder_that_everything_lies_in(names: list[str], root: str, folders: tuple[str, ...]) -> None:
    found = members(*names)
    assert (found.root, found.folders) == (root, folders)
    assert ("dataset.json" in found.stored) == any(name.endswith("dataset.json") for name in names)


@pytest.mark.parametrize("name", ["a/dataset.json", "Dataset.JSON"])
def test_labels_in_another_place_or_spelling_are_said(name: str) -> None:
    found = members("a/0.png", "b/0.png", name)
    assert found.notes == (f"'{name}' is not read: labels are in dataset.json at the top of the set",)


def test_many_kinds_are_said_in_short() -> None:
    note: Any = members("x.png", *(f"{i}.a{i:02d}" for i in range(14))).notes[0]
    assert note.startswith("14 files are not read")
    assert note.endswith("1 .a09 and 4 more")
