"""The architecture, enforced: imports run one way, --help needs no torch, pins agree, nothing leaks from elsewhere."""

import ast
import functools
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
SCRIPTS = sorted(p.name for p in ROOT.glob("*.py"))

HOUSE = "edm2_guidance"
# Names that network files fix; the rest of the packages are rooms of the house.
FIXED = ("dnnlib", "torch_utils", "training")

# What each package may import of the others. `cli` and `papers` are torch-free: of metrics and work they see what is
# named here.
ALLOWED = {
    "dnnlib": set(),
    "torch_utils": {"dnnlib"},
    "recipe": set(),
    "images": {"recipe", "torch_utils", "dnnlib"},
    "training": {"images", "recipe", "torch_utils", "dnnlib"},
    "work": {"images", "recipe", "dnnlib"},
    "models": {"training", "images", "recipe", "torch_utils", "dnnlib"},
    "sampling": {"models", "images", "recipe", "torch_utils", "dnnlib"},
    "metrics": {"training", "work", "images", "recipe", "torch_utils", "dnnlib"},
    "toy": {"sampling", "training.phema", "recipe", "torch_utils", "dnnlib"},
    "explorer": {
        "cli.recipe_flags", "cli.report", "cli.start", "sampling", "images", "recipe", "torch_utils", "dnnlib",
    },
    "papers": {"metrics.catalog", "metrics.uncertainty", "recipe", "dnnlib"},
    "reproduction": {
        "papers", "sampling", "metrics", "models", "work", "training", "images", "recipe", "torch_utils", "dnnlib",
    },
    "cli": {"papers", "metrics.catalog", "metrics.statistics_formats", "work.again", "recipe", "dnnlib"},
    "commands": {
        "cli", "papers", "reproduction", "toy", "explorer", "sampling", "models", "metrics", "work", "training",
        "images", "recipe", "torch_utils", "dnnlib",
    },
    "library": {
        "reproduction", "papers.references", "papers.search", "sampling", "metrics", "work", "images", "recipe",
        "torch_utils", "dnnlib",
    },
    "pretrained": {"cli", "metrics", "models", "training", "images", "recipe", "dnnlib"},
}  # fmt: skip
SLOW = ["torch", "numpy", "PIL", "requests", "tqdm", "matplotlib", "submitit"]  # to import
NOT_FOR_HELP = [*SLOW, "importlib.metadata", "multiprocessing"]
FORBIDDEN = {"metrics": {"training.networks_edm2"}}


def folder(package):
    return ROOT / package if package in FIXED else ROOT / HOUSE / package


def modules_of(package):
    """The files of a package; of the library, which is one file, this."""
    path = folder(package)
    return path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]


@functools.cache
def imports(path, types=True):
    """types: also those of `if TYPE_CHECKING:`, which name types and load nothing."""
    found, tree = [], ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING" and not types:
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}".removeprefix(f"{HOUSE}.") for alias in node.names]
    return found


def reaches(name, target):
    return name == target or name.startswith(target + ".")


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_one_way(package):
    bad = []
    for path in modules_of(package):
        for name in imports(path, types=package != "cli"):  # it says what others make, and so names their types
            top = name.split(".")[0]
            if top not in ALLOWED or top == package:
                if top + ".py" in SCRIPTS or top in ("tests", "benchmarks"):
                    bad.append(f"{path.name} imports {top}")
                continue
            if not any(reaches(name, target) for target in ALLOWED[package]):
                bad.append(f"{path.name} imports {name}")
            if any(reaches(name, target) for target in FORBIDDEN.get(package, ())):
                bad.append(f"{path.name} imports {name}")
    assert not bad


def test_models_alone_ask_encoders_for_their_class():
    """`dataset_tool.py encode` makes one of its own."""
    asking = {
        path.relative_to(ROOT / HOUSE).as_posix()
        for path in (ROOT / HOUSE).rglob("*.py")
        if any(reaches(name, "training.encoders") for name in imports(path))
    }
    assert {path for path in asking if not path.startswith("models/")} == {"commands/dataset_tool.py"}


def test_other_rooms_take_leases_by_their_class_alone():
    paths = [path for path in (ROOT / HOUSE).rglob("*.py") if path.parent.name != "work"]
    asked = {name for path in paths for name in imports(path) if reaches(name, "work.lease")}
    assert asked == {"work.lease.Lease"}


