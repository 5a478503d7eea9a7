#!/usr/bin/env python3
"""Score sets of images, or networks directly, by the measures of the field; compare scores; results go to a ledger.

The page itself is edm2_guidance/commands/calculate_metrics.py.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -P and -I leave it out
    from edm2_guidance.cli.start import run

    run("calculate_metrics")
