"""What is no plain file is refused at once: nothing waits, nothing is endless."""

import hashlib
import os
import socket
from pathlib import Path

import pytest

from dnnlib.regular import open_regular, read_regular, sha256_of


def test_plain_files_are_read_through_links(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        assert read_regular(tmp_path / name, 7) == b"content"
        with open_regular(tmp_path / name) as file:
            assert (file.read(3), file.seek(1), file.read()) == (b"con", 1, b"ontent")
    with pytest.raises(ValueError, match="more than the 6 bytes"):
        read_regular(tmp_path / "file", 6)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_regular(tmp_path / "nowhere")


def test_a_file_that_says_less_than_it_has():
    """Files of /proc say 0 bytes."""
    assert read_regular("/proc/self/status", 1 << 16).startswith(b"Name:")
    with pytest.raises(ValueError, match="more than the 10 bytes"):
        read_regular("/proc/self/status", 10)


def pipe(path):
    os.mkfifo(path)


def link_to_pipe(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def unix_socket(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.close()


SPECIAL = [
    (pipe, r"a pipe \(FIFO\)"),
    (link_to_pipe, r"a pipe \(FIFO\)"),
    (unix_socket, "a socket"),
    (lambda path: path.symlink_to("/dev/zero"), "a device"),
    (lambda path: path.mkdir(), "a folder"),
]


@pytest.mark.parametrize(("make", "what"), SPECIAL)
def test_what_is_no_file_is_named(tmp_path, make, what, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    make(Path("x"))
    with pytest.raises(ValueError, match=f"x is {what}, not a file"):
        read_regular("x", 100)


def test_sha256(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(data)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(data).hexdigest()
