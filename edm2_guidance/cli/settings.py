"""Process-wide settings, in one place. Called once by the command line, never at import."""

import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from dnnlib.places import find_file
from dnnlib.terminal import guard, log

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_CUBLAS_FIXED = (":4096:8", ":16:8")  # the workspaces with which cuBLAS repeats its results
_with_place = warnings.formatwarning


_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # how OpenMP's threads wait
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SMALL_FILE = 4 << 20  # bytes of a network whose operations are over before a second thread has begun


def configure() -> None:
    """Streams that can be written to, line by line, without control characters from files, and with times in a log;
    threads that wait without spinning; no warnings that users can do nothing about."""
    _open_closed_streams()
    if not any(name in os.environ for name in _WAITING):
        # Threads that spin hold up whoever has the core that they wait for. Read when OpenMP is loaded, with torch.
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    # Those of numpy's OpenBLAS spin for 2^26 cycles after each of the many short products in a LAPACK routine.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    sys.stdout, sys.stderr = guard(sys.stdout), log(guard(sys.stderr))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # PIL takes memory in blocks; of those above 32 MB malloc keeps none when they are freed, for every thread its own.
    os.environ.setdefault("PILLOW_BLOCK_SIZE", "64m")
    # PIL's, of images that are refused for their size anyway.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit", category=RuntimeWarning)
    warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*", category=DeprecationWarning)
    # Of the compiler: which products use TF32 is said by --precision.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores .* not enabled", category=UserWarning)
    warnings.formatwarning = _for_users


def _open_closed_streams() -> None:
    """What was closed (`2>&-`, services without a console) goes nowhere, rather than into the next file opened."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


@contextmanager
def threads_for(sources: Iterable[str]) -> Iterator[None]:
    """Inside: one thread if these network files are all so small that more would only wait for each other.

    sources: paths and URLs; what is not here counts as large. OMP_NUM_THREADS in the environment is stronger.
    """
    small = [_is_small(source) for source in sources]
    if any(name in os.environ for name in _THREADS) or not small or not all(small):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_small(source: str) -> bool:
    path = find_file(source)
    return path.is_file() and path.stat().st_size <= SMALL_FILE


def _for_users(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
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
    import torch  # here and below: only where it is needed

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