def test_no_module_imports_itself_on_any_way():
    """Also inside functions. Raises CycleError, with the modules on the way, if there is one."""
    places = [path for package in ALLOWED for path in modules_of(package)]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in places}
    graph = {}
    for path in places:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        names = [each for name in imports(path) for each in (name, f"{HOUSE}.{name}")]
        graph[module] = modules & {each for name in names for each in (name, name.rpartition(".")[0])} - {module}
    assert len(list(TopologicalSorter(graph).static_order())) == len(modules)


def test_every_package_is_in_the_plan():
    found = {p.parent.name for p in [*ROOT.glob("*/__init__.py"), *(ROOT / HOUSE).glob("*/__init__.py")]}
    assert found == set(ALLOWED) - {"library"} | {HOUSE, "tests", "benchmarks"} & found
    assert {p.parent.name for p in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"} == {HOUSE, *FIXED}


def test_every_script_is_a_page_and_a_console_command():
    pages = {p.stem for p in (ROOT / HOUSE / "commands").glob("*.py")} - {"__init__"}
    console = re.findall(r'^edm2-([\w-]+) = "edm2_guidance\.cli\.console:(\w+)"$', PYPROJECT, re.M)
    assert pages == {Path(script).stem for script in SCRIPTS} == {name for _, name in console}
    for command, name in console:
        assert f"edm2-{command}" == f"edm2-{name.removesuffix('_edm2').replace('_', '-')}"
        assert f'run("{name}")' in (ROOT / f"{name}.py").read_text()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_nothing_that_takes_time_to_import(script):
    """By an isolated Python (-I, of which -P is a part), which leaves out the folder of the script."""
    code = (
        f"import sys; sys.modules |= dict.fromkeys({NOT_FOR_HELP}); sys.argv = [sys.argv[1], '--help']; import runpy; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, script], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


# What it runs holds without torch, and the fixed name dnnlib without numpy too.
LIGHT = f"""
import importlib, pkgutil, sys
sys.path.insert(0, {str(ROOT)!r})
before = set(sys.modules)
import edm2_guidance
print(sorted(set(sys.modules) - before))
sys.modules |= {{"torch": None, "numpy": None}}
for package in ("dnnlib", *(f"edm2_guidance.{{room}}" for room in ("recipe", "work", "papers", "cli"))):
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
    if package == "dnnlib":
        del sys.modules["numpy"]
import torch_utils.safe_pickle
"""


def test_the_package_imports_nothing_and_the_light_rooms_no_torch():
    done = subprocess.run([sys.executable, "-I", "-c", LIGHT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    loaded = set(ast.literal_eval(done.stdout))
    assert HOUSE in loaded
    assert not loaded & {*SLOW, "click"}


# Statistics against statistics, and what reads ledgers and tables alone, where torch cannot be imported.
WITHOUT_TORCH = f"""
import importlib, sys
sys.path.insert(0, {str(ROOT)!r})
sys.modules["torch"] = None
import numpy as np
from click.testing import CliRunner
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.reference import save_statistics
for name, rows in zip(("a.npz", "b.npz", "c.pkl"), np.random.default_rng(0).standard_normal((3, 50, 64))):
    mean, cov = rows.mean(axis=0), np.cov(rows.T)
    save_statistics(name, {{"fd_mnist": Moments(mean, cov, 50, rows)}})
np.savez("plain.npz", mu=mean, sigma=cov)
for line in (
    "calculate_metrics calc plain.npz c.pkl", "calculate_metrics calc a.npz b.npz",
    "calculate_metrics compare a.npz b.npz plain.npz --metrics=fd_mnist", "calculate_metrics table",
    "calculate_metrics compare 3 4", "reproduce list", "reproduce report mnist16-cfg",
    "reproduce plan mnist16-cfg fbg-512 fdg-10k icg-512",
    "reproduce report mnist16-cfg --html=a.html",
):
    script, *args = line.split()
    page = importlib.import_module(f"edm2_guidance.commands.{{script}}")
    done = CliRunner().invoke(page.main, args)
    assert done.exit_code == 0, (line, done.output, done.exception)
"""  # fmt: skip


def test_statistics_and_ledgers_need_no_torch(tmp_path):
    command = [sys.executable, "-I", "-c", WITHOUT_TORCH]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


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
