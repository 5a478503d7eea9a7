"""Optional packages fail with the command that installs them, and hide no other fault."""

import json

import pytest

from dnnlib.extras import need


def test_a_package_that_is_there_is_given():
    assert need("json", "pip install json") is json


def test_a_missing_package_names_its_command():
    with pytest.raises(ImportError, match=r"no_such_package is not installed.*pip install no-such"):
        need("no_such_package.plots", "pip install no-such")


def test_a_fault_inside_a_package_is_not_taken_for_its_absence(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import another_missing_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="another_missing_package"):
        need("broken_package", "pip install broken")
