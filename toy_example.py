#!/usr/bin/env python3
"""The 2D toy of the autoguidance paper: train its networks, draw its figures, put numbers on them.

The page itself is edm2_guidance/commands/toy_example.py.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -P and -I leave it out
    from edm2_guidance.cli.start import run

    run("toy_example")
