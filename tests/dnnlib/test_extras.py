"""Optional packages fail with the command that installs them, and hide no other fault."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dnnlib.extras import need

ROOT = Path(__file__).resolve().parents[2]


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


def test_pictures_for_files_need_no_backend_of_a_notebook(tmp_path):
    """In a process of its own, since matplotlib asks for the backend as it is imported."""
    code = (
        "import os; from dnnlib.extras import matplotlib_figure; matplotlib_figure()().savefig('a.png'); "
        "print(os.environ['MPLBACKEND'])"
    )
    env = {**os.environ, "MPLBACKEND": "module://no_such_package.backend", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "module://no_such_package.backend", done.stderr
    assert (tmp_path / "a.png").exists()
