"""dataset_tool.py as its user runs it."""

import builtins
import errno
import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edm2_guidance.commands.dataset_tool import main
from edm2_guidance.images.set_writer import latents_name, pixels_name
from edm2_guidance.images.sources import StoredImages
from edm2_guidance.images.transforms import center_crop_dhariwal, stretch
from tests.words import last_of_each
from training.dataset import ImageFolderDataset

ROOT = Path(__file__).parents[1]


def convert(*args):
    return CliRunner().invoke(main, ["convert", *[str(arg) for arg in args]])


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def random_grey(seed, size=28):
    return np.random.default_rng(seed).integers(0, 256, [size, size], dtype=np.uint8)


@pytest.fixture
def digits(tmp_path):
    """Five grey images with labels, named out of order."""
    folder = tmp_path / "digits"
    names = ["b/2.png", "a/10.png", "a/9.png", "z.png", "b/1.png"]
    for i, name in enumerate(names):
        save(folder / name, random_grey(i))
    (folder / "dataset.json").write_text(json.dumps({"labels": [[name, i] for i, name in enumerate(names)]}))
    return folder


MODE = ("--transform=pad-average", "--resolution=16x16")


def test_layout_pixels_and_labels(digits, tmp_path):
    dest = tmp_path / "out" / "set.zip"
    result = convert(f"--source={digits}", f"--dest={dest}", *MODE)
    assert result.exit_code == 0, result.output
    archive = zipfile.ZipFile(dest)
    names = [f"00000/img{i:08d}.png" for i in range(5)]
    assert archive.namelist() == [*names, "dataset.json"]
    assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    # In the sorted order of the source: a/10, a/9, b/1, b/2, z.
    assert json.loads(archive.read("dataset.json")) == {
        "labels": [[name, label] for name, label in zip(names, [1, 2, 4, 0, 3], strict=True)]
    }
    first = Image.open(io.BytesIO(archive.read(names[0])))
    assert (first.mode, first.size) == ("RGB", (16, 16))
    big = np.zeros([32, 32])
    big[2:30, 2:30] = random_grey(1)
    means = np.rint(big.reshape(16, 2, 16, 2).mean(axis=(1, 3)))
    assert np.array_equal(np.asarray(first), np.repeat(means[:, :, None], 3, axis=2).astype(np.uint8))
    assert len(ImageFolderDataset(dest)) == StoredImages(dest).num_images == 5


def test_same_bytes_every_time_and_from_a_zip(digits, tmp_path):
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(digits.rglob("*"), reverse=True):
            if path.is_file():
                archive.write(path, path.relative_to(digits))
    for name, source in {"one": digits, "two": digits, "three": packed}.items():
        assert convert(f"--source={source}", f"--dest={tmp_path}/{name}.zip", *MODE).exit_code == 0
    one, two, three = ((tmp_path / f"{name}.zip").read_bytes() for name in ("one", "two", "three"))
    assert one == two == three


def test_folder_holds_the_same_files(digits, tmp_path):
    for dest in ("set.zip", "folder"):
        assert convert(f"--source={digits}", f"--dest={tmp_path / dest}", *MODE).exit_code == 0
    archive = zipfile.ZipFile(tmp_path / "set.zip")
    files = {str(p.relative_to(tmp_path / "folder")): p.read_bytes() for p in (tmp_path / "folder").rglob("*.*")}
    assert files == {name: archive.read(name) for name in archive.namelist()}


def test_max_images_takes_the_first(digits, tmp_path):
    assert convert(f"--source={digits}", f"--dest={tmp_path}/set.zip", "--max-images=2", *MODE).exit_code == 0
    labels = json.loads(zipfile.ZipFile(tmp_path / "set.zip").read("dataset.json"))["labels"]
    assert [label for _, label in labels] == [1, 2]


def test_labels_from_folders(tmp_path):
    for i, name in enumerate(["n02/x.png", "n01/y.png", "n01/z.jpg", "n10/w.png"]):
        save(tmp_path / "tree" / name, np.full([4, 4, 3], i, np.uint8))
    assert convert(f"--source={tmp_path}/tree", f"--dest={tmp_path}/set.zip").exit_code == 0
    labels = json.loads(zipfile.ZipFile(tmp_path / "set.zip").read("dataset.json"))["labels"]
    assert [label for _, label in labels] == [0, 0, 1, 2]


