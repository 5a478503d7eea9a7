"""Pointers and pages in place of files are called what they are, and nothing else is."""

import os
import struct

import pytest

from dnnlib.stand_ins import refuse_stand_in, stand_in

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234\n"


@pytest.mark.parametrize(
    ("start", "named"),
    [
        (POINTER, "Git LFS pointer"),
        (b"\xef\xbb\xbf" + POINTER, "Git LFS pointer"),
        (b"/annex/objects/MD5E-s3--0.pkl\n", "git-annex"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\n\n  <html lang=en>", "web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
        (b"\xef\xbb\xbf<head>", "web page"),
    ],
)
def test_stand_ins(start, named):
    assert named in stand_in(start)


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"<",
        b"< 3",
        b'{"metric": "fid"}',
        b"PK\x03\x04<html>",
        b"\x80\x04\x95",
        struct.pack("<Q", int.from_bytes(b"<!", "little")) + b"{",  # a safetensors header of 8508 bytes
        struct.pack("<Q", int.from_bytes(b"\n<a", "little")) + b"{",
    ],
)
def test_other_files(start):
    assert stand_in(start) is None


def test_files_are_named_and_pipes_are_not_waited_for(tmp_path):
    (tmp_path / "net.pkl").write_bytes(POINTER)
    with pytest.raises(ValueError, match=r"net\.pkl is a Git LFS pointer, not the file itself: run `git lfs pull`"):
        refuse_stand_in(tmp_path / "net.pkl")
    os.mkfifo(tmp_path / "pipe")
    refuse_stand_in(tmp_path / "pipe")
