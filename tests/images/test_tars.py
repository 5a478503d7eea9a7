"""Tars, labels beside images, and several archives as one set: the same set as a folder, or an error that says why."""

import io
import json
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edm2_guidance.images import archive, tar
from edm2_guidance.images.archive import open_archive
from edm2_guidance.images.convert import Conversion
from edm2_guidance.images.sources import StoredImages, content_sha256
from edm2_guidance.metrics.provenance import describe_stored
from tests.pictures import encoded, picture

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def png(number: int, size: int = 8) -> bytes:
    return encoded(picture(number, size))


def make_tar(path: Path, members: dict[str, bytes], kind: str = "pax", **fields: Any) -> Path:
    """A tar of files; fields: of every `TarInfo`."""
    with tarfile.open(path, "w", format=FORMATS[kind]) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(data))
    return path


def unpack(path: Path, members: dict[str, bytes]) -> Path:
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def webdataset(numbers: range, with_json: bool = False) -> dict[str, bytes]:
    """Samples as webdataset writes them: class n % 3 of image n."""
    members = {}
    for n in numbers:
        label = json.dumps({"cls": n % 3, "caption": "a"}).encode() if with_json else str(n % 3).encode()
        members |= {f"{n:04d}.png": png(n), f"{n:04d}.json" if with_json else f"{n:04d}.cls": label}
    return members


def test_a_tar_is_the_folder_it_was_made_of(tmp_path: Path) -> None:
    members = {
        "set/b/2.PNG": b"two",
        "set/a/10.jpeg": b"ten",
        "set/dataset.json": b'{"labels": [["b/2.PNG", 1], ["a/10.jpeg", 0]]}',
        "set/a/.hidden.png": b"",
        "set/notes.txt": b"x" * 700,
    }
    folder = open_archive(unpack(tmp_path / "folder", members))
    for kind in FORMATS:
        images = open_archive(make_tar(tmp_path / f"{kind}.tar", members, kind))
        assert (images.names, images.root, images.folders) == (folder.names, folder.root, folder.folders)
        assert images.labels() == folder.labels() == {"set/a/10.jpeg": 0, "set/b/2.PNG": 1}
        assert [images.read(name) for name in images.names] == [b"ten", b"two"]
        assert images.content_hash(images.names) == folder.content_hash(folder.names)
        assert content_sha256(images.path) == content_sha256(folder.path)
        assert [note.partition(": ")[2] for note in images.notes] == [n.partition(": ")[2] for n in folder.notes]
        assert pickle.loads(pickle.dumps(images)).read("set/b/2.PNG") == b"two"


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_long_and_foreign_names(tmp_path: Path, kind: str) -> None:
    members = {"deep/" * 30 + "x" * 120 + ".png": b"1", "./ä/日本.png": b"2"}
    images = open_archive(make_tar(tmp_path / "s.tar", members, kind))
    assert [images.read(name) for name in images.names] == [b"1", b"2"]
    assert images.names[1] == "ä/日本.png"


def test_what_tar_itself_writes_is_read(tmp_path: Path) -> None:
    """`tar -cf - -C folder .` begins with the folder "./"."""
    folder = unpack(tmp_path / "folder", {"cat/0.png": png(0), "dog/1.png": png(1)})
    with tarfile.open(tmp_path / "s.tar", "w") as file:
        file.add(folder, ".")
    images = open_archive(tmp_path / "s.tar")
    assert (images.names, images.folders) == (("cat/0.png", "dog/1.png"), ("cat", "dog"))
    made = Conversion(tmp_path / "s.tar", tmp_path / "made.zip")
    made.run()
    assert made.label_text == "2 classes"
    assert open_archive(tmp_path / "made.zip").labels() == {
        "00000/img00000000.png": 0,
        "00000/img00000001.png": 1,
    }


