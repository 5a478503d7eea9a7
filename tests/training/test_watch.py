"""What looks at a run while it trains: it sees every snapshot, may fail in any way, and moves no bit of them."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from tests.training.fake_wandb import FakeWandb
from tests.training.tiny_run import tiny_config
from training import training_loop
from training.checkpoint import find_checkpoints
from training.dataset import ImageFolderDataset
from training.run_folder import Run, read_record, write_record
from training.run_log import RunLog, read_stats
from training.trackers import Trackers
from training.training_loop import train
from training.watch import Snapshot, cost_text

CPU = torch.device("cpu")
SHORT = {"batch": 1024, "checkpoint": 1024, "lr": 0.02}  # two steps


class Eyes:
    """Keeps what it saw. does: at each snapshot, with the log and the beat."""

    name, text, evaluations = "looks", "two looks", 300

    def __init__(self, does=lambda snapshot, log, beat: None, every=1):
        self.does, self.every, self.seen = does, every, []

    def look(self, snapshot, log, beat):
        self.does(snapshot, log, beat)
        self.seen.append(snapshot)


@pytest.fixture
def run(tiny_zip, tmp_path, one_thread):
    def run(should_stop=lambda: False, watchers=(), **changes):
        config, data = tiny_config(**{**SHORT, **changes}), ImageFolderDataset(tiny_zip)
        return train(config, data, tmp_path / "run", device=CPU, should_stop=should_stop, watchers=watchers)

    return run


@pytest.fixture(scope="module")
def unwatched(tiny_zip, tmp_path_factory):
    """Network files of the run that nobody looks at, by name."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("unwatched")
    train(tiny_config(**SHORT), ImageFolderDataset(tiny_zip), folder, device=CPU)
    torch.set_num_threads(threads)
    return networks(folder)


def networks(folder):
    return {path.name: path.read_bytes() for path in folder.glob("network-snapshot-*.pkl")}


