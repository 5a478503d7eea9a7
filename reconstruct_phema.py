#!/usr/bin/env python3
"""Networks of other EMA lengths from the snapshots of a training run (post-hoc EMA).

The page itself is edm2_guidance/commands/reconstruct_phema.py.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -P and -I leave it out
    from edm2_guidance.cli.start import run

    run("reconstruct_phema")
