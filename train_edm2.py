#!/usr/bin/env python3
"""Train an EDM2 network on a ZIP or folder of images or latents.

The page itself is edm2_guidance/commands/train_edm2.py.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -P and -I leave it out
    from edm2_guidance.cli.start import run

    run("train_edm2")
