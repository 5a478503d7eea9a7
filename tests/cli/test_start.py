"""What comes before a command: packages that are missing, Ctrl-C while modules are imported, closed streams."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from edm2_guidance.cli import start
from edm2_guidance.cli.start import as_started
from edm2_guidance.commands import generate_zip

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))


def python(*args, **more):
    return subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, timeout=300, **more)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_says_in_one_line_what_is_missing(script, tmp_path):
    """-S hides all installed packages, -I the folder of the script."""
    done = python("-I", "-S", ROOT / script, "--help", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: No module named ")
    assert "activate" in line or "pip install -r" in line


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "ROOT", str(tmp_path))
    (tmp_path / "requirements.txt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_cure_is_the_environment_that_is_there(project, monkeypatch):
    error = ModuleNotFoundError("No module named 'tqdm'", name="tqdm")
    assert start.cure(error).startswith("No module named 'tqdm': run `")
    assert start.cure(error).endswith("-m pip install -r requirements.txt` first")
    (project / ".venv" / "bin").mkdir(parents=True)
    assert start.cure(error).endswith(f"run `make install` in {project} first")
    (project / ".venv" / "Scripts").mkdir()
    (project / ".venv" / "Scripts" / "activate").touch()
    assert "run `.venv/Scripts/activate` first" in start.cure(error)
    (project / ".venv" / "bin" / "activate").touch()
    assert start.cure(error).startswith("No module named 'tqdm': run `source .venv/bin/activate` first")
    monkeypatch.chdir("/")
    assert f"source {project}/.venv/bin/activate" in start.cure(error)
    monkeypatch.setattr(sys, "prefix", str(project / ".venv"))  # it is active, and lacks the package
    assert f"-m pip install -r {project}/requirements.txt" in start.cure(error)


@pytest.mark.parametrize("on_path", [True, False])
def test_packages_are_installed_into_the_python_that_lacks_them(project, monkeypatch, on_path):
    """Its name alone may stand for another Python on the PATH, as of a virtual environment that is not active."""
    python = project / "own" / "python3"
    for each in (python, project / "other" / "python3"):
        each.parent.mkdir()
        each.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", str((python if on_path else project / "other" / "python3").parent))
    named = "python3" if on_path else str(python)
    error = ModuleNotFoundError("No module named 'tqdm'", name="tqdm")
    assert start.cure(error) == f"No module named 'tqdm': run `{named} -m pip install -r requirements.txt` first"


def test_an_installation_has_no_requirements_file(project):
    (project / "requirements.txt").unlink()
    error = ModuleNotFoundError("No module named 'tqdm'", name="tqdm")
    assert start.cure(error).endswith("-m pip check`, which names what is to be installed")


def test_what_pip_cannot_install_is_told_apart(project):
    (project / "edm2_guidance").mkdir()
    assert "fetch it again" in start.cure(
        ModuleNotFoundError("No module named 'edm2_guidance.images.x'", name="edm2_guidance.images.x")
    )
    assert "built without it" in start.cure(ModuleNotFoundError("No module named '_lzma'", name="_lzma"))


def test_ctrl_c_while_modules_are_imported(tmp_path):
    (tmp_path / "click.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)\n")
    done = python(ROOT / "reproduce.py", env={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (130, "Error: interrupted\n")


@pytest.mark.parametrize("script", SCRIPTS)
def test_nothing_that_takes_time_comes_before_ctrl_c_is_handled(script):
    """Python imports os and sys by itself."""
    body = ast.parse((ROOT / script).read_text(encoding="utf-8")).body
    assert [ast.unparse(part) for part in body[1:3]] == ["import os", "import sys"]
    assert ast.unparse(body[3]).splitlines()[::3] == ["if __name__ == '__main__':", f"    run('{Path(script).stem}')"]


def console(folder, *path):
    """A console command as pip writes it: its own folder, which is none of ours, comes first on the path."""
    file = folder / "edm2-reproduce"
    file.write_text("import sys\nfrom edm2_guidance.cli.console import reproduce\nsys.exit(reproduce())\n")
    return python(file, "--help", env={"PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))})


def package(folder, *parts):
    """Another project's `training`, which says when it is executed."""
    text = "raise SystemExit('executed')\n"
    if "zip" in parts:
        with zipfile.ZipFile(folder / "other.zip", "w") as file:
            file.writestr("training/__init__.py", text)
        return folder / "other.zip"
    where = folder / "other" / "training"
    where.mkdir(parents=True)
    if "file" in parts:
        where.rmdir()
        where.with_suffix(".py").write_text(text)
    elif "__init__" in parts:
        (where / "__init__.py").write_text(text)
    return folder / "other"


