import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edm2_guidance.work import lease as claims
from edm2_guidance.work.lease import Lease
from tests.works import ELSEWHERE, left

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clock(monkeypatch):
    """The steady clock of this process, turned by hand."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    claims._watched.clear()
    return now


@pytest.fixture
def other(tmp_path):
    """A claim `name` by a process of another machine, touched so many seconds ago."""

    def claimed(name, age=0.0, text=ELSEWHERE):
        path = tmp_path / f"{name}.0.claim"
        path.write_text(text)
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))
        return path

    return claimed


def test_who_has_a_claim_has_it_again_and_may_release_it(tmp_path):
    claim, again = Lease(tmp_path, "join"), Lease(tmp_path, "join")
    assert claim.holder() == "nobody"
    assert claim.acquire()
    assert again.acquire()
    assert claim.is_held()
    assert claim.holder() == claims.owner()
    claim.release()
    assert not claim.is_held()
    assert list(tmp_path.iterdir()) == []
    assert not Lease(tmp_path / "gone", "join").acquire()


def test_a_silent_claim_is_watched_before_it_is_given_up_on(tmp_path, clock, other):
    path = other("join", age=claims.STALE_SECONDS + 1)
    claim = Lease(tmp_path, "join")
    assert not claim.acquire()  # the clock may have jumped
    clock[0] += claims.WATCH_SECONDS - 1
    assert not claim.acquire()
    clock[0] += 1
    assert claim.acquire()
    assert [p.name for p in claim.files()] == ["join.0.claim", "join.1.claim"]
    claim.release()
    assert not path.exists()


@pytest.mark.parametrize("jump", [10 * claims.STALE_SECONDS, -10 * claims.STALE_SECONDS])
def test_a_clock_that_jumps_takes_no_claim_from_the_living(tmp_path, clock, other, jump):
    path = other("join", age=jump)
    claim = Lease(tmp_path, "join")
    for _ in range(20):
        assert not claim.acquire()
        clock[0] += claims.BEAT_SECONDS
        then = path.stat().st_mtime + claims.BEAT_SECONDS
        os.utime(path, (then, then))
    then = path.stat().st_mtime
    for _ in range(3):  # now it died
        assert not claim.acquire()
        clock[0] += claims.BEAT_SECONDS
    assert path.stat().st_mtime == then
    assert claim.acquire()


def test_a_fresh_claim_is_left_alone_for_as_long_as_it_is_fresh(tmp_path, clock, other):
    other("join", age=claims.STALE_SECONDS - 10)
    claim = Lease(tmp_path, "join")
    assert not claim.acquire()
    clock[0] += 10 * claims.WATCH_SECONDS  # by our clock only: the folder's has not moved
    assert not claim.acquire()


def test_a_dead_process_of_this_machine_is_known_to_be_dead(tmp_path):
    left(tmp_path, "join")
    assert Lease(tmp_path, "join").acquire()


@pytest.mark.parametrize(
    ("theirs", "restarts", "gone"),
    [("77:0", "1", True), ("77:1", "1", False), ("77:0", "0", False), ("78:0", "1", False)],
)
def test_slurm_starts_a_job_again_when_it_has_ended_it(tmp_path, monkeypatch, other, theirs, restarts, gone):
    """So what it claimed, on whatever machine, is free at once."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    other("join", text=f"{ELSEWHERE} {theirs}")
    claim = Lease(tmp_path, "join")
    assert claim.acquire() == gone
    if gone:
        assert claim.sign().holder == f"{claims.owner()} 77:1"


def test_waiting_ends_with_a_sign_of_life(tmp_path, other, monkeypatch):
    path = other("worker-0-of-2", age=30)
    looks = iter(range(100))  # no more than these
    monkeypatch.setattr(time, "sleep", lambda seconds: (next(looks), os.utime(path)))
    with pytest.warns(RuntimeWarning, match=r"waiting for a sign of life of elsewhere\.17"):
        assert not Lease(tmp_path, "worker-0-of-2").acquire(wait=True)


def test_waiting_ends_with_the_claim_of_the_dead(tmp_path, other, monkeypatch):
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(claims, "WATCH_SECONDS", 0.2)
    other("worker-0-of-2")
    with pytest.warns(RuntimeWarning, match="sign of life"):
        assert Lease(tmp_path, "worker-0-of-2").acquire(wait=True, poll_seconds=0.05)


def test_a_living_process_of_this_machine_is_seen_at_once(tmp_path, other, monkeypatch):
    host, _, token = claims.owner().split(".")
    other("worker-0-of-2", text=f"{host}.{os.getppid()}.{token}")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waited"))
    assert not Lease(tmp_path, "worker-0-of-2").acquire(wait=True)


