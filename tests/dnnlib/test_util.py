"""EasyDict and the cache folder, as network files and the whole project know them."""

import pickle

import pytest

import dnnlib
from dnnlib.cache import make_cache_dir_path
from dnnlib.util import EasyDict


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
