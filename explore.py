#!/usr/bin/env python3
"""Change guidance by hand in a browser, and see at once what comes of it.

The page itself is edm2_guidance/commands/explore.py.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -P and -I leave it out
    from edm2_guidance.cli.start import run

    run("explore")
