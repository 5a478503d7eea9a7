"""The lock excludes threads and processes, and ends with its holder."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from dnnlib.filelock import exclusive

HOLDER = """
import sys, time
from pathlib import Path
from dnnlib.filelock import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(30)
"""


def test_one_thread_at_a_time(tmp_path):
    inside, most, waited = 0, 0, []

    def work():
        nonlocal inside, most
        with exclusive(tmp_path / "lock", waiting=lambda: waited.append(1), poll_seconds=0.005) as locked:
            assert locked
            inside += 1
            most = max(most, inside)
            deadline = time.monotonic() + 60
            while not waited and time.monotonic() < deadline:  # the first stays until there is somebody outside
                time.sleep(0.001)
            time.sleep(0.005)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert 1 <= len(waited) <= 5  # said once by each that had to wait


def test_lock_of_a_killed_process_is_free(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    waited = []

    def kill_it():
        waited.append(True)
        holder.send_signal(signal.SIGKILL)
        holder.wait()

    with exclusive(tmp_path / "lock", waiting=kill_it, poll_seconds=0.01) as locked:
        assert locked
    assert waited == [True]


def test_released_when_the_block_raises(tmp_path):
    def fail():
        with exclusive(tmp_path / "lock"):
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()


def test_folder_without_locks_is_said(tmp_path, monkeypatch):
    def unsupported(_):
        raise OSError(38, "function not implemented")

    with monkeypatch.context() as patch:
        patch.setattr("dnnlib.filelock._lock_now", unsupported)
        with exclusive(tmp_path / "lock") as locked:
            assert not locked

    def broken(_):
        raise OSError(5, "input/output error")

    monkeypatch.setattr("dnnlib.filelock._lock_now", broken)
    with pytest.raises(OSError, match="input/output"), exclusive(tmp_path / "lock"):
        pass


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), exclusive(tmp_path / "no" / "lock"):
        pass
