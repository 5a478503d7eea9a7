import json
import multiprocessing
import os
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edm2_guidance.images import unzip
from edm2_guidance.images.archive import Archive, open_archive, select_subset
from edm2_guidance.images.labels import count_classes
from edm2_guidance.images.unzip import damage_means, open_zip, read_zip_member

MEMBERS = {
    "b/2.PNG": b"two",
    "a/10.jpeg": b"ten",
    "a/9.npy": b"nine",
    "Z.webp": b"zed",
    "a/c.Bmp": b"c",
    "readme.txt": b"no image",
    "a/.hidden.png": b"left behind by a writer",
    "__MACOSX/a/10.jpeg": b"left behind by a file manager",
}
NAMES = ("Z.webp", "a/10.jpeg", "a/9.npy", "a/c.Bmp", "b/2.PNG")


def make_folder(root: Path, members: dict[str, bytes]) -> Path:
    for name, data in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def open_handles(path: Path) -> int:
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sum(os.path.exists(link) and os.path.samefile(link, path) for link in links)


def test_a_folder_and_its_zip_look_the_same(make_zip: Any, tmp_path: Path) -> None:
    sets = [open_archive(make_zip(MEMBERS)), open_archive(make_folder(tmp_path / "set", MEMBERS))]
    for images in sets:
        assert images.names == NAMES
        assert {name: images.read(name) for name in NAMES} == {name: MEMBERS[name] for name in NAMES}
        assert images.read("readme.txt") == b"no image"
        assert "readme.txt" in images
        assert "missing.png" not in images
        assert images.labels() is None


def test_directory_entries_of_a_zip_are_no_members(make_zip: Any) -> None:
    images = open_archive(make_zip({"a/": b"", "a/0.png": b"x", "b.png/": b""}))
    assert images.names == ("a/0.png",)
    assert "a/" not in images


