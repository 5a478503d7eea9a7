"""Caches in folders like /tmp: one's own, closed to others, and nobody else's."""

import os
import stat

import pytest

from dnnlib import shared_places
from dnnlib.cache import make_cache_dir_path
from dnnlib.download import fetch
from dnnlib.shared_places import check_own, make_own

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs owners and modes of files")


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A folder like /tmp, and the only one: the tests' own lie in /tmp, most likely, and are closed to others."""
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setattr(shared_places, "_is_shared", lambda other: other == folder)
    return folder


@pytest.mark.parametrize(("bits", "expected"), [(0o1777, True), (0o777, False), (0o1775, False), (0o700, False)])
def test_what_a_shared_place_is(tmp_path, bits, expected):
    tmp_path.chmod(bits)
    assert shared_places._is_shared(tmp_path) is expected
    tmp_path.chmod(0o700)
    assert not shared_places._is_shared(tmp_path / "missing")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_made_in_a_shared_place_are_closed_to_others(shared):
    make_own(shared / "a" / "b")
    assert mode(shared / "a") == mode(shared / "a" / "b") == 0o700
    check_own(shared / "a" / "b")


def test_elsewhere_they_have_the_mode_of_every_new_folder(shared, tmp_path):
    (tmp_path / "usual").mkdir()
    make_own(tmp_path / "made")
    assert mode(tmp_path / "made") == mode(tmp_path / "usual")


@pytest.mark.parametrize("bits", [0o777, 0o775, 0o772, 0o1777])
def test_folders_that_others_can_write_to_are_refused(shared, bits):
    (shared / "cache").mkdir()
    (shared / "cache").chmod(bits)
    for check in (check_own, make_own):
        with pytest.raises(PermissionError, match=r"shared/cache can be written to by other users.*DNNLIB_CACHE_DIR"):
            check(shared / "cache" / "downloads")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="what belongs to root is trusted")
def test_folders_of_others_are_refused(shared, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    (shared / "cache").mkdir(0o755)
    with pytest.raises(PermissionError, match="belongs to another user"):
        check_own(shared / "cache" / "downloads")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to give folders away")
def test_folders_and_links_of_others_are_refused(shared):
    (shared / "cache").mkdir(0o755)
    (shared / "mine").mkdir(0o700)
    (shared / "link").symlink_to(shared / "mine")
    os.chown(shared / "cache", 54321, 54321)
    os.chown(shared / "link", 54321, 54321, follow_symlinks=False)
    for name in ("cache", "link"):
        with pytest.raises(PermissionError, match="belongs to another user"):
            check_own(shared / name / "downloads")


def test_below_a_closed_folder_modes_do_not_matter(shared):
    make_own(shared / "mine")
    (shared / "mine" / "open").mkdir()
    (shared / "mine" / "open").chmod(0o777)
    check_own(shared / "mine" / "open")


def test_the_cache_without_a_home_is_one_for_each_user(shared, monkeypatch):
    monkeypatch.delenv("DNNLIB_CACHE_DIR")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does where there is no home
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(shared))
    assert make_cache_dir_path("x") == str(shared / f"dnnlib-cache-{os.getuid()}" / "x")
    monkeypatch.setattr("os.getuid", lambda: 54321)
    assert make_cache_dir_path() == str(shared / "dnnlib-cache-54321")


def test_a_cache_that_others_could_fill_is_refused_before_anything_is_fetched(shared, monkeypatch):
    """Also what lies there already."""
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(shared / "cache"))
    (shared / "cache" / "downloads").mkdir(parents=True)
    (shared / "cache").chmod(0o777)
    for offline in (False, True):
        with pytest.raises(PermissionError, match="can be written to by other users"):
            fetch("http://127.0.0.1:9/net.bin", offline=offline)
