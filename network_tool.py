#!/usr/bin/env python3
"""Look into network files, convert them, fetch them. Nothing in a file is executed.

The page itself is edm2_guidance/commands/network_tool.py.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -P and -I leave it out
    from edm2_guidance.cli.start import run

    run("network_tool")