def test_claims_of_a_living_process_are_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.05)
    claims._heart.cache_clear()  # the thread that runs already sleeps a while longer
    claim, released = Lease(tmp_path, "join"), Lease(tmp_path, "other")
    assert claim.acquire()
    assert released.acquire()
    released.release()
    (path,) = tmp_path.iterdir()
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 60
    while path.stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert abs(path.stat().st_mtime - time.time()) < 60
    claims._heart.cache_clear()


def test_a_process_that_ends_in_order_leaves_no_claims(tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from edm2_guidance.work.lease import Lease\n"
        "assert Lease(Path(sys.argv[1]), 'join').acquire(); pid = os.fork(); "
        "sys.exit(3) if pid == 0 else os.waitpid(pid, 0); "
        "print(len(list(Path(sys.argv[1]).iterdir()))); sys.exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(ROOT)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "1\n"), done.stderr  # the end of a child is not that of its parent
    assert list(tmp_path.iterdir()) == []


def test_who_lost_a_claim_knows(tmp_path):
    claim = Lease(tmp_path, "join")
    assert claim.acquire()
    (tmp_path / "join.1.claim").write_text(ELSEWHERE)  # somebody took this process for dead
    assert not claim.is_held()
    claim.release()
    assert [p.name for p in tmp_path.iterdir()] == ["join.1.claim"]


def test_of_two_that_find_a_dead_claim_one_gets_it(tmp_path, monkeypatch):
    """The other was between looking and taking when the first took it, and even when that one was through."""
    first, second = Lease(tmp_path, "join"), Lease(tmp_path, "join")
    assert first.acquire()
    with monkeypatch.context() as patch:
        patch.setattr(second, "sign", lambda: None)
        assert not second.acquire()
    first.release()
    assert second.acquire()


def test_a_claim_that_was_lost_and_made_anew_is_not_ours(tmp_path, monkeypatch):
    """A process was silent, another took over, was through, and a third has a claim of the same number now."""
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.02)
    claims._heart.cache_clear()
    claim, path, rounds = Lease(tmp_path, "join"), tmp_path / "join.0.claim", []
    assert claim.acquire()
    path.write_text(ELSEWHERE)
    os.utime(path, (0, 0))
    assert not claim.is_held()
    owns = claims._owns
    monkeypatch.setattr(claims, "_owns", lambda asked: (rounds.append(asked), owns(asked))[1])
    deadline = time.monotonic() + 60
    while rounds.count(path) < 2 and time.monotonic() < deadline:  # the first is over when the second begins
        time.sleep(0.01)
    assert rounds.count(path) >= 2
    assert path.stat().st_mtime == 0  # nor does our heart keep it alive
    claim.release()
    claims._heart(os.getpid())._stop()
    assert path.read_text() == ELSEWHERE
    claims._heart.cache_clear()


def test_a_link_that_was_made_though_its_answer_was_lost(tmp_path, monkeypatch):
    """As NFS may do: the request is sent twice, and the second finds the name taken, by the first."""
    plain = os.link

    def twice(source, target):
        plain(source, target)
        plain(source, target)

    monkeypatch.setattr(os, "link", twice)
    claim = Lease(tmp_path, "join")
    assert claim.acquire()
    assert claim.is_held()
    claim.release()
    assert list(tmp_path.iterdir()) == []


def test_a_zombie_is_dead(tmp_path, other):
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    deadline = time.monotonic() + 60
    while not claims._is_zombie(child.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    host, _, token = claims.owner().split(".")
    other("join", text=f"{host}.{child.pid}.{token}")
    assert Lease(tmp_path, "join").acquire()
    child.wait()


def test_a_moment_each(tmp_path):
    """Processes in line for one file, none of which loses what another wrote."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from edm2_guidance.work import lease\n"
        "lease._MOMENT_SECONDS = 0.001\n"
        "for _ in range(40):\n"
        "    with lease.Lease(Path(sys.argv[1]), 'n'):\n"
        "        file = Path(sys.argv[1], 'n'); file.write_text(str(int(file.read_text()) + 1))\n"
    )
    (tmp_path / "n").write_text("0")
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(ROOT)]) for _ in range(3)]
    assert [each.wait(300) for each in started] == [0, 0, 0]
    assert (tmp_path / "n").read_text() == "120"
    assert [path.name for path in tmp_path.iterdir()] == ["n"]
    with pytest.raises(FileNotFoundError), Lease(tmp_path / "gone", "n"):
        pass
