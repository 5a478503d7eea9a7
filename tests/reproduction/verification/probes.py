"""Checks that end badly, each in a process of its own."""

import os
import signal
import subprocess
import sys
import time

HOLDS = """
import fcntl, sys, time
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
print(flush=True)
time.sleep(300)
"""


def dies(place):
    print("last words", flush=True)
    os._exit(7)


def crashes(place):
    os.kill(os.getpid(), signal.SIGSEGV)


def sleeps(place):
    """It starts a process, which holds a file and sleeps, and sleeps itself."""
    path = place.folder / "held"
    path.write_text("")
    child = subprocess.Popen([sys.executable, "-S", "-c", HOLDS, str(path)], stdout=subprocess.PIPE)
    child.stdout.readline()
    (place.folder / "ready").write_text("")
    time.sleep(300)