def test_no_labels_without_folders(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / "flat" / name, np.zeros([4, 4, 3], np.uint8))
    assert convert(f"--source={tmp_path}/flat", f"--dest={tmp_path}/set.zip").exit_code == 0
    assert json.loads(zipfile.ZipFile(tmp_path / "set.zip").read("dataset.json")) == {"labels": None}


@pytest.mark.parametrize(
    ("names", "text", "notes"),
    [
        (["a/x.png", "b/y.png", "b/z.png"], "wrote 3 images, 2 classes, to", 0),
        (["top.png", "a/x.png", "b/y.png"], "wrote 3 images, no labels, to", 1),
        (["x.png", "y.png"], "wrote 2 images, no labels, to", 0),
    ],
)
def test_what_became_of_labels_is_said(tmp_path, names, text, notes):
    for name in names:
        save(tmp_path / "in" / name, np.zeros([4, 4, 3], np.uint8))
    result = convert(f"--source={tmp_path}/in", f"--dest={tmp_path}/out")
    assert text in result.stdout
    assert result.stderr.count("1 of 3 images lie in none, such as 'top.png': the set gets no labels") == notes
    assert result.stderr.count("note:") == notes


def test_label_vectors_are_said_too(digits, tmp_path):
    names = [str(path.relative_to(digits)) for path in digits.rglob("*.png")]
    (digits / "dataset.json").write_text(json.dumps({"labels": [[name, [0.5, 0.5]] for name in names]}))
    assert "5 images, label vectors of 2 numbers, to" in convert(f"--source={digits}", f"--dest={tmp_path}/out").stdout


def test_without_a_transform_pixels_stay(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, [5, 7, 3], dtype=np.uint8)
    save(tmp_path / "in" / "a.png", image)
    palette = Image.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7)).convert("P")
    palette.save(tmp_path / "in" / "b.png")
    opaque = np.dstack([image, np.full([5, 7], 255, np.uint8)])
    save(tmp_path / "in" / "c.png", opaque)
    assert convert(f"--source={tmp_path}/in", f"--dest={tmp_path}/out").exit_code == 0
    written = [np.asarray(Image.open(tmp_path / "out" / f"00000/img0000000{i}.png")) for i in range(3)]
    assert np.array_equal(written[0], image)
    assert np.array_equal(written[1], np.asarray(palette.convert("RGB")))
    assert np.array_equal(written[2], image)


@pytest.mark.parametrize("command", ["convert", "encode", "decode"])
def test_a_second_worker_is_refused(digits, tmp_path, monkeypatch, command):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(main, [command, f"--source={digits}", f"--dest={tmp_path}/set.zip"])
    assert result.exit_code == 2
    assert "dataset_tool.py runs as one process" in result.stderr
    assert not (tmp_path / "set.zip").exists()


def half_transparent(path):
    save(path, np.dstack([np.full([4, 4, 3], 7, np.uint8), np.full([4, 4], 128, np.uint8)]))


def transparent_colour(path):
    save(path, np.full([4, 4, 3], 7, np.uint8), transparency=(7, 7, 7))


def sixteen_bits(path):
    save(path, np.full([4, 4], 0x07FF, np.uint16))


def two_frames(path):
    Image.new("RGB", (4, 4), (7, 7, 7)).save(path, save_all=True, append_images=[Image.new("RGB", (4, 4))], duration=9)


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 4), (7, 7, 7)).save(path, exif=exif)


def turned_tiff(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 4), (7, 7, 7)).save(path, format="TIFF", exif=exif)


def inks(path):
    Image.new("CMYK", (4, 4), (0, 0, 0, 248)).save(path, format="TIFF")


def deep_tiff(path):
    """16 bits per colour, which PIL reads and does not write: little-endian, one strip."""
    tags = [(256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 3, 134), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 140),
            (277, 3, 1, 3), (278, 3, 1, 4), (279, 4, 1, 96)]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    data = b"II*\0" + struct.pack("<I", 8) + directory
    path.write_bytes(data + bytes(134 - len(data)) + struct.pack("<3H", 16, 16, 16) + b"\xff\x07" * 48)


