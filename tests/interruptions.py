"""Interruptions of tests: a signal in the middle of the work, as a user or a scheduler sends it."""

import os
import signal
import time
from contextlib import contextmanager

from edm2_guidance.sampling.generation import GeneratedImages


@contextmanager
def terminated_at(seed, monkeypatch):
    """Inside, this process gets SIGTERM when it is about to sample the batch of this seed."""
    make = GeneratedImages._make

    def interrupted(self, seeds):
        if seed in seeds:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        return make(self, seeds)

    with monkeypatch.context() as patch:
        patch.setattr(GeneratedImages, "_make", interrupted)
        yield
