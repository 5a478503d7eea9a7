"""Losses, gradients and weights that are not finite: when they end a run, and that no file ever holds them."""

import math

import pytest
import torch

from tests.training.tiny_run import tiny_config
from training import training_loop
from training.checkpoint import find_checkpoints, load_checkpoint
from training.dataset import ImageFolderDataset
from training.finite import LOST_STEPS, OVERFLOW_STEPS, Behind, NotFiniteError, StepWatch, gradient_flags
from training.training_loop import Trainer, train

CPU = torch.device("cpu")
GOOD = {"loss": False, "overflow": False, "nothing": False, "weights": False}


def test_gradients_that_can_be_learned_from():
    fine, zero = torch.tensor([[0.0, -1.0]]), torch.zeros(2)
    nan, inf, large = torch.tensor([1.0, math.nan]), torch.tensor(math.inf), torch.tensor([-1e20])
    assert gradient_flags([fine, zero]).tolist() == [0, 0]
    assert gradient_flags([zero, zero]).tolist() == [0, 1]
    for bad in (nan, inf, large):  # Adam's square of the last is infinite
        assert gradient_flags([fine, bad]).tolist() == [1, 0]
        assert gradient_flags([zero, bad]).tolist() == [1, 1]


@pytest.mark.parametrize("bad", [{"loss": True}, {"nothing": True, "overflow": True}, {"nothing": True}])
def test_only_lost_steps_in_a_row_end_a_run(bad):
    watch = StepWatch(steps=1000)
    for _ in range(10):
        for _ in range(LOST_STEPS - 1):
            assert watch.after_step(**{**GOOD, **bad}) is None
            assert watch.losing
        assert watch.after_step(**GOOD) is None
        assert not watch.losing
    for _ in range(LOST_STEPS - 1):
        watch.after_step(**{**GOOD, **bad})
    assert f"{LOST_STEPS} steps in a row" in watch.after_step(**{**GOOD, **bad})


def test_part_of_the_gradients_may_overflow_now_and_then():
    watch = StepWatch(steps=1000)
    bad = {**GOOD, "overflow": True}
    assert [watch.after_step(**bad) for _ in range(OVERFLOW_STEPS - 1)] == [None] * (OVERFLOW_STEPS - 1)
    assert watch.after_step(**GOOD) is None
    reasons = [watch.after_step(**bad) for _ in range(OVERFLOW_STEPS)]
    assert reasons[:-1] == [None] * (OVERFLOW_STEPS - 1)
    assert "overflow in part" in reasons[-1]


def test_weights_end_a_run_at_once_and_a_short_run_that_lost_all_steps_fails():
    assert StepWatch(1000).after_step(**{**GOOD, "weights": True}) == "weights are not finite"
    watch = StepWatch(steps=2)
    assert watch.after_step(**{**GOOD, "loss": True}) is None
    assert "2 steps in a row" in watch.after_step(**{**GOOD, "loss": True})


@pytest.fixture
def run(tiny_zip, tmp_path):
    return lambda **changes: train(tiny_config(**changes), ImageFolderDataset(tiny_zip), tmp_path, device=CPU)


def from_step(monkeypatch, images, act):
    """Have `act(trainer)` done before every step from `images` on."""
    plain = Trainer.step

    def step(trainer):
        if trainer.state.images_seen >= images:
            act(trainer)
        return plain(trainer)

    monkeypatch.setattr(Trainer, "step", step)


def lose(trainer):
    trainer.state.net.register_forward_hook(lambda net, args, output: (output[0] * math.nan, output[1]))


def spoil(trainer):
    trainer.state.net.unet.out_conv.weight.data[0, 0, 0, 0] = math.nan


