"""Plumbing without torch. The names re-exported here are found by the sources inside EDM2 pickles."""

from dnnlib.cache import make_cache_dir_path
from dnnlib.util import EasyDict

__all__ = ["EasyDict", "make_cache_dir_path"]