@pytest.mark.parametrize("kind", ["__init__", "file", "zip"])
def test_a_package_of_the_same_name_is_told_and_not_executed(tmp_path, kind):
    other = package(tmp_path, kind)
    done = console(tmp_path, other)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"Error: another 'training' comes before that of this project: {other}/training")
    assert f"leave {other} out of PYTHONPATH" in line
    script = python(ROOT / "reproduce.py", "--help", env={"PYTHONPATH": str(other)})
    assert script.returncode == 0, "a script's own folder comes first"


def test_a_folder_of_the_same_name_is_no_package(tmp_path):
    """As an outdir named `training`: Python takes it only where no real package is found on the whole path."""
    assert console(tmp_path, package(tmp_path)).returncode == 0
    link = tmp_path / "link"
    link.symlink_to(ROOT)
    assert console(tmp_path, link).returncode == 0, "the same project, by another path"


def test_an_editable_install_does_not_hide_a_folder_of_the_same_name(tmp_path):
    """Its finder is asked last, after a folder on the path has been taken for a package."""
    other = package(tmp_path)
    code = (
        "import sys, importlib.util\nfrom importlib.machinery import PathFinder\n"
        f"class Finder:\n    def find_spec(name, *rest): return PathFinder.find_spec(name, [{str(ROOT)!r}])\n"
        "sys.meta_path.append(Finder)\nfrom edm2_guidance.cli.start import start\nstart()\n"
    )
    assert python("-c", code, cwd=tmp_path).returncode == 0
    done = python("-c", code, cwd=tmp_path, env={"PYTHONPATH": str(other)})
    assert done.returncode == 1
    assert f"another 'training' comes before that of this project: {other}/training" in done.stderr


def test_other_errors_keep_their_traceback(tmp_path):
    (tmp_path / "click.py").write_text("1 / 0\n")
    done = python(ROOT / "reproduce.py", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-"])
def test_closed_streams_lead_nowhere(closed, tmp_path):
    """What goes to a closed stream is lost, and never lands in a file that was opened in its place."""
    code = (
        "import os, sys; from edm2_guidance.cli.settings import configure; configure(); made = open('made', 'w'); "
        "print('out'); print('err', file=sys.stderr); os.write(2, b'err'); sys.stdin.read(); "
        "sys.exit(made.fileno() < 3)"
    )
    command = ["bash", "-c", f'exec "$@" {closed}', "-", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made").read_bytes() == b""
    assert ("out" in done.stdout) == (closed[0] != "1")
    assert ("err" in done.stderr) == (closed[0] != "2")


def test_hints_name_what_was_started(monkeypatch, capsys):
    """Of an installation's console commands; lines of torchrun start scripts, and files of users keep their names."""
    hint = "python reproduce.py status out (see calculate_metrics.py calc), train_edm2.py, my_model.py, a/reproduce.py"
    torchrun = "torchrun --standalone train_edm2.py --preset=x"
    monkeypatch.setattr(sys, "argv", ["generate_zip.py"])
    assert as_started(hint) == hint
    monkeypatch.setattr(sys, "argv", ["/venv/bin/edm2-generate-zip"])
    assert as_started(f"{hint}\n{torchrun}").split("\n") == [
        "edm2-reproduce status out (see edm2-calculate-metrics calc), edm2-train, my_model.py, a/reproduce.py",
        torchrun,
    ]
    done = CliRunner().invoke(generate_zip.main, ["--help"])
    assert "\n  edm2-generate-zip --preset=mnist16-autog --num-images=1000\n" in done.stdout
    assert "all: edm2-generate-images --preset=list" in CliRunner().invoke(generate_zip.main, ["--preset=no"]).stderr
