import pytest
import torch

from torch_utils import distributed

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "2"}


def test_one_process_opens_no_group():
    distributed.init(torch.device("cpu"))
    assert not torch.distributed.is_initialized()
    assert distributed.sum_over_ranks([1.5, 2.0], torch.device("cpu")) == [1.5, 2.0]
    assert distributed.any_rank([1, 0], torch.device("cpu")) == [True, False]
    assert distributed.gather([3, 4], torch.device("cpu")) == [[3, 4]]


def test_several_workers_need_an_address(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="8 workers need MASTER_ADDR"):
        distributed.init(torch.device("cpu"))


def test_several_workers_share_no_run_on_mps(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(ValueError, match="8 workers cannot share a run on mps: start one, or take --device=cpu"):
        distributed.init(torch.device("mps"))


@pytest.mark.parametrize(("device", "bits"), [("cpu", 64), ("cuda:1", 64), ("mps", 32)])
def test_mps_has_no_float64(device, bits):
    assert distributed.wide_dtype(torch.device(device)).itemsize == bits / 8


def test_only_the_first_worker_prints(monkeypatch, capsys):
    distributed.print0("from rank", distributed.rank())
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    distributed.print0("from another")
    assert capsys.readouterr().out == "from rank 0\n"


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be on a machine with so many CUDA devices, and with or without mps."""

    def pretend(cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    for name in (*TORCHRUN, *SLURM):
        monkeypatch.delenv(name, raising=False)
    return pretend


@pytest.mark.parametrize(
    ("cuda", "mps", "name", "expected"),
    [
        (0, False, "auto", "cpu"),
        (0, True, "auto", "mps"),
        (2, True, "auto", "cuda:0"),
        (2, False, "cuda", "cuda:0"),
        (2, False, "cuda:1", "cuda:1"),
        (2, False, "cpu", "cpu"),
        (0, True, "mps", "mps"),
    ],
)
def test_devices(machine, cuda, mps, name, expected):
    machine(cuda, mps)
    assert distributed.pick_device(name) == torch.device(expected)


def test_workers_share_the_devices_of_their_machine(machine, monkeypatch):
    machine(cuda=2)
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setenv("WORLD_SIZE", "8")
    for local, index in enumerate((0, 1, 0)):
        monkeypatch.setenv("LOCAL_RANK", str(local))
        assert distributed.pick_device() == distributed.pick_device("cuda") == torch.device("cuda", index)
    assert distributed.pick_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("cuda", "name", "message"),
    [
        (0, "gpu", "--device=gpu is no device: give cpu, cuda, cuda:1, mps or auto"),
        (0, "xyz:1", "--device=xyz:1 is no device"),
        (0, "cuda", "--device=cuda is not available here: give one of cpu, or auto"),
        (0, "cuda:77", "--device=cuda:77 is not available here: give one of cpu"),
        (0, "mps", "--device=mps is not available here"),
        (2, "meta", "--device=meta is not available here: give one of cpu, cuda, or auto"),
        (2, "cuda:2", "--device=cuda:2 is not available here: give cuda:0 to cuda:1"),
    ],
)
def test_devices_that_are_not_there(machine, cuda, name, message):
    machine(cuda)
    with pytest.raises(ValueError, match=message):
        distributed.pick_device(name)
    with pytest.raises(ValueError, match=f"^--noise-device={name} "):
        distributed.pick_device(name, "--noise-device")


def test_the_group_is_closed_after_its_threads_had_time(monkeypatch):
    """Closed at once, a worker hung in about one run of fifteen."""
    calls = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: calls.append("destroy"))
    monkeypatch.setattr(distributed.time, "sleep", calls.append)
    distributed.shutdown()
    assert calls == [0.5, "destroy"]
