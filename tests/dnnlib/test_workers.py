import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnnlib.workers import ALONE, Workers, launched

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_STEP_NUM_TASKS": "6", "SLURM_LOCALID": "2"}


@pytest.mark.parametrize(
    ("environ", "rank", "world", "local", "launcher"),
    [
        ({}, 0, 1, 0, ""),
        (TORCHRUN, 3, 8, 1, "torchrun"),
        (SRUN, 5, 6, 2, "srun"),
        ({**TORCHRUN, **SRUN}, 3, 8, 1, "torchrun"),  # torchrun inside a step
        ({"RANK": "1", "WORLD_SIZE": "2"}, 1, 2, 0, "torchrun"),
        ({"RANK": "1", **SRUN}, 5, 6, 2, "srun"),
        ({"SLURM_NTASKS": "4"}, 0, 1, 0, ""),  # salloc's own shell: a job, but no task of it
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, 0, 1, 0, ""),  # the batch script: runs once
        ({**SRUN, "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, 0, 1, 0, ""),  # one submitted from inside a step of six
    ],
)
def test_the_place_in_a_launch(environ, rank, world, local, launcher):
    assert launched(environ) == Workers(rank, world, local, launcher)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RANK": "8", "WORLD_SIZE": "8"}, "RANK=8, WORLD_SIZE=8"),
        ({"RANK": "-1", "WORLD_SIZE": "8"}, "impossible"),
        ({"RANK": "one", "WORLD_SIZE": "8"}, "RANK=one"),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, "SLURM_PROCID=2"),
    ],
)
def test_impossible_launches(environ, message):
    with pytest.raises(ValueError, match=message):
        launched(environ)


@pytest.mark.parametrize(("job", "jobs"), [(2, 2), (-1, 2), (0, 0)])
def test_impossible_numbers(job, jobs):
    with pytest.raises(ValueError, match=rf"--worker={job}/{jobs}: workers count from 0"):
        Workers(job=job, jobs=jobs)


@given(parts=st.integers(0, 300), world=st.integers(1, 9), jobs=st.integers(1, 9))
def test_together_they_do_each_part_once(parts, world, jobs):
    """Whatever processes a launch has, and however many launches: one place each, and nothing twice."""
    everybody = [Workers(rank, world, job=job, jobs=jobs) for rank, job in itertools.product(range(world), range(jobs))]
    assert sorted(worker.index for worker in everybody) == list(range(world * jobs))
    orders = [worker.order(parts) for worker in everybody]
    assert sorted(itertools.chain(*orders)) == list(range(parts))
    assert max(map(len, orders)) - min(map(len, orders)) <= 1


@given(parts=st.integers(0, 300), jobs=st.integers(1, 9), data=st.data())
def test_who_steals_may_do_everything_and_begins_with_its_own(parts, jobs, data):
    job = data.draw(st.integers(0, jobs - 1))
    order = Workers(job=job, jobs=jobs, steal=True).order(parts)
    assert sorted(order) == list(range(parts))
    own = list(range(job, parts, jobs))
    assert order[: len(own)] == own


def test_what_is_told():
    assert str(ALONE) == "one worker"
    assert ALONE.prefix == ""
    many = Workers(1, 2, 1, "torchrun", 3, 4)
    assert str(many) == "worker 7 of 8 (launch 3 of 4, torchrun: rank 1 of 2)"
    assert many.prefix == "worker 7 of 8: "
    assert not many.speaks
    assert str(Workers(steal=True)) == "one worker (stealing)"
    assert [Workers(job=job, jobs=2).speaks for job in (0, 1)] == [True, True]  # each in a terminal of its own
