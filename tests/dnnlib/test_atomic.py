"""Atomic files."""

import os
import subprocess
import sys

import numpy as np
import pytest

from dnnlib.atomic import atomic_path


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
        "import os, signal, sys\nfrom dnnlib.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as t:\n"
        "    t.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], check=False)
    assert not (tmp_path / "file").exists()
    assert len(os.listdir(tmp_path)) == 1  # it did write
