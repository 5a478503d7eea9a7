"""Process-wide settings, in one place. Called once by the command line, never at import."""

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_CUBLAS_FIXED = (":4096:8", ":16:8")  # the workspaces with which cuBLAS repeats its results
_with_place = warnings.formatwarning


def configure() -> None:
    """Unbuffered text for logs, no progress-bar monitor thread, and no warnings that users can do nothing about."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # PIL takes memory in blocks; of those above 32 MB malloc keeps none when they are freed, for every thread its own.
    os.environ.setdefault("PILLOW_BLOCK_SIZE", "64m")
    # PIL's, of images that are refused for their size anyway.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit", category=RuntimeWarning)
    warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*", category=DeprecationWarning)
    warnings.formatwarning = _for_users


def _for_users(message: Any, category: type[Warning], *place: Any, **line: Any) -> str:
    """A RuntimeWarning is for users, who have no need of the place in the code that it comes from."""
    if category is RuntimeWarning and not tracebacks():
        return f"warning: {message}\n"
    return _with_place(message, category, *place, **line)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside, if `wanted`: only kernels that give the same bits every time, in full float32 (no TF32).

    To be entered before CUDA is first used; what was set before returns afterwards. RuntimeError, naming the
    operation, where a device has no such kernel.
    """
    if not wanted:
        yield
        return
    import torch  # the one place here that needs it, and only then

    cublas, before = os.environ.get(_CUBLAS), torch.get_deterministic_debug_mode()
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    if cublas not in _CUBLAS_FIXED:
        os.environ[_CUBLAS] = _CUBLAS_FIXED[0]
    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms, which imports a compiler: seconds
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    except RuntimeError as error:
        found = re.match(r"(\S+) does not have a deterministic implementation", str(error))
        if found is None:
            raise
        raise RuntimeError(
            f"--deterministic: {found[1]} cannot be computed deterministically on this device; leave the option out, "
            "or take --device=cpu"
        ) from error
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.set_float32_matmul_precision(precision)
        if cublas is None:
            os.environ.pop(_CUBLAS)
        else:
            os.environ[_CUBLAS] = cublas


def tracebacks() -> bool:
    """EDM2_TRACEBACK=1 in the environment shows where a failure came from, for bug reports."""
    return os.environ.get("EDM2_TRACEBACK", "") not in ("", "0")
