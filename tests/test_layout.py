"""The architecture, enforced: imports run one way, --help needs no torch, pins agree, nothing leaks from elsewhere."""

import ast
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(p.name for p in ROOT.glob("*.py"))

# What each package may import of the others. `cli` and `papers` are torch-free and see the recipe alone, and names.
ALLOWED = {
    "dnnlib": set(),
    "torch_utils": {"dnnlib"},
    "images": {"torch_utils", "dnnlib"},
    "training": {"images", "torch_utils", "dnnlib"},
    "sampling": {"training", "images", "torch_utils", "dnnlib"},
    "metrics": {"training", "images", "torch_utils", "dnnlib"},
    "toy": {"sampling", "training.phema", "images.recipe", "torch_utils", "dnnlib"},
    "papers": {"images.recipe", "dnnlib"},
    "reproduction": {"papers", "sampling", "metrics", "images", "torch_utils", "dnnlib"},
    "cli": {"papers", "images.recipe", "images.class_names", "dnnlib"},
}
FORBIDDEN = {"metrics": {"training.networks_edm2", "sampling"}, "sampling": {"metrics"}}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reaches(name, target):
    return name == target or name.startswith(target + ".")


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_one_way(package):
    bad = []
    for path in (ROOT / package).rglob("*.py"):
        for name in imports(path):
            top = name.split(".")[0]
            if top not in ALLOWED or top == package:
                if top + ".py" in SCRIPTS:
                    bad.append(f"{path.name} imports the script {top}")
                continue
            if not any(reaches(name, target) for target in ALLOWED[package]):
                bad.append(f"{path.name} imports {name}")
            if any(reaches(name, target) for target in FORBIDDEN.get(package, ())):
                bad.append(f"{path.name} imports {name}")
    assert not bad


def test_every_package_is_in_the_plan():
    found = {p.parent.name for p in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks", "pretrained"}
    assert found == set(ALLOWED)


def test_no_script_imports_another():
    modules = {name.removesuffix(".py") for name in SCRIPTS}
    for script in SCRIPTS:
        assert not modules & {name.split(".")[0] for name in imports(ROOT / script)}, script


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_quick_and_needs_no_torch(script):
    """By an isolated Python (-I, of which -P is a part), which leaves out the folder of the script."""
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = [sys.argv[1], '--help']; import runpy; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # of work: machines may be busy
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    assert seconds < 2, f"{seconds:.1f} s"


def pinned(path):
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    return dict(line.split("==") for line in lines if "==" in line)


def test_requirements_environment_and_ranges_agree():
    pins = pinned(ROOT / "requirements.txt")
    assert pins["torch"] == "2.13.0"
    environment = (ROOT / "environment.yml").read_text()
    assert re.search(r"-\s+-r\s+requirements\.txt", environment), "conda installs the same pins, by the same file"
    assert not re.search(r"^\s+- (torch|numpy|click)\b", environment, re.M)
    ranges = dict(re.findall(r'^\s+"([a-z]+)>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.M))
    assert set(ranges) >= set(pins)
    for name, version in pins.items():
        low = tuple(int(part) for part in ranges[name].split("."))
        assert tuple(int(part) for part in version.split(".")) >= low, name


def test_packages_are_complete():
    text = (ROOT / "pyproject.toml").read_text()
    listed = set(re.findall(r'"(\w+)"', re.search(r"^packages = \[(.*?)\]", text, re.M | re.S)[1]))
    assert listed == set(ALLOWED) | {"pretrained"}
    modules = set(re.findall(r'"(\w+)"', re.search(r"^py-modules = \[(.*?)\]", text, re.M | re.S)[1]))
    assert modules == {name.removesuffix(".py") for name in SCRIPTS}
