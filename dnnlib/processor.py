"""What this machine's processor is called, without torch."""

from __future__ import annotations

import functools
import platform
import re
from contextlib import suppress
from pathlib import Path


@functools.cache
def processor_name() -> str:
    """As its maker calls it, "AMD EPYC 7763 64-Core Processor"; of systems that do not say, the architecture."""
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
        if found is not None:
            return " ".join(found[1].split())
    return platform.processor() or platform.machine()
