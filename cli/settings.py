"""Process-wide settings, in one place. Called once by the command line, never at import."""

import os
import sys
import warnings


def configure() -> None:
    """Unbuffered text for logs, no progress-bar monitor thread, and no warnings that users can do nothing about."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*", category=DeprecationWarning)


def tracebacks() -> bool:
    """EDM2_TRACEBACK=1 in the environment shows where a failure came from, for bug reports."""
    return os.environ.get("EDM2_TRACEBACK", "") not in ("", "0")