def test_links_are_followed_and_loops_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "elsewhere", {"0.png": b"x"})
    root = make_folder(tmp_path / "set", {"a/1.png": b"y"})
    (root / "b").symlink_to(tmp_path / "elsewhere")
    assert open_archive(root).read("b/0.png") == b"x"
    (root / "broken.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"broken\.png"):
        open_archive(root).read("broken.png")
    (root / "a" / "loop").symlink_to(root)
    with pytest.raises(ValueError, match="contains it"):
        open_archive(root)


@pytest.mark.parametrize(
    "name", ["../x.png", "a/../../x.png", "/x.png", "C:/x.png", "..\\x.png", "a/\n.png", "\\\\host\\x.png"]
)
def test_unsafe_names_are_refused(make_zip: Any, name: str) -> None:
    with pytest.raises(ValueError, match="unsafe name"):
        open_archive(make_zip({"ok.png": b"x", name: b"y"}))


def test_junk_may_have_odd_names(make_zip: Any) -> None:
    junk = {"Icon\r": b"", "cat/Icon\r": b"", "__MACOSX/cat/._Icon\r": b"x", ".a\tb": b""}
    images = open_archive(make_zip({"cat/0.png": b"x", **junk}))
    assert (images.names, images.notes) == (("cat/0.png",), ())
    with pytest.raises(ValueError, match="unsafe name"):
        open_archive(make_zip({"0.png": b"x", "__MACOSX/../../.x\r": b"y"}))


def test_duplicate_members_are_refused(make_zip: Any, tmp_path: Path) -> None:
    path = make_zip({"0.png": b"x"})
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as file:
        warnings.simplefilter("ignore")
        file.writestr("0.png", b"y")
    with pytest.raises(ValueError, match=r"two members named '0\.png'"):
        open_archive(path)


def patch_directory(path: Path, offset: int, code: str, value: int) -> None:
    """Change a field of the first entry of a ZIP's central directory."""
    data = bytearray(path.read_bytes())
    struct.pack_into(code, data, data.index(b"PK\x01\x02") + offset, value)
    path.write_bytes(data)


def test_absurd_sizes_encryption_and_methods_are_refused(make_zip: Any) -> None:
    path = make_zip({"0.png": b"x" * 10})
    patch_directory(path, 24, "<I", 11)
    with pytest.raises(ValueError, match=r"0\.png.*claims 11 bytes in 10"):
        open_archive(path)

    path = make_zip({"0.png": b"x" * 100}, compression=zipfile.ZIP_DEFLATED)
    assert open_archive(path).read("0.png") == b"x" * 100
    patch_directory(path, 24, "<I", 1 << 29)
    with pytest.raises(ValueError, match="hostile"):
        open_archive(path)

    path = make_zip({"0.png": b"x" * 10})
    patch_directory(path, 20, "<I", unzip.MAX_MEMBER_BYTES + 1)
    patch_directory(path, 24, "<I", unzip.MAX_MEMBER_BYTES + 1)
    with pytest.raises(ValueError, match="hostile"):
        open_archive(path)

    path = make_zip({"0.png": b"x" * 10})
    patch_directory(path, 8, "<H", 1)
    with pytest.raises(ValueError, match="encrypted"):
        open_archive(path)

    with pytest.raises(ValueError, match="another method than deflate"):
        open_archive(make_zip({"0.png": b"x" * 10}, compression=zipfile.ZIP_LZMA))


def test_what_is_no_image_set_is_refused(make_zip: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.zip does not exist"):
        open_archive(tmp_path / "nothing.zip")
    (tmp_path / "text.zip").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"text\.zip is not a ZIP file"):
        open_archive(tmp_path / "text.zip")
    (tmp_path / "text.zip").write_bytes(b"")
    with pytest.raises(ValueError, match=r"text\.zip is empty: copy or make it again"):
        open_archive(tmp_path / "text.zip")
    with pytest.raises(ValueError, match="holds no images"):
        open_archive(make_zip({"readme.txt": b""}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        open_archive(tmp_path / "empty")
    path = make_zip({"0.png": b"x" * 1000})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="truncated"):
        open_archive(path)


def test_a_flipped_bit_names_archive_and_member(make_zip: Any) -> None:
    path = make_zip({"0.png": b"x" * 1000, "1.png": b"y" * 1000})
    data = path.read_bytes()
    where = data.index(b"y" * 10) + 500
    path.write_bytes(data[:where] + b"Y" + data[where + 1 :])
    images = open_archive(path)
    assert images.read("0.png") == b"x" * 1000
    with pytest.raises(ValueError, match=r"1\.png.*set\.zip is damaged"):
        images.read("1.png")
    with pytest.raises(ValueError, match=r"no member '2\.png'"):
        images.read("2.png")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_mutated_zips_give_content_or_a_clear_error(make_zip: Any, compression: int) -> None:
    """Content that a CRC covers is never handed out changed, and nothing but ValueError comes out."""
    members = {f"{i}.png": bytes([i]) * 40 for i in range(3)}
    path = make_zip(members, labels=[[name, 0] for name in members], compression=compression)
    original = path.read_bytes()
    random = np.random.RandomState(0)
    refused: list[str] = []
    for _ in range(600):
        data = bytearray(original)
        for _ in range(random.randint(1, 4)):
            data[random.randint(len(data))] = random.randint(256)
        path.write_bytes(data)
        try:
            with open_archive(path) as images:
                for name in images.names:
                    content = images.read(name)
                    assert members.get(name, content) == content
                images.labels()
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 200
    assert all("set.zip" in message for message in refused)


def test_labels_are_classes_or_vectors(make_zip: Any, tmp_path: Path) -> None:
    members = {"a/0.png": b"x", "1.png": b"y"}
    assert open_archive(make_zip(members, labels=None)).labels() is None
    path = make_zip(members, labels=[["1.png", 0], ["a\\0.png", 7]])
    assert open_archive(path).labels() == {"1.png": 0, "a/0.png": 7}
    path = make_zip(members, labels=[["1.png", [1, 0.5]], ["a/0.png", [0, -2]]])
    assert open_archive(path).labels() == {"1.png": [1.0, 0.5], "a/0.png": [0.0, -2.0]}
    folder = make_folder(tmp_path / "set", members)
    (folder / "dataset.json").write_text(json.dumps({"labels": [["a/0.png", 1], ["1.png", 0]]}))
    assert open_archive(folder).labels() == {"1.png": 0, "a/0.png": 1}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["0.png", 1], ["1.png", 1], ["2.png", 1]], r"'2\.png', which is not in the image set"),
        ([["0.png", 1]], r"no label for '1\.png'"),
        ([["0.png", 1], ["0.png", 1], ["1.png", 1]], r"two labels for '0\.png'"),
        ([["0.png", 1], ["1.png", [1.0]]], r"mixes labels: '0\.png' has a class index, '1\.png' a vector of 1"),
        ([["0.png", [1, 2]], ["1.png", [1]]], "mixes labels"),
        ([["0.png", -1], ["1.png", 1]], r"label of '0\.png' .* is -1"),
        ([["0.png", True], ["1.png", 1]], "is True"),
        ([["0.png", 1.5], ["1.png", 1]], "is 1.5"),
        ([["0.png", []], ["1.png", []]], r"is \[\]"),
        ([["0.png", [float("nan")]], ["1.png", [1]]], "NaN is no number"),
        ([["0.png", [10**400]], ["1.png", [1]]], "401 digits"),
        ([["0.png"], ["1.png", 1]], "entry 0"),
        ({"0.png": 1}, "is a dict"),
    ],
)
def test_wrong_labels_are_refused_by_name(make_zip: Any, labels: Any, message: str) -> None:
    images = open_archive(make_zip({"0.png": b"x", "1.png": b"y"}, labels=labels))
    with pytest.raises(ValueError, match=message) as caught:
        images.labels()
    assert "dataset.json" in str(caught.value)


