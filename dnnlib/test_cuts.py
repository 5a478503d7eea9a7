"""The one switch for tests of whole command lines: EDM2_TEST_CUTS=N in the environment makes every command small.

N, 2 or more, is the most images that a command makes or scores. Training is cut to its smallest, and the downloaded
detectors are replaced by tiny ones. Nothing that comes out means anything, which stderr and every ledger line say.
"""

import os

VARIABLE = "EDM2_TEST_CUTS"


def limit() -> int | None:
    """The most images of a command; None, as always but in tests, cuts nothing. ValueError for anything else."""
    text = os.environ.get(VARIABLE, "")
    if text == "":
        return None
    if not (text.isdecimal() and int(text) >= 2):
        raise ValueError(f"{VARIABLE}={text}: it is for tests, and a number of images of 2 or more; unset it")
    return int(text)


def notice() -> str | None:
    """What to say of everything made while the switch is on; None while it is off."""
    count = limit()
    if count is None:
        return None
    return f"{VARIABLE}={count} is set: image counts, training and detectors are cut for tests, results mean nothing"
