#!/usr/bin/env python3
"""Sample images from seeds into a folder of PNGs, or methods side by side into one captioned grid.

The page itself is edm2_guidance/commands/generate_images.py.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -P and -I leave it out
    from edm2_guidance.cli.start import run

    run("generate_images")
