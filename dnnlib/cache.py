"""Where the cache folder is."""

import os

from dnnlib.shared_places import check_own


def make_cache_dir_path(*parts: str) -> str:
    """Path inside the cache folder: `$DNNLIB_CACHE_DIR`, else `~/.cache/dnnlib`. Creates nothing.

    Where there is no home folder (some batch systems), one of this user's in the machine's folder for temporary files
    stands in. PermissionError if the cache lies in a place that all users share and others could have filled it.
    """
    root = os.path.expanduser(os.environ.get("DNNLIB_CACHE_DIR", ""))
    if root == "":
        home = os.path.expanduser("~")
        root = _temporary() if home == "~" else os.path.join(home, ".cache", "dnnlib")
    check_own(root)
    return os.path.join(root, *parts)


def _temporary() -> str:
    import tempfile  # takes as long to import as all the rest of this package

    return os.path.join(tempfile.gettempdir(), f"dnnlib-cache-{os.getuid() if hasattr(os, 'getuid') else 'user'}")