def test_malformed_dataset_json(make_zip: Any) -> None:
    for text, message in [(b"{", "not valid JSON"), (b"[]", 'no "labels"'), (b"{}", 'no "labels"')]:
        with pytest.raises(ValueError, match=message):
            open_archive(make_zip({"0.png": b"x", "dataset.json": text})).labels()


def read_all(images: Archive) -> list[bytes]:
    return [images.read(name) for name in images.names]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_through_handles_of_their_own(make_zip: Any, method: str) -> None:
    members = {f"{i:03d}.png": bytes([i]) * 5000 for i in range(100)}
    images = open_archive(make_zip(members))
    expected = read_all(images)  # the parent's handle is open when the workers start
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(read_all, [images] * 4) == [expected] * 4
    assert read_all(images) == expected


def fork_and_read(images: Archive, expected: list[bytes]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            ok = all(read_all(images) == expected for _ in range(20))
        except BaseException:
            ok = False
        os._exit(0 if ok else 1)
    return pid


def test_forked_children_and_parent_do_not_disturb_each_other(make_zip: Any) -> None:
    """A shared file position would mix up members; the handle is not passed by pickling here."""
    images = open_archive(make_zip({f"{i:03d}.png": bytes([i]) * 5000 for i in range(50)}))
    expected = read_all(images)
    children = [fork_and_read(images, expected) for _ in range(3)]
    for _ in range(20):
        assert read_all(images) == expected
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]


def test_threads_share_an_archive(make_zip: Any) -> None:
    images = open_archive(make_zip({f"{i:03d}.png": bytes([i]) * 5000 for i in range(100)}))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(images.read, images.names)) == read_all(images)


def test_handles_are_given_back(make_zip: Any) -> None:
    path = make_zip({"0.png": b"x"})
    images = open_archive(path)
    with images:
        images.read("0.png")
        assert open_handles(path) == 1
    assert open_handles(path) == 0
    assert pickle.loads(pickle.dumps(images)).read("0.png") == b"x"
    assert images.read("0.png") == b"x"
    images.close()
    assert open_handles(path) == 0
    with pytest.raises(ValueError, match="holds no images"):
        open_archive(make_zip({"0.txt": b"x"}, name="empty.zip"))
    assert open_handles(path.with_name("empty.zip")) == 0


def test_select_subset_follows_the_rule_of_edm2() -> None:
    """numpy's legacy generator is frozen: RandomState(3) shuffles 0..9 to 5 4 1 2 9 6 7 0 3 8."""
    assert select_subset(10, 4, 3) == [1, 2, 4, 5]
    assert select_subset(10, 4, 3 + 2**31) == [1, 2, 4, 5]
    assert select_subset(10, 10, 3) == list(range(10))
    assert select_subset(10, None, 3) == list(range(10))
    assert select_subset(0, None, 0) == []
    with pytest.raises(ValueError, match="subset of 0"):
        select_subset(10, 0, 0)


