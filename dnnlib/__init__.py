"""Plumbing without torch. The names re-exported here are found by the sources inside EDM2 pickles."""

from dnnlib.util import EasyDict, atomic_path, is_url, make_cache_dir_path, sha256_of

__all__ = ["EasyDict", "atomic_path", "is_url", "make_cache_dir_path", "sha256_of"]
