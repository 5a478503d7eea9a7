import pytest
import torch

from torch_utils import distributed

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "2"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 1, 0)),
        (TORCHRUN, (3, 8, 1)),
        (SLURM, (5, 6, 2)),
        ({**TORCHRUN, **SLURM}, (3, 8, 1)),  # torchrun inside a Slurm job
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2, 0)),
        ({"RANK": "1", **SLURM}, (5, 6, 2)),
        ({"SLURM_NTASKS": "4"}, (0, 1, 0)),  # salloc's own shell: a job, but no task of it
    ],
)
def test_layout(environ, expected):
    assert distributed.layout(environ) == expected


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RANK": "8", "WORLD_SIZE": "8"}, "RANK=8, WORLD_SIZE=8"),
        ({"RANK": "-1", "WORLD_SIZE": "8"}, "impossible"),
        ({"RANK": "one", "WORLD_SIZE": "8"}, "RANK=one"),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "1"}, "SLURM_PROCID=2"),
    ],
)
def test_impossible_layouts(environ, message):
    with pytest.raises(ValueError, match=message):
        distributed.layout(environ)


def test_one_process_opens_no_group():
    distributed.init(torch.device("cpu"))
    assert not torch.distributed.is_initialized()
    assert distributed.sum_over_ranks([1.5, 2.0], torch.device("cpu")) == [1.5, 2.0]
    assert distributed.any_rank(True, torch.device("cpu"))
    assert not distributed.any_rank(False, torch.device("cpu"))


def test_several_workers_need_an_address(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="8 workers need MASTER_ADDR"):
        distributed.init(torch.device("cpu"))


def test_only_the_first_worker_prints(monkeypatch, capsys):
    distributed.print0("from rank", distributed.rank())
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    distributed.print0("from another")
    assert capsys.readouterr().out == "from rank 0\n"


def test_devices():
    assert distributed.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="--device=gpu"):
        distributed.pick_device("gpu")
    with pytest.raises(ValueError, match="CUDA devices here"):
        distributed.pick_device("cuda:77")