@given(n=st.integers(1, 200), size=st.integers(1, 250), seed=st.integers(-(2**40), 2**40))
def test_subsets_are_sorted_distinct_and_of_the_asked_size(n: int, size: int, seed: int) -> None:
    chosen = select_subset(n, size, seed)
    assert len(chosen) == len(set(chosen)) == min(n, size)
    assert chosen == sorted(chosen)
    assert set(chosen) <= set(range(n))


def test_sizes_beyond_the_file_are_refused_before_they_are_allocated(make_zip: Any) -> None:
    path = make_zip({"0.png": b"x" * 10})
    for offset in (20, 24):
        patch_directory(path, offset, "<I", unzip.MAX_MEMBER_BYTES)
    with pytest.raises(ValueError, match=rf"0\.png.*claims {unzip.MAX_MEMBER_BYTES} bytes, which are not there"):
        open_archive(path)
    with open_zip(path) as file, pytest.raises(ValueError, match="which are not there"):
        read_zip_member(path, file, "0.png")


def test_json_that_unpacks_to_far_more_than_its_zip_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """As objects it would take twenty times as much again."""
    for name in ("dataset.json", "recipe.json", "more/of.JSON"):
        with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("0.png", b"x")
            file.writestr(name, b'{"labels": [' + b"[]," * 7_000_000 + b"[]]}")
        with pytest.raises(ValueError, match=f"{name}.*claims 210000.* compressed ones"):
            open_archive(tmp_path / "set.zip")


def test_a_member_larger_than_it_says_is_not_unpacked_whole(make_zip: Any) -> None:
    path = make_zip({"0.png": bytes(1 << 26)}, compression=zipfile.ZIP_DEFLATED)
    patch_directory(path, 24, "<I", 10)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"0\.png.* is damaged"):
        open_archive(path).read("0.png")
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()


def test_members_that_share_bytes_are_refused(make_zip: Any) -> None:
    path = make_zip({"0.png": b"x" * 100, "1.png": b"y" * 100})
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 4)
    struct.pack_into("<I", data, second + 42, 40)  # where its bytes begin
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"'0\.png' and '1\.png' in .* share bytes"):
        open_archive(path)


def test_endless_names_are_refused_in_short(make_zip: Any) -> None:
    with pytest.raises(ValueError, match="a name of 60004 characters") as caught:
        open_archive(make_zip({"x" * 60_000 + ".png": b"x"}))
    assert len(str(caught.value)) < 300
    labels = [["0.png", 1], ["x" * 60_000, 1]]
    with pytest.raises(ValueError, match=r"entry 1 of the labels .* a name of 60000 characters"):
        open_archive(make_zip({"0.png": b"x"}, labels=labels)).labels()


def test_members_do_not_vanish_in_a_comment(make_zip: Any) -> None:
    """The directory's first entry says that its comment has 256 bytes: the entries that follow, as it happens."""
    path = make_zip({"0.png": b"x", **{f"{i}.png": b"y" for i in range(1, 6)}})
    patch_directory(path, 32, "<H", 256)
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == ["0.png"]
    with pytest.raises(ValueError, match=r"set\.zip is a damaged .*6 members are announced, 1 are listed"):
        open_archive(path)