def test_no_bit_depends_on_who_looks(run, tmp_path, unwatched, monkeypatch):
    """Not on random numbers that they draw, nor on what they fail of; the next one looks all the same.

    Nor is their time that of training: by a clock on which nothing else takes time.
    """
    now = [0.0]
    monkeypatch.setattr(training_loop, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def draw(snapshot, log, beat):
        now[0] += 1000
        torch.manual_seed(5)
        torch.rand(100)
        beat()
        raise MemoryError

    failing, second = Eyes(draw), Eyes()
    assert run(watchers=[failing, second]) == 2048
    assert networks(tmp_path / "run") == unwatched
    log = (tmp_path / "run" / "log.txt").read_text()
    for kimg in ("1.0", "2.0"):
        assert f"warning: no looks of the snapshot at {kimg} kimg, the run goes on: MemoryError" in log
    assert [(each.images_seen, each.number, each.last, each.fresh) for each in second.seen] == [
        (1024, 1, False, True),
        (2048, 2, True, True),
    ]
    assert [path.name for path in second.seen[1].paths] == [
        f"network-snapshot-0000002-{length}.pkl" for length in ("0.050", "0.100")
    ]
    assert {line["seconds"] for line in read_stats(tmp_path / "run")} == {0.0}


@pytest.mark.parametrize(("every", "due"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_every_so_many_and_the_last(every, due):
    snapshots = [Snapshot((), number * 1024, number, number == 5, True) for number in range(1, 6)]
    assert [each.number for each in snapshots if each.is_due(every)] == due
    text = cost_text(Eyes(every=every), tiny_config(duration=5120))
    share = len(due) * 300 / (3 * 5120)
    assert text.startswith(f"two looks at {len(due)} snapshot")
    assert f"{share:.2%}" in text


def test_a_run_that_is_told_to_stop_looks_at_the_next_start(run, tmp_path, unwatched):
    """The look is broken off, the checkpoint written at the snapshot, and the look made up for."""
    told = []

    def long(snapshot, log, beat):
        for _ in range(10):
            beat()
            told.append(True)

    eyes = Eyes(long)
    assert run(should_stop=lambda: len(told) >= 3, watchers=[eyes], checkpoint=2048) == 1024
    assert (len(told), eyes.seen) == (3, [])
    assert "looks of the snapshot at 1.0 kimg: left out, as the run is told to stop" in log_of(tmp_path)
    assert [path.name for path in find_checkpoints(tmp_path / "run")] == ["training-state-0000001.pt"]
    assert run(watchers=[eyes], checkpoint=2048) == 2048
    assert [(each.number, each.fresh) for each in eyes.seen] == [(1, False), (2, True)]
    assert networks(tmp_path / "run") == unwatched
    assert run(watchers=[eyes], checkpoint=2048) == 2048  # nothing to train, and what the end lacks is made
    assert [(each.number, each.fresh) for each in eyes.seen[2:]] == [(2, False)]


def log_of(tmp_path):
    return (tmp_path / "run" / "log.txt").read_text()


def test_a_score_is_reported_once(tmp_path):
    """Beside the reports of training, with those from beyond the checkpoint dropped as these are."""

    def start(begun, *numbers):
        with RunLog(tmp_path) as log:
            log.start(1024 * begun, 4096, "a run")
            for number in numbers:
                if number > begun:
                    log.status(1024 * number, 4096, loss=0.5, lr=0.1, images_per_s=100, seconds=10)
                score = {"metric": "fd@4", "value": float(number)}
                log.score(1024 * number, tmp_path / f"network-snapshot-000000{number}-0.050.pkl", score)
        return [(line["images_seen"] // 1024, line.get("value")) for line in read_stats(tmp_path)]

    assert start(0, 1, 2) == [(1, None), (1, 1.0), (2, None), (2, 2.0)]
    with open(tmp_path / "stats.jsonl", "a") as file:
        file.write('{"images_seen": 20')  # as a kill leaves it
    assert start(1) == [(1, None), (1, 1.0)]
    assert start(1, 1, 2) == [(1, None), (1, 1.0), (2, None), (2, 2.0)]


# the record of starts


def test_every_start_that_differs_is_on_record(tmp_path):
    path = tmp_path / "training_options.json"
    run, longer = Run({"lr": 0.02}, {"duration": 1024}), Run({"lr": 0.02}, {"duration": 2048})
    first = {"given": ["--lr=0.02"], "software": {"torch": "1"}}
    write_record(tmp_path, run, {"images_seen": 0, **first})
    write_record(tmp_path, run, {"images_seen": 1024, **first})
    write_record(tmp_path, longer, {"images_seen": 1024, **first})
    record = json.loads(path.read_text())
    times = [each.pop("time") for each in record["starts"]]
    assert times == sorted(times)
    assert record["starts"] == [
        {"images_seen": 0, **first, "free": {"duration": 1024}},
        {"images_seen": 1024, **first, "free": {"duration": 2048}},
    ]
    del record["starts"]  # as the version before wrote it
    path.write_text(json.dumps(record))
    assert read_record(tmp_path, run) == ["--duration is 1024, was 2048"]
    write_record(tmp_path, run, {"given": []})
    assert [each["given"] for each in json.loads(path.read_text())["starts"]] == [[]]


# trackers


def test_wandb_is_told_all_numbers_and_goes_on_with_its_run(tmp_path, monkeypatch):
    wandb, folder = FakeWandb(), tmp_path / "my run"
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "digits")
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    for begun in (0, 1024):
        with RunLog(folder) as log:
            log.track(["wandb"], Run({"lr": 0.02}, {"duration": 4096}), begun)
            log.status(begun + 512, 4096, loss=float("nan"), lr=0.1, images_per_s=100, seconds=10)
            log.score(begun + 1024, folder / "network-snapshot-0000001-0.050.pkl", {"metric": "fd@4", "value": 1.5})
            log.picture(begun + 1024, "preview", tmp_path / "a.png")
    first, second = wandb.runs
    assert second.logs == [
        {"images_seen": 1536, "lr": 0.1, "images_per_s": 100},  # no loss that is not finite
        {"images_seen": 2048, "fd@4 of 0.050": 1.5},
        {"images_seen": 2048, "preview": (4, 3)},
    ]
    assert (first.settings["id"], first.settings["resume"]) == (second.settings["id"], "allow")
    assert first.settings["id"].endswith("-my-run")
    assert (first.settings["name"], first.settings["project"]) == ("my run", "digits")
    assert first.settings["config"] == {"lr": 0.02, "duration": 4096}
    assert "mode" not in first.settings  # WANDB_MODE is wandb's affair
    assert ("*", {"step_metric": "images_seen"}) in first.metrics
    assert first.finished
    assert second.finished


@pytest.fixture
def tracked(tmp_path):
    """Trackers by their names, after so many images, and what they say."""

    def tracked(*names, images_seen=0):
        said = []
        return Trackers(names, tmp_path, Run({"lr": 0.02}, {"duration": 1024}), images_seen, said.append), said

    return tracked


@pytest.mark.parametrize("broken", [0, 2])
def test_a_tracker_that_fails_is_told_once_and_left_out(tracked, monkeypatch, broken):
    monkeypatch.setitem(sys.modules, "wandb", wandb := FakeWandb(broken))
    trackers, said = tracked("wandb")
    for images_seen in range(1, 6):
        trackers.numbers(images_seen, {"loss": 0.5})
    trackers.close()
    assert said == ["warning: wandb failed, and the run goes on without: the server is gone"]
    assert len(wandb.runs[0].logs) == broken


def test_a_tracker_that_does_not_open_is_told(tracked, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **settings: 1 / 0))
    trackers, said = tracked("wandb")
    trackers.numbers(1, {"loss": 0.5})
    assert said == ["warning: wandb failed, and the run goes on without: division by zero"]


def test_tensorboard_is_told_all_numbers(tracked, tmp_path, monkeypatch):
    """By a writer that keeps what it is told, as the package may not be here."""
    told = []

    class Writer:
        def __init__(self, folder, purge_step):
            told.append((folder, purge_step))

        def __getattr__(self, name):
            return lambda *words, **more: told.append((name, *words))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    trackers, said = tracked("tensorboard", images_seen=1024)
    trackers.numbers(1536, {"loss": 0.5, "lr": 0.01})
    trackers.close()
    assert told == [
        (str(tmp_path / "tensorboard"), 1025), ("add_scalar", "loss", 0.5, 1536), ("add_scalar", "lr", 0.01, 1536),
        ("flush",), ("close",),
    ]  # fmt: skip
    assert said == []


def test_tensorboard_shows_no_number_of_a_lost_end_twice(tracked, tmp_path):
    """By its own reader."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    for begun, losses in ((0, {512: 3.0, 1024: 2.0, 1536: 1.5}), (1024, {1536: 1.25, 2048: 1.0})):
        trackers, said = tracked("tensorboard", images_seen=begun)
        for images_seen, loss in losses.items():
            trackers.numbers(images_seen, {"loss": loss})
        trackers.picture(images_seen, "preview", tmp_path / "a.png")
        trackers.close()
        assert said == []
    found = events.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(each.step, each.value) for each in found.Scalars("loss")] == [
        (512, 3.0), (1024, 2.0), (1536, 1.25), (2048, 1.0),
    ]  # fmt: skip
    assert [(each.step, each.width, each.height) for each in found.Images("preview")] == [(2048, 4, 3)]
