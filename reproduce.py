#!/usr/bin/env python3
"""The papers' tables: what they hold, what a row costs, and published scores beside ours.

The page itself is edm2_guidance/commands/reproduce.py.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -P and -I leave it out
    from edm2_guidance.cli.start import run

    run("reproduce")
