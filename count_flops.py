#!/usr/bin/env python3
"""Count the operations of a network's evaluation. Nothing is computed, so it takes neither a GPU nor memory.

The page itself is edm2_guidance/commands/count_flops.py.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -P and -I leave it out
    from edm2_guidance.cli.start import run

    run("count_flops")