@pytest.mark.parametrize(
    ("write", "note"),
    [
        (two_frames, "hold several frames or pages, of which the first is kept"),
        (turned, "ask to be shown turned or mirrored (EXIF), and are kept as they are stored"),
        (turned_tiff, "are TIFFs that ask to be shown turned or mirrored (EXIF), and are kept as they are shown"),
        (inks, "are CMYK, and become RGB by PIL's rule, without a colour profile"),
        (deep_tiff, "have 16 bits per channel"),
        (half_transparent, "have transparent pixels"),
        (transparent_colour, "have transparent pixels"),
        (sixteen_bits, "have 16 bits per channel, of which the upper 8 are kept"),
    ],
)
def test_what_8_bit_rgb_cannot_hold_is_said(tmp_path, write, note):
    save(tmp_path / "in" / "a.png", np.full([4, 4, 3], 7, np.uint8))
    write(tmp_path / "in" / "b.png")
    result = convert(f"--source={tmp_path}/in", f"--dest={tmp_path}/out")
    assert result.exit_code == 0, result.output
    assert np.unique(np.asarray(Image.open(tmp_path / "out" / "00000/img00000001.png"))).tolist() == [7]
    assert f"note: 1 images, such as 'b.png', {note}" in result.stderr


def test_jpeg_tree_as_imagenet_is_laid_out(tmp_path):
    """Classes by folder, .JPEG files, one of them CMYK, one grey, one a PNG in truth."""
    train = tmp_path / "train"
    colours = np.random.default_rng(0).integers(0, 256, [40, 50, 3], dtype=np.uint8)
    save(train / "n02/n02_7.JPEG", colours)
    save(train / "n01/n01_1.JPEG", random_grey(0, 33))
    (train / "n03").mkdir()
    Image.fromarray(colours).convert("CMYK").save(train / "n03/n03_2.JPEG", format="JPEG")
    Image.fromarray(colours).save(train / "n03/n03_1.JPEG", format="PNG")
    mode = ("--transform=center-crop-dhariwal", "--resolution=16x16")
    assert convert(f"--source={train}", f"--dest={tmp_path}/set.zip", *mode).exit_code == 0
    archive = zipfile.ZipFile(tmp_path / "set.zip")
    assert [label for _, label in json.loads(archive.read("dataset.json"))["labels"]] == [0, 1, 2, 2]
    for i, name in enumerate(["n01/n01_1", "n02/n02_7", "n03/n03_1", "n03/n03_2"]):
        source = np.asarray(Image.open(train / f"{name}.JPEG").convert("RGB"))
        made = np.asarray(Image.open(io.BytesIO(archive.read(f"00000/img0000000{i}.png"))))
        assert np.array_equal(made, center_crop_dhariwal(source, 16, 16))


def test_a_resolution_alone_stretches(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, [5, 7, 3], dtype=np.uint8)
    save(tmp_path / "in" / "a.png", image)
    assert convert(f"--source={tmp_path}/in", f"--dest={tmp_path}/out", "--resolution=6x4").exit_code == 0
    made = np.asarray(Image.open(tmp_path / "out" / "00000/img00000000.png"))
    assert np.array_equal(made, stretch(image, 6, 4))


@pytest.mark.parametrize(("resolution", "bars"), [("16x8", 4), ("16x4", 6)])
def test_wide_pictures_of_any_proportions(tmp_path, resolution, bars):
    save(tmp_path / "in" / "a.png", np.full([9, 20, 3], 200, np.uint8))
    save(tmp_path / "in" / "b.png", np.full([1, 1, 3], 200, np.uint8))
    mode = ("--transform=center-crop-wide", f"--resolution={resolution}")
    result = convert(f"--source={tmp_path}/in", f"--dest={tmp_path}/out", *mode)
    assert result.exit_code == 0, result.output
    for i in range(2):
        made = np.asarray(Image.open(tmp_path / "out" / f"00000/img0000000{i}.png"))
        assert made.shape == (16, 16, 3)
        assert np.all(made[bars:-bars] == 200)
        assert not made[:bars].any()
        assert not made[-bars:].any()


