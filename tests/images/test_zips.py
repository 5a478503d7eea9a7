import gc
import os
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import pytest

from edm2_guidance.images.archive import open_archive
from edm2_guidance.images.zips import ZipWriter, dataset_json, json_bytes, read_recipe

MEMBERS = {"000001.png": b"one" * 50, "000000.png": b"", "dataset.json": b"{}", "recipe.json": b'{"a": 1}'}


def write(path: Path, members: dict[str, bytes]) -> bytes:
    with ZipWriter(path) as file:
        for name, data in members.items():
            file.add(name, data)
    return path.read_bytes()


def specified_zip(members: dict[str, bytes]) -> bytes:
    """The same, byte by byte after PKWARE's APPNOTE 4.3: stored members of 1980-01-01, -rw-r--r--, by Unix."""
    body, directory = b"", b""
    for name, data in members.items():
        entry = struct.pack("<4H3L2H", 0, 0, 0, 0x21, zlib.crc32(data), len(data), len(data), len(name), 0)
        rest = struct.pack("<3H2L", 0, 0, 0, 0o100644 << 16, len(body))
        directory += b"PK\1\2" + struct.pack("<BBH", 20, 3, 20) + entry + rest + name.encode()
        body += b"PK\3\4" + struct.pack("<H", 20) + entry + name.encode() + data
    end = struct.pack("<4H2LH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + b"PK\5\6" + end


def test_bytes_depend_on_the_content_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path / "a.zip", MEMBERS)
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(2_000_000_000))
    monkeypatch.setattr(sys, "platform", "win32")
    old = os.umask(0o077)
    try:
        second = write(tmp_path / "b.zip", MEMBERS)
    finally:
        os.umask(old)
    assert first == second
    assert first == second == specified_zip(MEMBERS)
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        assert {name: file.read(name) for name in file.namelist()} == MEMBERS


def test_other_programs_read_it(tmp_path: Path) -> None:
    write(tmp_path / "a.zip", MEMBERS)
    for command in (["unzip", "-tqq"], [sys.executable, "-m", "zipfile", "-t"]):
        try:
            result = subprocess.run([*command, tmp_path / "a.zip"], capture_output=True, check=False)
        except FileNotFoundError:  # no unzip here
            continue
        assert result.returncode == 0, result.stderr


def test_zip64_only_where_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for files beyond 4 GiB: with the limit lowered, offsets beyond it get ZIP64 fields, and only they."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    write(tmp_path / "large.zip", {f"{i:06d}.png": bytes([i]) * 400 for i in range(6)})
    monkeypatch.undo()
    with zipfile.ZipFile(tmp_path / "large.zip") as file:
        assert file.testzip() is None
        assert [len(info.extra) for info in file.infolist()] == [0, 0, 0, 12, 12, 12]
        assert file.read("000005.png") == bytes([5]) * 400


@pytest.mark.slow
def test_more_than_65535_members(tmp_path: Path) -> None:
    with ZipWriter(tmp_path / "many.zip") as file:
        for number in range(65_600):
            file.add(f"{number:06d}.png", b"")
    names = open_archive(tmp_path / "many.zip").names
    assert (len(names), names[-1]) == (65_600, "065599.png")


@pytest.mark.parametrize("name", ["", "/a.png", "../a.png", "a/../../b.png", "C:/a.png"])
def test_unsafe_names_are_not_written(tmp_path: Path, name: str) -> None:
    with ZipWriter(tmp_path / "a.zip") as file, pytest.raises(ValueError, match="unsafe name"):
        file.add(name, b"x")


def test_misuse(tmp_path: Path) -> None:
    writer = ZipWriter(tmp_path / "a.zip")
    with pytest.raises(RuntimeError, match="with block"):
        writer.add("a.png", b"x")
    with writer:
        writer.add("a.png", b"x")
        with pytest.raises(ValueError, match="before; every member"):
            writer.add("a.png", b"y")
    with pytest.raises(FileExistsError):
        ZipWriter(tmp_path / "a.zip").__enter__()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_after_an_error_nothing_looks_complete(tmp_path: Path) -> None:
    def work() -> None:
        with ZipWriter(tmp_path / "a.zip") as file:
            file.add("a.png", b"x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    gc.collect()
    assert (tmp_path / "a.zip").read_bytes() == b""


def test_json() -> None:
    assert json_bytes({"b": [1, "é"], "a": None}, indent=None) == b'{"a": null, "b": [1, "\\u00e9"]}\n'
    assert dataset_json(None) == b'{"labels": null}\n'
    assert dataset_json([("1.png", 0), ("0.png", 3)]) == b'{"labels": [["1.png", 0], ["0.png", 3]]}\n'
    assert dataset_json([]) == b'{"labels": []}\n'
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            json_bytes({"a": value})


def test_read_recipe(tmp_path: Path) -> None:
    write(tmp_path / "a.zip", MEMBERS)
    assert read_recipe(tmp_path / "a.zip") == {"a": 1}
    write(tmp_path / "b.zip", {"000000.png": b""})
    assert read_recipe(tmp_path / "b.zip") is None
    deep = b"[" * 100_000 + b"]" * 100_000
    cases = [
        (b"{", "not valid JSON"),
        (b"[1]", "holds a list"),
        (b'{"a": NaN}', "not valid"),
        (b'{"a": 1e999}', "not valid"),
    ]
    for number, (content, message) in enumerate(
        [*cases, (deep, "not valid JSON"), (b'{"a": %b}' % deep, "not valid JSON")]
    ):
        write(tmp_path / f"{number}.zip", {"recipe.json": content})
        with pytest.raises(ValueError, match=message):
            read_recipe(tmp_path / f"{number}.zip")
    with pytest.raises(FileNotFoundError):
        read_recipe(tmp_path / "none.zip")
