#!/usr/bin/env python3
"""Prepare image sets for training and scoring.

The page itself is edm2_guidance/commands/dataset_tool.py.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -P and -I leave it out
    from edm2_guidance.cli.start import run

    run("dataset_tool")
