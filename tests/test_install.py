"""What pip installs: four names, the console commands, the files that ship; and that these need nothing else."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import HeaderParser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

try:  # not imported: setuptools takes the place of modules of the standard library
    NEW_ENOUGH = importlib.util.find_spec("pip") and int(version("setuptools").split(".")[0]) >= 77
except PackageNotFoundError:
    NEW_ENOUGH = False
pytestmark = pytest.mark.skipif(not NEW_ENOUGH, reason="needs pip, and setuptools 77 or later")

ROOT = Path(__file__).resolve().parents[1]
NAMES = {"edm2_guidance", "dnnlib", "torch_utils", "training"}
COMMANDS = sorted(re.findall(r"^(edm2-[\w-]+) = ", (ROOT / "pyproject.toml").read_text(), re.M))
PIP = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index"]


def run(*words, **more):
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=600, check=False, **more)
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """What a fresh checkout has: a `build` folder of before would end up in the wheel."""
    folder = tmp_path_factory.mktemp("source")
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, folder)
        elif path.name in {*NAMES, "tests", "benchmarks", "docs"}:
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", "*.png"))
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, *PIP, "wheel", *OFFLINE, "--wheel-dir", folder, source)
    (file,) = folder.iterdir()
    return file


def environment(folder, what):
    """A fresh virtual environment with `what` installed, and below it, by a .pth, what the tests run on."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "below.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    run(sys.executable, *PIP, "--python", folder / "bin" / "python", "install", *OFFLINE, *what)
    return folder / "bin", site


def test_the_wheel_holds_four_names_and_all_files_that_are_no_code(wheel):
    with zipfile.ZipFile(wheel) as file:
        members = set(file.namelist())
        info = next(name.split("/")[0] for name in members if name.endswith("/METADATA"))
        metadata = HeaderParser().parsestr(file.read(f"{info}/METADATA").decode())
        entries = file.read(f"{info}/entry_points.txt").decode()
    assert {name.split("/")[0] for name in members} - {info} == NAMES
    tracked = {
        path.relative_to(ROOT).as_posix()
        for name in NAMES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in members if not name.startswith(info)} == tracked
    assert sorted(re.findall(r"^(edm2-[\w-]+) = ", entries, re.M)) == COMMANDS
    assert {"torch", "click", "numpy"} <= {re.split(r"\W", need)[0] for need in metadata.get_all("Requires-Dist")}


def demo():
    """The lines of `make demo`, without Python, for few images."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    variables = dict(re.findall(r"^(\w+) :?= (.*)$", text, re.M))
    for line in re.search(r"^demo:.*\n((?:\t.*\n)+)", text, re.M)[1].splitlines():
        while "$(" in line:
            line = re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], line)
        words = shlex.split(line.strip().removeprefix("@"))
        if words[0].endswith("python"):
            few = [] if "--images=mnist16-test-500" in words else [r"^(--num(?:_images)?)=500$", r"\1=4"]
            cut = [re.sub(*few, word) if few else word for word in words[1:]]
            yield [re.sub(r"^(--classes|--seeds)=0-\d$", r"\1=0", word) for word in cut]


@pytest.mark.slow  # half a minute, most of it for starting eleven processes
def test_a_wheel_works_alone_in_an_empty_folder(wheel, tmp_path):
    bin, site = environment(tmp_path / "venv", [wheel])
    assert {path.name for path in site.iterdir()} - {"__pycache__", "below.pth"} == {
        *NAMES, next(path.name for path in site.glob("edm2_guidance-*.dist-info"))
    }  # fmt: skip
    assert {path.name for path in bin.glob("edm2-*")} == set(COMMANDS)
    work, bare = empty(tmp_path)
    for command in COMMANDS:
        assert f"Usage: {command}" in run(bin / command, "--help", cwd=work, env=bare)
    code = (
        "import importlib, json, sys\n"
        "for script, *words in json.load(sys.stdin):\n"
        "    page = importlib.import_module('edm2_guidance.commands.' + script.removesuffix('.py'))\n"
        "    page.main.main(words, standalone_mode=False)\n"
    )
    lines = [*demo()]
    assert len(lines) >= 7
    run(bin / "python", "-c", code, cwd=work, env=bare, input=json.dumps(lines))
    assert "real test digits" in run(
        bin / "edm2-calculate-metrics", "table", "out/demo/scores.jsonl", cwd=work, env=bare
    )
    made = {path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file()}
    assert {"out/demo/grid.png", "out/demo/autoguidance.zip", "out/demo/scores.jsonl"} <= made


@pytest.mark.slow
def test_an_editable_installation_runs_the_checkout(source, tmp_path):
    bin, site = environment(tmp_path / "venv", ["--editable", source])
    assert not NAMES & {path.name for path in site.iterdir()}
    work, bare = empty(tmp_path)
    for command in COMMANDS:
        assert f"Usage: {command}" in run(bin / command, "--help", cwd=work, env=bare)
    assert "181,691" in run(bin / "edm2-network-tool", "inspect", "mnist16-cond", cwd=work, env=bare)
    for name in NAMES:
        found = run(bin / "python", "-c", f"import {name}; print({name}.__file__)", cwd=work, env=bare)
        assert Path(found.strip()).is_relative_to(source)


def empty(folder):
    """An empty folder, and the environment variables of somebody who works there."""
    (folder / "empty").mkdir()
    return folder / "empty", {**os.environ, "PYTHONPATH": "", "DNNLIB_CACHE_DIR": str(folder / "cache")}
