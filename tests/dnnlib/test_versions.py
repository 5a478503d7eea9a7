"""Which version runs: of the checkout, else of the installed package; and the commit."""

import subprocess
from pathlib import Path

import pytest

from dnnlib import versions as module
from dnnlib.versions import git_commit, project_version


def test_version_is_that_of_the_checkout(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "edm2-guidance"\nversion = "9.8.7"\n')
    assert project_version(tmp_path) == "9.8.7"


@pytest.mark.parametrize("text", [None, "[project]\nname = 'other'\nversion = '5'\n", "no toml"])
def test_version_is_else_that_of_the_installed_package(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.setattr(module, "installed_version", lambda name: f"{name} as installed")
    assert project_version(tmp_path) == "edm2-guidance as installed"


def test_version_of_nothing() -> None:
    assert module.installed_version("no-such-package-anywhere") is None


def test_commit_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    assert git_commit(tmp_path) is None, "no commit yet"
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "--quiet", "--message=first")
    commit = git("rev-parse", "HEAD")
    git("tag", "v1")
    assert git_commit(tmp_path) == commit
    (tmp_path / "file").write_text("b")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as git sets for its hooks
    assert git_commit(tmp_path) == f"{commit}-dirty"
    (tmp_path / "sub").mkdir()
    assert git_commit(tmp_path / "sub") is None, "a folder inside another project's checkout"
    monkeypatch.setenv("PATH", "")
    assert git_commit(tmp_path) is None, "git is not installed"
