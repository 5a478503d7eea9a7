"""Process-wide settings: --deterministic, of which nothing stays, and how warnings look."""

import os
import warnings

import pytest
import torch
from click.testing import CliRunner

from cli.settings import configure, deterministic
from generate_images import main

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def state():
    cudnn = torch.backends.cudnn
    return {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32),
        "matmul": (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32),
        "cublas": os.environ.get(CUBLAS),
    }


SET = {"algorithms": True, "cudnn": (True, False, False), "matmul": ("highest", False), "cublas": ":4096:8"}


@pytest.mark.parametrize(("there", "inside"), [(None, ":4096:8"), (":0:0", ":4096:8"), (":16:8", ":16:8")])
def test_everything_is_set_and_returns(there, inside, monkeypatch):
    monkeypatch.delenv(CUBLAS, raising=False)
    if there is not None:
        monkeypatch.setenv(CUBLAS, there)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.set_float32_matmul_precision("high")
    try:
        before = state()
        with deterministic(True):
            assert state() == {**SET, "cublas": inside}
        assert state() == before
        with pytest.raises(KeyError), deterministic(True):
            raise KeyError
        assert state() == before
        with deterministic(False):
            assert state() == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_an_operation_without_a_deterministic_kernel_is_named():
    says = r"^--deterministic: put_ cannot be computed deterministically.*--device=cpu$"
    with pytest.raises(RuntimeError, match=says), deterministic(True):
        torch.zeros(4).put_(torch.tensor([1]), torch.tensor([1.0]))
    with pytest.raises(RuntimeError, match="another error"), deterministic(True):
        raise RuntimeError("another error")


def test_the_option_holds_while_the_command_runs(tiny_networks, tmp_path, monkeypatch):
    """Set while it samples and nowhere else; where a kernel has no such version the command ends in one line."""
    seen = []

    def sample(generation, seeds, evaluations):
        seen.append(state())
        return torch.zeros(len(seeds), 3, 8, 8).put_(torch.tensor([1]), torch.tensor([1.0])), None

    monkeypatch.setattr("sampling.generation.sample", sample)
    monkeypatch.delenv(CUBLAS, raising=False)
    before = state()
    args = [f"--net={tiny_networks['cond']}", "--seeds=0", "--device=cpu"]
    failed = CliRunner().invoke(main, [*args, f"--outdir={tmp_path / 'a'}", "--deterministic"])
    assert seen == [SET]
    assert state() == before
    assert failed.exit_code == 1
    assert "Error: --deterministic: put_ cannot be computed deterministically" in failed.stderr.splitlines()[-1]
    assert not list(tmp_path.rglob("*.png"))
    plain = CliRunner().invoke(main, [*args, f"--outdir={tmp_path / 'a'}"])
    assert plain.exit_code == 0, plain.output
    assert seen[1] == before


def test_warnings_for_users_are_one_line_without_code(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.delenv("EDM2_TRACEBACK", raising=False)
    configure()
    assert warnings.formatwarning("memory", RuntimeWarning, "place.py", 7, None) == "warning: memory\n"
    assert "place.py:7" in warnings.formatwarning("old", DeprecationWarning, "place.py", 7, None)
    monkeypatch.setenv("EDM2_TRACEBACK", "1")
    assert "place.py:7" in warnings.formatwarning("memory", RuntimeWarning, "place.py", 7, None)
