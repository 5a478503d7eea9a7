#!/usr/bin/env python3
"""Sample many images into one uncompressed ZIP, in shards: run it again after an interruption and it goes on.

The page itself is edm2_guidance/commands/generate_zip.py.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -P and -I leave it out
    from edm2_guidance.cli.start import run

    run("generate_zip")