def test_many_images_go_to_folders_of_a_thousand(tmp_path):
    assert [pixels_name(i) for i in (0, 999, 1000, 1281166)] == [
        "00000/img00000000.png", "00000/img00000999.png", "00001/img00001000.png", "01281/img01281166.png",
    ]  # fmt: skip
    assert latents_name(1281166) == "01281/img-mean-std-01281166.npy"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--source={tmp}/missing"], "missing does not exist"),
        (["--source={tmp}/empty"], "holds no images"),
        (["--source={digits}", "--transform=pad-average"], "--transform needs --resolution"),
        (["--source={digits}", "--transform=center-crop-dhariwal", "--resolution=16x8"], "give such as 16x16"),
        (["--source={digits}", "--transform=stretch", "--resolution=16x16"], "stretch"),
        (
            ["--source={digits}", "--transform=pad-average", "--resolution=16"],
            "=16: give width and height, WxH: 16x16",
        ),
        (["--source={digits}", "--transform=pad-average", "--resolution=0x16"], "--resolution=0x16"),
        (["--source={digits}", "--max-images=0"], "--max-images"),
        (["--source={digits}", "--dest={tmp}/there.zip"], "there.zip exists"),
        (["--source={digits}", "--dest={digits}"], "folder with files in it"),
        (["--source={digits}", "--dest={tmp}/set.tar"], "ending in .zip"),
        (["--source={digits}", "--dest={digits}/sub"], "digits/sub lies in the source"),
        (["--source={digits}", "--dest={digits}/../digits/a/set.zip"], "lies in the source"),
    ],
)
def test_bad_input_is_one_line_before_any_work(digits, tmp_path, args, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.zip").write_bytes(b"precious")
    before = sorted(tmp_path.rglob("*"))
    args = [arg.format(tmp=tmp_path, digits=digits) for arg in args]
    result = convert(*last_of_each([f"--dest={tmp_path}/set.zip", *args]))
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert message in result.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.zip").read_bytes() == b"precious"


@pytest.mark.parametrize("dest", ["closed/set.zip", "closed/set", "closed/new/set", "closed/empty"])
def test_a_folder_that_cannot_be_written_is_told_before_any_work(digits, tmp_path, monkeypatch, dest):
    (tmp_path / "closed" / "empty").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed")  # root may write anywhere
    result = convert(f"--source={digits}", f"--dest={tmp_path / dest}", *MODE)
    said = f"Error: {tmp_path}/closed is not writable, so {tmp_path / dest} cannot be made; give another place\n"
    assert (result.exit_code, result.stderr) == (2, said)


def test_a_set_does_not_take_the_place_of_a_disk(digits, tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "disk")
    result = convert(f"--source={digits}", f"--dest={tmp_path}/disk", *MODE)
    assert (result.exit_code, os.listdir(tmp_path / "disk")) == (2, [])
    assert f"give --out={tmp_path}/disk/images\n" in result.stderr
    assert convert(f"--source={digits}", f"--dest={tmp_path}/disk/images", *MODE).exit_code == 0


@pytest.mark.parametrize(
    ("dest", "module", "call"),
    [("set.zip", builtins, "open"), ("set.zip", os, "replace"), ("set", os, "mkdir"), ("set", os, "replace")],
)
def test_what_a_disk_refuses_after_all_names_the_set(digits, tmp_path, monkeypatch, dest, module, call):
    """Not the temporary name that it has until it is whole."""
    original = getattr(module, call)

    def refused(path, *args, **kwargs):
        if ".tmp" not in str(path):
            return original(path, *args, **kwargs)
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))

    monkeypatch.setattr(module, call, refused)
    result = convert(f"--source={digits}", f"--dest={tmp_path / dest}", *MODE)
    assert result.exit_code == 1
    assert result.stderr.endswith(f"Error: {tmp_path / dest}: Permission denied\n")
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_a_link_to_an_empty_folder_is_followed(digits, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert convert(f"--source={digits}", f"--dest={tmp_path}/link", *MODE).exit_code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "dataset.json").exists()


def test_an_empty_folder_gives_way_on_windows_too(digits, tmp_path, monkeypatch):
    plain = os.replace

    def as_windows(source, target):
        if os.path.isdir(target):
            raise PermissionError(errno.EACCES, "Access is denied", os.fspath(target))
        plain(source, target)

    monkeypatch.setattr(os, "replace", as_windows)
    (tmp_path / "out").mkdir()
    assert convert(f"--source={digits}", f"--out={tmp_path}/out", *MODE).exit_code == 0
    assert (tmp_path / "out" / "dataset.json").exists()


def truncated(path):
    save(path, random_grey(9))
    path.write_bytes(path.read_bytes()[:-200])


def of_another_size(path):
    save(path, random_grey(9, 32))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "is truncated"),
        (of_another_size, "is 32x32"),
    ],
)
@pytest.mark.parametrize("dest", ["set.zip", "folder"])
def test_unusable_image_is_named_and_nothing_is_left(digits, tmp_path, spoil, message, dest):
    spoil(digits / "b" / "2.png")
    result = convert(f"--source={digits}", f"--dest={tmp_path / dest}")
    assert result.exit_code == 1
    assert "'b/2.png'" in result.stderr
    assert message in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["digits"]


