"""Repositories of the Hugging Face hub, `hf://organisation/repository[@revision]`, by its own client and cache."""

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import dnnlib
from dnnlib.errors import DownloadError
from dnnlib.extras import need
from dnnlib.filelock import exclusive

SCHEME = "hf://"
INSTALL = "pip install 'edm2-guidance[diffusers]'"

_NAME = r"[A-Za-z0-9][\w.-]*"
_SOURCE = re.compile(rf"{SCHEME}({_NAME}/{_NAME})(?:@({_NAME}(?:/{_NAME})*))?", re.ASCII)
_MAX_NAME = 96  # characters of a repository's name, as the hub allows
_MAX_REASON = 300  # characters of an error that are shown


def parse_source(source: str) -> tuple[str, str | None]:
    """Repository and revision. ValueError for what is written in another way."""
    found = _SOURCE.fullmatch(source)
    if found is None or ".." in source or len(found[1]) > _MAX_NAME:
        raise ValueError(f"{source} is no repository of the hub: write {SCHEME}organisation/repository[@revision]")
    return found[1], found[2]


def cached_folder(source: str, file: str) -> Path | None:
    """The folder of a repository in the hub's cache, if this file of it is there; asks no server."""
    repository, revision = parse_source(source)
    try:
        # One file: asked for all, the client would miss those that nobody needs.
        found = _client().snapshot_download(repository, revision=revision, allow_patterns=[file], local_files_only=True)
    except OSError:
        return None
    return Path(found) if Path(found, file).is_file() else None


def fetched_folder(source: str, patterns: Iterable[str], commit: str | None = None) -> Path:
    """The folder of a repository in the hub's cache, once those of its files are there whose paths match one pattern.

    Its name is the commit that they are of; commit: in place of the revision. DownloadError if they cannot be had.
    """
    repository, revision = parse_source(source)
    try:
        found = _client().snapshot_download(repository, revision=commit or revision, allow_patterns=sorted(patterns))
    except Exception as error:  # by version: the hub's own, those of requests or of httpx; none swallowed
        raise DownloadError(_reason(source, error)) from error
    return Path(found)


def check_online(source: str, offline: bool) -> None:
    """FileNotFoundError if nothing may be fetched; offline: by the user, as by the hub's own HF_HUB_OFFLINE."""
    if offline or need("huggingface_hub.constants", INSTALL).HF_HUB_OFFLINE:
        raise FileNotFoundError(
            f"{source} is not complete in the hub's cache, and offline was asked for: fetch it once where there is "
            f"network (python network_tool.py fetch {source}), or give the folder of a copy"
        )


def one_process_at_a_time() -> AbstractContextManager[bool]:
    """Of the workers on a machine one fetches and the rest wait; the hub refuses crowds."""
    folder = Path(dnnlib.make_cache_dir_path())
    folder.mkdir(parents=True, exist_ok=True)
    return exclusive(folder / ".hub.lock")


def _client() -> Any:
    return need("huggingface_hub", INSTALL)


def _reason(source: str, error: Exception) -> str:
    """Why something could not be fetched, and what to do."""
    repository, revision = parse_source(source)
    errors = need("huggingface_hub.errors", INSTALL)
    page = f"https://huggingface.co/{repository}"
    if isinstance(error, errors.GatedRepoError):
        return f"{source} is given to those who accept its licence: do so on {page}, then log in by `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{source}: the repository has no revision {revision}: see {page}/commits"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{source}: the hub knows no such repository, or a private one: see {page}, or log in by `hf auth login`"
    reason = " ".join(str(error).split())[:_MAX_REASON] or type(error).__name__
    return f"{source} could not be fetched ({reason}): try again, or give the folder of a copy"
