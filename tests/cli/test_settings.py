"""Process-wide settings: --deterministic, of which nothing stays, and how warnings look."""

import os
import warnings

import pytest
import torch
from click.testing import CliRunner

from edm2_guidance.cli import settings
from edm2_guidance.cli.settings import configure, deterministic
from edm2_guidance.commands import calculate_metrics, generate_zip
from edm2_guidance.commands.generate_images import main
from edm2_guidance.commands.score import gen

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

    def sample(generation, seeds, *more):
        seen.append(state())
        return torch.zeros(len(seeds), 3, 8, 8).put_(torch.tensor([1]), torch.tensor([1.0])), None

    monkeypatch.setattr("edm2_guidance.sampling.generation.sample", sample)
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


@pytest.mark.parametrize(
    "chosen", [None, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OPENBLAS_THREAD_TIMEOUT"]
)
def test_threads_wait_without_spinning_unless_the_user_says_otherwise(chosen, monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OPENBLAS_THREAD_TIMEOUT"):
        monkeypatch.setenv(name, "1")
        if name != chosen:
            monkeypatch.delenv(name)
    configure()
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == ("1" if chosen == "OPENBLAS_THREAD_TIMEOUT" else "4")
    expected = {None: "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "PASSIVE", "OMP_WAIT_POLICY": "1"}.get(chosen)
    assert os.environ.get("OMP_WAIT_POLICY") == expected


@pytest.fixture
def two_threads(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_small_networks_get_one_thread(two_threads, tmp_path, monkeypatch):
    small, large = tmp_path / "small.pkl", tmp_path / "large.pkl"
    small.write_bytes(b"x")
    with open(large, "wb") as file:
        file.truncate(5 << 20)

    def threads(*sources):
        with settings.threads_for(map(str, sources)):
            return torch.get_num_threads()

    assert threads(small, small) == 1
    assert torch.get_num_threads() == 2, "until the block ends"
    assert threads(small, large) == threads("https://host/net.pkl") == threads(tmp_path / "gone.pkl") == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads(small) == 2, "the user's own number is stronger"


@pytest.mark.parametrize(("metrics", "expected"), [("fd_mnist", 1), ("fd_mnist,fid", 2), ("fd_dinov2", 2)])
def test_large_detectors_get_their_threads_beside_a_small_network(two_threads, monkeypatch, metrics, expected):
    seen = []
    monkeypatch.setattr(gen, "score_networks", lambda *_: seen.append(torch.get_num_threads()))
    done = CliRunner().invoke(calculate_metrics.main, ["gen", "--preset=mnist16", f"--metrics={metrics}"])
    assert (done.exit_code, seen) == (0, [expected]), done.output
    assert torch.get_num_threads() == 2


def test_commands_sample_small_networks_by_one_thread(two_threads, tiny_networks, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "edm2_guidance.work.shards.ShardFolder.open", lambda folder: seen.append(folder.content["threads"])
    )
    monkeypatch.setattr("edm2_guidance.work.complete._make_and_join", lambda *_: True)
    args = [f"--net={tiny_networks['cond']}", "--num_images=2", "--device=cpu", f"--out={tmp_path / 'a.zip'}"]
    for expected in (1, 2):
        done = CliRunner().invoke(generate_zip.main, args)
        assert done.exit_code == 0, done.output
        assert seen.pop() == expected, "and it is what all workers must have alike"
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(settings, "SMALL_FILE", 0)
