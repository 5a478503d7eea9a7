"""Files written while the run goes on: what is in them, in which order, and what becomes of errors."""

import threading

import pytest
import torch

from tests.training.tiny_run import tiny_config, tiny_state
from training.checkpoint import CheckpointFolder, content_hash, find_checkpoints, load_checkpoint
from training.dataset import ImageFolderDataset
from training.saving import Background, copied
from training.training_loop import train

CPU = torch.device("cpu")


def test_a_copy_stays_as_the_state_was(tmp_path):
    net = torch.nn.Linear(2, 3)
    state = {**tiny_state(1000), "net": net.state_dict(), "lr": [(0.5, "x")]}
    before = content_hash(state)
    CheckpointFolder(tmp_path / "at once").save(state)
    copy = copied(state)
    net.weight.data.fill_(7)
    assert content_hash(copy) == before != content_hash(state)
    CheckpointFolder(tmp_path / "later").save(copy)
    one, two = (find_checkpoints(tmp_path / name)[0].read_bytes() for name in ("at once", "later"))
    assert one == two


def test_one_thing_is_written_at_a_time_and_told_by_who_asks():
    go, said, order = threading.Event(), [], []
    with Background(lambda line: said.append((line, threading.current_thread()))) as writer:
        writer.begin(lambda say: (go.wait(30), order.append(1), say("first")))
        writer.check()
        assert said == order == []  # it goes on beside us
        go.set()
        writer.begin(lambda say: order.append(2))
        assert order[0] == 1
    assert order == [1, 2]
    assert said == [("first", threading.main_thread())]


def test_errors_are_raised_once_and_beside_another_one_are_a_warning():
    def fail(say):
        say("half")
        raise OSError("the disk is full")

    said = []
    with Background(said.append) as writer:
        writer.begin(fail)
        writer.settle()
        assert (writer.failed, said) == (True, ["half"])
        with pytest.raises(OSError, match="the disk is full"):
            writer.wait()
        assert not writer.failed
    with pytest.raises(OSError, match="the disk is full"), Background(said.append) as writer:
        writer.begin(fail)

    def both():
        with Background(said.append) as writer:
            writer.begin(fail)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        both()
    assert said[-1] == "warning: nor were all files written: the disk is full"


@pytest.fixture
def run(tiny_zip, tmp_path):
    config = tiny_config(batch=256, status=256, duration=1024)  # a checkpoint every 512
    return lambda **more: train(config, ImageFolderDataset(tiny_zip), tmp_path, device=CPU, **more)


def test_steps_go_on_while_a_checkpoint_is_written(run, tmp_path, monkeypatch):
    """The first one is written only when a later step is done, and holds what was before it."""
    save, seen, later = CheckpointFolder.save, [], threading.Event()

    def progress(images):
        seen.append(images)
        if sum(seen) > 512:
            later.set()

    def slow(self, state):
        assert later.wait(60)
        return save(self, state)

    monkeypatch.setattr(CheckpointFolder, "save", slow)
    assert run(progress=progress) == 1024
    states = [load_checkpoint(path) for path in find_checkpoints(tmp_path)]
    steps = [{float(each["step"]) for each in state["optimizer"]["state"].values()} for state in states]
    assert [(state["images_seen"], *step) for state, step in zip(states, steps, strict=True)] == [(512, 2), (1024, 4)]


def test_a_checkpoint_that_cannot_be_written_ends_the_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(CheckpointFolder, "save", lambda *args: (tmp_path / "gone" / "x").touch())
    with pytest.raises(FileNotFoundError, match="gone"):
        run()
    assert "ended by FileNotFoundError" in (tmp_path / "log.txt").read_text()
    assert find_checkpoints(tmp_path) == []