@pytest.mark.parametrize(
    ("act", "steps", "reason"),
    [(lose, LOST_STEPS, "3 steps in a row with a loss that is not finite"), (spoil, 1, "weights are not finite")],
)
def test_a_run_that_diverges_ends_and_keeps_what_was_good(run, tmp_path, monkeypatch, act, steps, reason):
    """With a checkpoint after every step the spoiled ones would soon be all there is."""
    with monkeypatch.context() as patch:
        from_step(patch, 1024, act)
        with pytest.raises(NotFiniteError) as caught:
            run(batch=256, checkpoint=256)
    kimg = (1024 + 256 * steps) / 1000
    assert f"training stopped at {kimg:.1f} kimg: {reason}" in str(caught.value)
    last = find_checkpoints(tmp_path)[-1]
    assert f"The last sound checkpoint is {last}. The same command goes on from there" in str(caught.value)
    assert "--lr" in str(caught.value)
    assert "ended by NotFiniteError" in (tmp_path / "log.txt").read_text()
    assert load_checkpoint(last)["images_seen"] == 1024
    assert {path.name[:24] for path in tmp_path.glob("network-*")} == {"network-snapshot-0000001"}
    assert run(batch=256, checkpoint=256) == 2048


def test_flags_that_are_read_late_tell_the_same(run, tmp_path, monkeypatch):
    """As on CUDA: of the step before, or of all where something is to be written."""
    flags = Behind(torch.device("cuda"))
    for seen in (64, 128, 192):
        flags.add(seen, torch.tensor([0.0, 0.5]))
        assert list(flags.read(everything=False)) == ([(seen - 64, [False, True])] if seen > 64 else [])
    assert list(flags.read(everything=True)) == [(192, [False, True])]
    monkeypatch.setattr(training_loop, "Behind", lambda device: Behind(torch.device("cuda")))
    from_step(monkeypatch, 1024, lose)
    with pytest.raises(NotFiniteError, match=r"stopped at 1\.8 kimg: 3 steps in a row .*training-state-0000001\.pt"):
        run(batch=256, checkpoint=1024)
    assert {path.name[:24] for path in tmp_path.glob("network-*")} == {"network-snapshot-0000001"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ls": 1e300}, "3 steps in a row with no finite gradient"),
        ({"ls": 1e-300}, "3 steps in a row with no gradient above 0"),
        ({"lr": 1e30}, "not finite"),
    ],
)
def test_runs_that_learn_nothing_fail(run, tmp_path, changes, reason):
    with pytest.raises(NotFiniteError, match=reason):
        run(rampup=0, **changes)
    assert not list(tmp_path.glob("network-*")) + find_checkpoints(tmp_path)


def test_what_cannot_be_gone_on_from_is_not_written(run, tmp_path, monkeypatch):
    """Gradients that are finite, with squares that are not: Adam would never move these weights again."""

    def enlarge(trainer):
        trainer.state.net.logvar_linear.weight.register_hook(lambda grad: torch.full_like(grad, 1e25))

    from_step(monkeypatch, 0, enlarge)
    with pytest.raises(NotFiniteError, match=r"first in optimizer\.state\.\d+\.exp_avg_sq"):
        run(batch=256, checkpoint=1024)
    assert not list(tmp_path.glob("network-*")) + find_checkpoints(tmp_path)


def test_averages_beyond_float16_are_not_published(run, tmp_path, monkeypatch):
    from_step(monkeypatch, 0, lambda trainer: trainer.state.ema.averages[1].unet.out_gain.fill_(1e9))
    with pytest.raises(NotFiniteError, match=r"first in unet\.out_gain of the average 0\.100 in float16"):
        run(batch=256, checkpoint=1024)
    assert not list(tmp_path.glob("network-*")) + find_checkpoints(tmp_path)


def test_overflows_are_told(run, tmp_path, monkeypatch):
    def overflow(trainer):
        trainer.state.net.logvar_linear.weight.register_hook(lambda grad: torch.full_like(grad, math.inf))

    from_step(monkeypatch, 1024 + 640, overflow)
    assert run() == 2048
    log = (tmp_path / "log.txt").read_text()
    assert log.count("gradients overflowed in") == 1
    assert "gradients overflowed in 6 of 16 steps" in log
