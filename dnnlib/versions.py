"""Which version of this project runs, and of what else is installed. Standard library only.

What answers is imported when asked for: it would take a sixth of --help.
"""

import os
from pathlib import Path

PROJECT = "edm2-guidance"
ROOT = Path(__file__).resolve().parents[1]


def project_version(root: Path = ROOT) -> str | None:
    """Version of this project: of the checkout that runs, else as installed; None if neither says."""
    import tomllib

    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):
        project = {}
    if project.get("name") == PROJECT and "version" in project:
        return str(project["version"])
    return installed_version(PROJECT)


def installed_version(name: str) -> str | None:
    """Version of an installed package; None if it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def git_commit(root: Path = ROOT) -> str | None:
    """Commit of the checkout that runs, with "-dirty" if its files were changed; None outside one, or without git."""
    import subprocess

    if not (root / ".git").exists():  # a folder above, with another project's history, is none of ours
        return None
    command = ["git", "--no-optional-locks", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # set inside hooks
    try:
        done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