@pytest.mark.parametrize(
    ("name", "fields", "match"),
    [
        ("../x.png", {}, "unsafe name"),
        ("/etc/x.png", {}, "unsafe name"),
        ("a/\n.png", {}, "unsafe name"),
        ("x.png", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd", "size": 0}, "is a link; write.*--dereference"),
        ("x.png", {"type": tarfile.LNKTYPE, "linkname": "y.png", "size": 0}, "is a link"),
        ("x.png", {"type": tarfile.CHRTYPE, "size": 0}, "is a device"),
        ("x.png", {"type": tarfile.FIFOTYPE, "size": 0}, "is a pipe"),
        ("x.png", {"type": b"Z"}, "is of an unknown kind"),
        ("x.png", {"type": tarfile.GNUTYPE_SPARSE}, "is a sparse file"),
        ("x.png", {"pax_headers": {"GNU.sparse.realsize": "999999999999"}}, "is a sparse file"),
        ("x.png", {"pax_headers": {"size": "999999999999"}}, "cut off, or damaged, in 'x.png'"),
        ("x.png", {"pax_headers": {"size": "-5"}}, "cut off, or damaged, in 'x.png'"),
        ("x.png", {"pax_headers": {"size": "many"}}, "damaged extended header"),
        ("x.png", {"pax_headers": {"comment": "x" * (tar._MAX_EXTENDED + 1)}}, "extended header of"),
    ],
)
def test_hostile_members_are_refused(tmp_path: Path, name: str, fields: dict[str, Any], match: str) -> None:
    path = make_tar(tmp_path / "s.tar", {"ok.png": b"x"})
    with tarfile.open(path, "a", format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo(name)
        info.size = 1
        for key, value in fields.items():
            setattr(info, key, value)
        file.addfile(info, io.BytesIO(b"y") if info.size else None)
    with pytest.raises(ValueError, match=match) as error:
        open_archive(path)
    assert str(path) in str(error.value)


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "s.tar", {"a.png": b"x"})
    with tarfile.open(path, "a") as file:
        file.addfile(tarfile.TarInfo("./a.png"))
    with pytest.raises(ValueError, match=r"two members named 'a\.png'"):
        open_archive(path)


def test_a_claimed_size_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of mostly holes is as large as it says: no member of it is read, nor is an extended header."""
    for kind, match in ((tarfile.REGTYPE, "no image is like that"), (tarfile.XHDTYPE, "extended header of")):
        info = tarfile.TarInfo("big.png")
        info.size, info.type = 1 << 33, kind
        path = tmp_path / "s.tar"
        path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
        os.truncate(path, (1 << 33) + 4 * tar.BLOCK)
        tracemalloc.start()
        with pytest.raises(ValueError, match=match):
            open_archive(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
        tracemalloc.stop()


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_compressed_tars_are_refused_with_the_cure(tmp_path: Path, mode: str) -> None:
    for name in (f"s.tar.{mode}", "s.tar"):
        with tarfile.open(tmp_path / name, f"w:{mode}") as file:
            file.addfile(tarfile.TarInfo("a.png"))
        with pytest.raises(ValueError, match=r"is compressed.*unpack it first \((gunzip|bunzip2|unxz) "):
            open_archive(tmp_path / name)


def test_every_cut_and_every_damaged_header_is_refused(tmp_path: Path) -> None:
    data = make_tar(tmp_path / "s.tar", {f"{i}.png": bytes([i]) * 600 for i in range(3)}, "ustar").read_bytes()
    end = 3 * 3 * tar.BLOCK
    assert len(open_archive(tmp_path / "s.tar").names) == 3
    for cut in (*range(1, end, 200), end):
        (tmp_path / "s.tar").write_bytes(data[:cut])
        with pytest.raises(ValueError, match=r"cut off|no tar"):
            open_archive(tmp_path / "s.tar")
    for position in range(0, end, 3 * tar.BLOCK):
        (tmp_path / "s.tar").write_bytes(data[:position] + b"?" + data[position + 1 :])
        with pytest.raises(ValueError, match="is no tar" if position == 0 else f"damaged at byte {position}"):
            open_archive(tmp_path / "s.tar")


def test_tars_joined_by_cat_are_refused_with_the_cure(tmp_path: Path) -> None:
    one = make_tar(tmp_path / "s.tar", {"0.png": b"x"}).read_bytes()
    (tmp_path / "s.tar").write_bytes(one + one)
    with pytest.raises(ValueError, match=r"goes on after its end.*into a folder"):
        open_archive(tmp_path / "s.tar")


def test_a_tar_that_changes_meanwhile_is_not_read(tmp_path: Path) -> None:
    images = open_archive(make_tar(tmp_path / "s.tar", {"0.png": b"x", "1.png": b"y"}))
    make_tar(tmp_path / "s.tar", {"1.png": b"y" * 9000, "0.png": b"x"})
    with pytest.raises(ValueError, match="was changed while it was read"):
        images.read("0.png")


def test_reading_from_threads(tmp_path: Path) -> None:
    members = {f"{i:03d}.png": bytes([i]) * 700 for i in range(100)}
    images = open_archive(make_tar(tmp_path / "s.tar", members))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(images.read, images.names)) == list(members.values())


# ----------------------------------------------------------------------------
# Labels beside images.


@pytest.mark.parametrize("with_json", [False, True])
def test_labels_beside_images_are_those_of_dataset_json(tmp_path: Path, make_zip: Any, with_json: bool) -> None:
    members = webdataset(range(7), with_json)
    paths = [
        make_tar(tmp_path / "s.tar", members),
        make_zip(members),
        unpack(tmp_path / "folder", members),
    ]
    for path in paths:
        images = open_archive(path)
        assert images.labels() == {f"{n:04d}.png": n % 3 for n in range(7)}
        assert images.notes == ()
        batch = next(iter(StoredImages(path, batch=7)))
        assert batch.labels == tuple(n % 3 for n in range(7))
        assert torch.equal(batch.images[4], torch.from_numpy(np.array(picture(4))).permute(2, 0, 1))


def test_the_key_ends_at_the_first_dot_and_dataset_json_comes_first(tmp_path: Path) -> None:
    members = {"a/x.left.png": b"", "a/x.right.png": b"", "a/x.cls": b" 5\n"}
    images = open_archive(make_tar(tmp_path / "s.tar", members))
    assert images.labels() == {"a/x.left.png": 5, "a/x.right.png": 5}
    images = open_archive(make_tar(tmp_path / "t.tar", {**members, "dataset.json": b'{"labels": null}'}))
    assert images.labels() is None
    assert "1 .cls" in images.notes[0]


def test_json_without_a_label_is_left_out_and_said(tmp_path: Path) -> None:
    members = {"0.png": b"", "0.json": b'{"caption": "a cat", "label": "cat"}', "1.png": b"", "1.json": b"[1"}
    images = open_archive(make_tar(tmp_path / "s.tar", members))
    assert images.labels() is None
    assert "2 files are not read, as no images of a known kind: 2 .json" in images.notes[0]


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ({"0.cls": b"cat"}, "label of '0.cls' in .* is cat"),
        ({"0.cls": b"-1"}, "label of '0.cls' in .* is -1"),
        ({"0.cls": b"1" * 40}, "label of '0.cls'"),
        ({"0.cls": b""}, "label of '0.cls'"),
        ({"0.cls": b"1", "1.png": b""}, r"\.cls\) beside some images, and none beside '1\.png'"),
        ({"0.json": b'{"cls": 1}', "1.png": b""}, r"\.json\) beside some images, and none beside '1\.png'"),
        ({"0.json": b'{"cls": 1}', "1.png": b"", "1.json": b"{"}, "'1.json' in .* is no"),
        ({"0.json": b'{"cls": 1}', "1.png": b"", "1.json": b'{"cls": [1.0]}'}, "mixes labels"),
        ({"0.json": b'{"cls": true}', "1.png": b"", "1.json": b"{}"}, "label of '0.json' in .* is True"),
    ],
)
def test_bad_labels_beside_images(tmp_path: Path, members: dict[str, bytes], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        open_archive(make_tar(tmp_path / "s.tar", {"0.png": b"", **members})).labels()


# ----------------------------------------------------------------------------
# Several as one set.


def shards(folder: Path, total: int = 9) -> Path:
    """Three shards of webdataset, the first a ZIP."""
    folder.mkdir()
    step = total // 3
    for part in range(3):
        members = webdataset(range(part * step, (part + 1) * step))
        if part > 0:
            make_tar(folder / f"train-{part}.tar", members)
        else:
            with zipfile.ZipFile(folder / "train-0.zip", "w") as file:
                for name, data in members.items():
                    file.writestr(name, data)
    return folder


def test_shards_are_one_set(tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards")
    whole = open_archive(unpack(tmp_path / "whole", webdataset(range(9))))
    for path in (folder, folder / "train-*", folder / "train-[0-2].*"):
        images = open_archive(path)
        assert (images.names, images.labels()) == (whole.names, whole.labels())
        assert [images.read(name) for name in images.names] == [whole.read(name) for name in whole.names]
        assert images.content_hash(images.names) == whole.content_hash(whole.names)
        assert content_sha256(path) == content_sha256(whole.path)
    assert open_archive(folder / "train-*.tar").names == whole.names[3:]
    source = StoredImages(folder, batch=4)
    assert torch.equal(next(iter(source)).images, next(iter(StoredImages(whole.path, batch=4))).images)
    assert describe_stored(folder, source, 9, 0)["content_sha256"] is None  # it would have to be read


def test_what_of_shards_is_not_read_is_said(tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards")
    (folder / "sizes.txt").write_text("x")
    make_tar(folder / "train-2.tar", {**webdataset(range(6, 9)), "readme.txt": b"x"})
    notes = open_archive(folder).notes
    assert notes[0] == f"{folder}: 'sizes.txt' beside the ZIPs and tars not read"
    assert notes[1].startswith(f"{folder / 'train-2.tar'}: 1 file is not read")


def test_shards_that_do_not_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shards(tmp_path / "shards")
    make_tar(folder / "x.tar", {"0001.png": b""})
    with pytest.raises(ValueError, match=r"train-0\.zip and x\.tar both hold '0001\.png'"):
        open_archive(folder)
    make_tar(folder / "x.tar", {"9.png": b""})
    with pytest.raises(ValueError, match=r"parts with labels, and others without: x\.tar"):
        open_archive(folder).labels()
    make_tar(folder / "x.tar", {"9.txt": b""})
    with pytest.raises(ValueError, match=r"x\.tar holds no images"):
        open_archive(folder)
    monkeypatch.setattr(archive, "MAX_PARTS", 3)
    with pytest.raises(ValueError, match="4 ZIPs and tars, more than the 3"):
        open_archive(folder)


def test_a_bad_image_is_named_with_its_shard(tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards")
    make_tar(folder / "train-2.tar", {**webdataset(range(6, 9)), "0007.png": b"no image"})
    with pytest.raises(ValueError, match=r"'0007\.png' in .*train-2\.tar is not a PNG"):
        list(StoredImages(folder))


def test_class_folders_over_several_tars(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    for number, name in enumerate(("dog", "cat")):
        make_tar(folder / f"{name}.tar", {f"{name}/{i}.png": png(number * 2 + i) for i in range(2)})
    made = Conversion(folder, tmp_path / "made")
    made.run()
    assert open_archive(tmp_path / "made").labels() == {
        f"00000/img{i:08d}.png": label for i, label in enumerate((0, 0, 1, 1))
    }
    assert open_archive(tmp_path / "made").class_names(2)[0] == ("cat", "dog")


def test_generated_parts_have_one_recipe(tmp_path: Path) -> None:
    recipe = {"format": 2, "recipe": {"net": {"found": "0.pkl"}}, "recipe_hash": "ab"}
    for part in range(2):
        moved = {"recipe": {"net": {"found": f"{part}.pkl"}}}
        own = {**recipe, **moved, "seeds": f"{2 * part}-{2 * part + 1}", "num_images": 2}
        members = {f"{2 * part + i:06d}.png": png(i) for i in range(2)}
        make_tar(tmp_path / f"{part}.tar", {**members, "recipe.json": json.dumps(own).encode()})
    images = open_archive(tmp_path / "*.tar")
    assert json.loads(images.read("recipe.json")) == {**recipe, "seeds": "0-1,2-3", "num_images": 4}
    assert StoredImages(tmp_path / "*.tar")._set.seeds == [0, 1, 2, 3]
    make_tar(tmp_path / "2.tar", {"9.png": b"", "recipe.json": b'{"format": 2, "seeds": "4", "recipe_hash": "cd"}'})
    assert "recipe.json" not in open_archive(tmp_path / "*.tar")


def test_folders_with_images_and_names_with_brackets_are_as_ever(tmp_path: Path, make_zip: Any) -> None:
    make_tar(tmp_path / "x.tar", {"9.png": b""})
    (tmp_path / "0.png").write_bytes(png(0))
    assert open_archive(tmp_path).names == ("0.png",)
    assert open_archive(make_zip({"1.png": b""}, name="a[1].zip")).names == ("1.png",)
    with pytest.raises(FileNotFoundError, match=r"nothing\*\.tar does not exist"):
        open_archive(tmp_path / "nothing*.tar")


@pytest.mark.parametrize("field", [124, 148, 156, 257])
def test_flipped_bytes_of_a_header_never_go_unseen(tmp_path: Path, field: int) -> None:
    data = bytearray(make_tar(tmp_path / "s.tar", {"0.png": b"x" * 100, "1.png": b"y"}).read_bytes())
    struct.pack_into("B", data, 2 * tar.BLOCK + field, data[2 * tar.BLOCK + field] ^ 0x41)
    (tmp_path / "s.tar").write_bytes(data)
    with pytest.raises(ValueError, match="damaged at byte 1024"):
        open_archive(tmp_path / "s.tar")


def test_usual_headers_are_read_as_any_other(tmp_path: Path) -> None:
    """Headers with bytes of a field changed, and a checksum that is right: whatever is made of them is the same."""
    draws = np.random.default_rng(0)
    formats = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT)
    infos = [tarfile.TarInfo(name) for name in ("a.png", "d/" * 70 + "b.png", "\u00e9.png")]
    blocks = [info.tobuf(kind)[-512:] for info in infos for kind in formats]
    usual = 0
    for number in range(3000):
        block = bytearray(blocks[number % len(blocks)])
        for place in draws.integers(0, 512, number % 3):
            block[place] = draws.choice([0, 32, 47, 48, 55, 56, 128, 255])
        block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
        found = []
        for read in (
            lambda data: tar._header(tmp_path, io.BytesIO(data), 0),
            lambda data: tar._unusual_header(tmp_path, data, 0),
        ):
            try:
                found.append(read(bytes(block)))
            except ValueError as error:
                found.append(str(error))
        assert found[0] == found[1], bytes(block)
        usual += tar._USUAL.fullmatch(block) is not None
    assert usual > 1000