def test_a_zip_of_macos_with_more_members_than_it_can_count(make_zip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes no ZIP64 record: 70,000 members are announced as 4,464. Here, 70 are as 6."""
    path = make_zip({f"{i:02d}.png": b"%d" % i for i in range(70)})
    announce(path, 70 % 64)
    monkeypatch.setattr(unzip, "_COUNTED_MODULO", 64)
    images = open_archive(path)
    assert len(images.names) == 70
    assert images.read("69.png") == b"69"
    announce(path, 7)
    with pytest.raises(ValueError, match="7 members are announced, 70 are listed"):
        open_archive(path)


def announce(path: Path, number: int) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into("<HH", data, data.rindex(b"PK\x05\x06") + 8, number, number)
    path.write_bytes(data)


def test_a_zip_of_macos_beyond_4_gib(make_zip: Any) -> None:
    """Two holes of 3 GiB each, which take no disk: places run past 4 GiB without a ZIP64 record."""
    path = make_zip({f"{i}.png": bytes([i]) * 50 for i in range(4)})
    data = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        starts = [info.header_offset for info in file.filelist]
        directory = bytearray(data[file.start_dir : data.rindex(b"PK\x05\x06")])
        ends = [*starts[1:], file.start_dir]
    shifts = [0, 3 << 30, 3 << 30, 6 << 30]
    with open(path, "wb") as raw:
        for start, end, shift in zip(starts, ends, shifts, strict=True):
            raw.seek(start + shift)
            raw.write(data[start:end])
        position = 0
        for start, shift in zip(starts, shifts, strict=True):
            position = directory.index(b"PK\x01\x02", position)
            struct.pack_into("<I", directory, position + 42, (start + shift) % (1 << 32))
            position += 4
        where = raw.tell()
        raw.write(directory)
        raw.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 4, 4, len(directory), where % (1 << 32), 0))
    images = open_archive(path)
    assert [images.read(name) for name in images.names] == [bytes([i]) * 50 for i in range(4)]


def test_names_with_backslashes_and_labels_that_repeat_them(make_zip: Any, tmp_path: Path) -> None:
    """As PowerShell 5 packs, and as bad tools unpack."""
    path = make_zip({"cat\\0.png": b"x", "dog\\1.png": b"y"}, labels=[["cat\\0.png", 0], ["dog/1.png", 1]])
    (tmp_path / "set").mkdir()
    for name, data in (("cat\\0.png", b"x"), ("dog\\1.png", b"y")):
        (tmp_path / "set" / name).write_bytes(data)
    (tmp_path / "set" / "dataset.json").write_text('{"labels": [["cat/0.png", 0], ["dog\\\\1.png", 1]]}')
    assert [*open_archive(path).checksums()] == [*open_archive(tmp_path / "set").checksums()]
    for images in (open_archive(path), open_archive(tmp_path / "set")):
        assert images.names == ("cat/0.png", "dog/1.png")
        assert images.read("cat/0.png") == b"x"
        assert images.labels() == {"cat/0.png": 0, "dog/1.png": 1}
        assert images.folders == ("cat", "dog")


@pytest.mark.parametrize("prefix", ["", "pets/"])
def test_labels_inside_the_folder_that_was_zipped(make_zip: Any, prefix: str) -> None:
    labels = json.dumps({"labels": [[f"{prefix}0.png", 0], [f"{prefix}1.png", 1]], "class_names": ["cat", "dog"]})
    images = open_archive(make_zip({"pets/0.png": b"x", "pets/1.png": b"y", "pets/dataset.json": labels.encode()}))
    assert images.labels() == {"pets/0.png": 0, "pets/1.png": 1}
    assert images.class_names(2) == (("cat", "dog"), ())


def test_labels_match_names_of_another_unicode_form(make_zip: Any) -> None:
    """The set was packed on macOS, its labels written elsewhere; a form that two images share matches none."""
    composed, apart = "caf\u00e9.png", "cafe\u0301.png"
    for written in (composed, f"a/{composed}"):
        labels = json.dumps({"labels": [[written, 0], ["1.png", 1]]}).encode()
        images = open_archive(make_zip({f"a/{apart}": b"x", "a/1.png": b"y", "a/dataset.json": labels}))
        assert images.labels() == {f"a/{apart}": 0, "a/1.png": 1}
    images = open_archive(make_zip({apart: b"x", composed: b"y"}, labels=[[composed, 0], [apart, 1]]))
    assert images.labels() == {apart: 1, composed: 0}
    images = open_archive(make_zip({"\u00c5.png": b"x", "A\u030a.png": b"y"}, labels=[["\u212b.png", 0]]))
    with pytest.raises(ValueError, match="which is not in the image set"):
        images.labels()


def test_utf8_names_that_do_not_say_so(make_zip: Any) -> None:
    """macOS leaves the flag out; in the DOS code page the name would be another one than in dataset.json."""
    path = make_zip({"caf\N{LATIN SMALL LETTER E WITH ACUTE}.png": b"x"})
    data = path.read_bytes()
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        where = data.index(magic) + place
        flags = struct.unpack_from("<H", data, where)[0] & ~0x800
        data = data[:where] + struct.pack("<H", flags) + data[where + 2 :]
    path.write_bytes(data)
    images = open_archive(path)
    assert images.names == ("caf\N{LATIN SMALL LETTER E WITH ACUTE}.png",)
    assert images.read(images.names[0]) == b"x"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, None),
        ({"0": "cat"}, "they are a dict, not a list"),
        ("cat", "they are a str, not a list"),
        ([], "there are 0 of them"),
        (["cat", 1], "that of class 1 is a int, not a text"),
        ([""], "that of class 0 has 0 characters, not 1 to 200"),
        (["x" * 201], "that of class 0 has 201 characters, not 1 to 200"),
    ],
)
def test_class_names_of_another_form_are_none_and_said(make_zip: Any, value: Any, problem: str | None) -> None:
    content = json.dumps({"labels": [["0.png", 0]], "class_names": value}).encode()
    images = open_archive(make_zip({"0.png": b"x", "dataset.json": content}))
    note = f"classes have no names; class_names in dataset.json of {images.path}: {problem}"
    assert images.class_names(1) == (None, () if problem is None else (note,))
    assert images.labels() == {"0.png": 0}


def test_fewer_names_than_classes_are_said(make_zip: Any) -> None:
    content = json.dumps({"labels": [["0.png", 2]], "class_names": ["cat", "dog"]}).encode()
    images = open_archive(make_zip({"0.png": b"x", "dataset.json": content}))
    names, notes = images.class_names(count_classes((images.labels() or {}).values()))
    assert names == ("cat", "dog")
    assert [note.endswith("there are 2 of them for 3 classes") for note in notes] == [True]
    assert images.class_names(count_classes([[0.5]])) == (names, ())


def test_all_names_that_do_not_match_are_counted(make_zip: Any) -> None:
    members = {f"{i:02d}.png": b"x" for i in range(20)}
    with pytest.raises(ValueError, match=r"a label for 'x00', .*'x09' and 3 more, which is not in"):
        open_archive(make_zip(members, labels=[[f"x{i:02d}", 0] for i in range(13)])).labels()
    with pytest.raises(ValueError, match=r"no label for '02\.png', .* and 8 more; add it"):
        open_archive(make_zip(members, labels=[["00.png", 0], ["01.png", 1]])).labels()


def link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", ["0.png", "dataset.json"])
@pytest.mark.parametrize("make", [os.mkfifo, link_to_zeros])
def test_devices_and_pipes_in_a_folder_are_refused_at_once(tmp_path: Path, make: Any, name: str) -> None:
    make_folder(tmp_path / "set", {"1.png": b"x"})
    make(tmp_path / "set" / name)
    images = open_archive(tmp_path / "set")
    with pytest.raises(ValueError, match=f"{name} is a .*, not a file"):
        [*map(images.read, images.names), images.labels()]


def test_a_pipe_in_place_of_a_set_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "set.zip")
    with pytest.raises(ValueError, match=r"set\.zip is a pipe"):
        open_archive(tmp_path / "set.zip")


def test_no_images_says_what_is_there_instead(make_zip: Any) -> None:
    with pytest.raises(ValueError, match=r"holds no images; .*\(2 files are not read, .*: 1 \.avif, 1 \.heic\)"):
        open_archive(make_zip({"0.heic": b"x", "a/1.avif": b"x"}))


def test_bytes_behind_the_end_are_refused(make_zip: Any) -> None:
    path = make_zip({"0.png": b"x"})
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ValueError, match="other bytes follow its end"):
        open_archive(path)
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b"a comment is no harm"
    assert open_archive(path).names == ("0.png",)


def test_an_image_does_not_vanish_with_its_name(make_zip: Any) -> None:
    """One bit of the directory makes 0.png a file that is no image, which nobody would have missed."""
    path = make_zip({"0.png": b"x", "1.png": b"y"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 46 + 2] ^= 1  # 0.png -> 0.qng
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"'0\.qng' in .*set\.zip is damaged"):
        open_archive(path)


def test_what_is_wrong_is_quoted_in_short() -> None:
    """zipfile quotes the name that lies before a member's bytes, which may have any length."""
    with pytest.raises(ValueError, match=r"^damaged ") as caught, damage_means("damaged"):
        raise zipfile.BadZipFile("n" * 60_000)
    assert len(str(caught.value)) < 1000
