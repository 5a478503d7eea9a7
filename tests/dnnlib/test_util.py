"""EasyDict, the cache folder, atomic files, hashes, URLs."""

import hashlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import dnnlib
from dnnlib.util import EasyDict, atomic_path, is_url, make_cache_dir_path, printable, sha256_of


def test_easydict_attributes_are_entries():
    record = EasyDict(a=1)
    record.b = None
    assert record == {"a": 1, "b": None}
    assert record.b is None
    del record.a
    assert "a" not in record
    with pytest.raises(AttributeError, match=r"'a'.*there are: b"):
        _ = record.a
    with pytest.raises(AttributeError, match="'a'"):
        del record.a
    assert not hasattr(record, "__array__")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_easydict_pickles_under_the_name_of_the_format(protocol):
    record = EasyDict(ema=EasyDict(x=[1, 2]))
    data = pickle.dumps(record, protocol)
    assert b"dnnlib.util" in data
    copy = pickle.loads(data)
    assert copy == record
    assert type(copy) is type(copy.ema) is dnnlib.EasyDict


def test_cache_folder_follows_the_environment_and_is_not_made(monkeypatch, tmp_path):
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path / "c"))
    assert make_cache_dir_path("downloads", "x") == str(tmp_path / "c" / "downloads" / "x")
    assert not (tmp_path / "c").exists()
    monkeypatch.delenv("DNNLIB_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_cache_dir_path() == str(tmp_path / ".cache" / "dnnlib")


def test_atomic_path_replaces_only_when_the_block_ends_well(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        temporary.write_text("one")
        written = temporary.stat().st_ino
        assert not target.exists()
    assert target.stat().st_ino == written  # renamed, not copied: nobody can see half of it
    assert target.read_text() == "one"

    def interrupted():
        with atomic_path(target) as temporary:
            temporary.write_text("two, cut sh")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "one"
    assert os.listdir(target.parent) == ["file.txt"]


def test_atomic_path_keeps_the_suffix_for_writers_that_add_it(tmp_path):
    with atomic_path(tmp_path / "a.npz") as temporary:
        np.savez(temporary, x=np.arange(3))
    assert os.listdir(tmp_path) == ["a.npz"]
    assert np.load(tmp_path / "a.npz")["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_atomic_path_gives_the_mode_of_a_new_file(tmp_path, umask):
    """Also where a writer, as that of safetensors, makes a file that only its owner can read."""
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "a") as temporary:
            temporary.touch(0o600)
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
    finally:
        os.umask(before)


def test_atomic_path_follows_links_and_names_mistakes(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "real" / "file.txt")
    with atomic_path(tmp_path / "link.txt") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real" / "file.txt").read_text() == "x"
    with pytest.raises(IsADirectoryError, match="is a folder"), atomic_path(tmp_path / "real"):
        pass
    with pytest.raises(FileNotFoundError, match="nothing was written"), atomic_path(tmp_path / "none"):
        pass


def test_atomic_path_with_the_longest_name_that_a_filesystem_takes(tmp_path):
    target = tmp_path / ("n" * 251 + ".pkl")
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"x")
    assert target.read_bytes() == b"x"


def test_killed_writer_leaves_nothing_under_the_name(tmp_path):
    code = (
        "import os, signal, sys\nfrom dnnlib.util import atomic_path\n"
        "with atomic_path(sys.argv[1]) as t:\n"
        "    t.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], check=False)
    assert not (tmp_path / "file").exists()
    assert len(os.listdir(tmp_path)) == 1  # it did write


def test_sha256(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(data)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://a.b/c.pkl", True),
        ("HTTP://a:80", True),
        ("ftp://a/b", False),
        ("file:///etc/passwd", False),
        ("https:///no-host", False),
        ("http://[half", False),
        ("models/net.pkl", False),
        ("C:\\net.pkl", False),
        ("", False),
    ],
)
def test_is_url(text, expected):
    assert is_url(text) is expected


def test_dnnlib_needs_no_torch():
    code = "import sys, dnnlib, dnnlib.download; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_printable_lines_hold_no_escape_sequences():
    assert printable("Größe 3 µm \\") == "Größe 3 µm \\"
    assert printable("\x1b[2J\n\udcff\u202e") == r"\x1b[2J\n\udcff\u202e"