def test_all_bad_images_are_named_at_the_end(tmp_path):
    """Fourteen bad ones among twenty-one: ten are named with what is wrong, and nothing is written."""
    save(tmp_path / "in" / "00.png", random_grey(0))
    for i in range(1, 20):
        path = tmp_path / "in" / f"{i:02d}.png"
        spoil = [of_another_size, truncated, None][(i - 1) % 3]
        save(path, random_grey(i)) if spoil is None else spoil(path)
    os.symlink("nowhere", tmp_path / "in" / "20.png")
    result = convert(f"--source={tmp_path}/in", f"--dest={tmp_path}/out.zip")
    assert result.exit_code == 1
    line = result.stderr.strip().splitlines()[-1]
    assert "Error: 14 of 21 images cannot be used; nothing was written: '01.png' is 32x32" in line
    assert "'02.png' in" in line
    assert line.endswith("and 4 more")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_a_missing_resolution_is_said_before_a_million_images_were_read(tmp_path, monkeypatch):
    monkeypatch.setattr("edm2_guidance.images.convert.MAX_BAD", 3)
    for i in range(9):
        save(tmp_path / "in" / f"{i}.png", random_grey(i, 8 + i))
    result = convert(f"--source={tmp_path}/in", f"--dest={tmp_path}/out.zip")
    assert result.exit_code == 1
    assert "3 of 4 images cannot be used, and the other 5 were not looked at; nothing was written" in result.stderr
    assert "give --resolution and --transform" in result.stderr


def test_a_class_of_files_that_are_not_read_ends_the_work_before_it_begins(tmp_path):
    for name in ("a/0.png", "c/0.png"):
        save(tmp_path / "in" / name, random_grey(0))
    (tmp_path / "in" / "b").mkdir()
    (tmp_path / "in" / "b" / "0.heic").write_bytes(b"x")
    result = convert(f"--source={tmp_path}/in", f"--dest={tmp_path}/out.zip")
    assert result.exit_code == 2
    assert "folders without an image that is read, 'b'" in result.stderr
    (tmp_path / "in" / "dataset.json").write_text(json.dumps({"labels": [["a/0.png", 0], ["c/0.png", 2]]}))
    result = convert(f"--source={tmp_path}/in", f"--dest={tmp_path}/out.zip")
    assert result.exit_code == 0
    assert "note:" in result.stderr
    assert "1 file is not read, as no images of a known kind: 1 .heic" in result.stderr


@pytest.mark.parametrize("pack", [False, True])
def test_class_names_go_along(tmp_path, pack):
    """From folders, below a folder that was zipped as a whole too; then from set to set, and into training."""
    for name in ("pets/tiger cat/0.tif", "pets/tiger cat/1.gif", "pets/dog/0.jfif"):
        save(tmp_path / "in" / name, random_grey(0, 16))
    source = tmp_path / "in"
    if pack:
        source = tmp_path / "in.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in (tmp_path / "in").rglob("*.*"):
                archive.write(path, str(path.relative_to(tmp_path / "in")).replace("/", "\\"))
    result = convert(f"--source={source}", f"--dest={tmp_path}/first.zip")
    assert "note: everything lies in 'pets/': the 2 folders in it are the classes" in result.stderr
    assert convert(f"--source={tmp_path}/first.zip", f"--dest={tmp_path}/second").exit_code == 0
    for made in ("first.zip", "second"):
        dataset = ImageFolderDataset(tmp_path / made)
        assert dataset.class_names == ("dog", "tiger cat")
        assert dataset.labels([0, 1, 2]).argmax(axis=1).tolist() == [0, 1, 1]
    assert ImageFolderDataset(tmp_path / "second", use_labels=False).class_names is None


def test_a_contact_sheet(digits, tmp_path):
    def sheet(*words):
        return CliRunner().invoke(main, ["sheet", f"--source={digits}", *words])

    picture = tmp_path / "sheet.jpg"
    done = sheet(f"--dest={picture}", "--columns=2", "--tile=28")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{picture}\n"
    assert Image.open(picture).format == "JPEG"
    for words, message in (
        ([f"--dest={picture}"], "exists: take another name, or --overwrite"),
        (["--dest=a.txt"], "give a name that ends in .png, .jpg, .jpeg, .pdf"),
        (["--dest=a.png", "--classes=0", "--num=3"], "--classes shows --columns images of each class: leave out --num"),
        (["--dest=a.png", "--classes=9"], "no image of class 9; its classes are up to 4"),
    ):
        refused = sheet(*words)
        assert refused.exit_code == 2
        assert message in refused.stderr
