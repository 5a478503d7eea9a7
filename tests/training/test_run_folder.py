"""What a run finds in its folder: its own checkpoints, sound or not, another run, or files of another program."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dnnlib.errors import Refused
from tests.pictures import write_set
from tests.training.tiny_run import tiny_config, tiny_state
from training.checkpoint import (
    CheckpointFolder,
    UnsoundCheckpointError,
    checkpoint_path,
    content_hash,
    find_checkpoints,
    load_checkpoint,
)
from training.dataset import ImageFolderDataset
from training.training_loop import train

CPU = torch.device("cpu")
SHORT = {"batch": 256, "checkpoint": 256, "duration": 1024}


@pytest.fixture
def run(tiny_zip, tmp_path, one_thread):
    def run(data=tiny_zip, outdir=tmp_path / "run", **changes):
        return train(tiny_config(**{**SHORT, **changes}), ImageFolderDataset(data), outdir, device=CPU)

    return run


@pytest.fixture(scope="module")
def trained(tiny_zip, tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    train(tiny_config(**SHORT), ImageFolderDataset(tiny_zip), folder, device=CPU)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A finished run with checkpoints at 512, 768 and 1024 images."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def alter(path, **changes):
    state = torch.load(path, weights_only=True)
    torch.save({**state, **changes}, path)


def networks(folder):
    return {path.name: path.read_bytes() for path in folder.glob("network-*")}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# checkpoints


def test_content_hash_is_of_everything_there_is():
    state = {"net": {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}, "lr": 0.1, "betas": (0.9, 0.99), "n": None}
    others = [
        {**state, "lr": 0.1 + 1e-18},  # the same number
        {**state, "lr": 0.1000001},
        {**state, "net": {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0000002)}},
        {**state, "net": {"w": torch.tensor([[1.0, 2.0]]), "b": torch.tensor(3.0)}},
        {**state, "net": {"w": torch.tensor([1.0, 2.0]).double(), "b": torch.tensor(3.0)}},
        {**state, "net": {"v": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}},
        {**state, "n": 0},
    ]
    hashes = [content_hash(each) for each in (state, *others)]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == len(others)


@pytest.mark.parametrize("damage", ["cut", "flipped", "tensor", "nan", "empty"])
def test_an_unsound_checkpoint_is_passed_over_and_kept(run, tmp_path, folder, damage):
    """The run goes on from the one before, to the same networks."""
    path, expected = find_checkpoints(folder)[-1], networks(folder)
    data = bytearray(path.read_bytes())
    if damage in ("tensor", "nan"):
        state = torch.load(path, weights_only=True)
        state["ema"]["averages"][0]["unet.out_gain"].fill_(0.5 if damage == "tensor" else float("nan"))
        if damage == "nan":  # as a version without these checks would have written it
            state["sha256"] = content_hash({name: value for name, value in state.items() if name != "sha256"})
        torch.save(state, path)
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes({"cut": data[: len(data) // 2], "flipped": data, "empty": b""}[damage])
    damaged = path.read_bytes()
    for network in folder.glob("network-*"):
        network.unlink()
    assert run() == 1024
    log = (folder / "log.txt").read_text()
    assert f"passed over, and kept: {path}" in log
    assert "resumed at 0.8 of 1.0 kimg" in log
    assert networks(folder) == expected
    assert (folder / f"{path.name}.unsound1").read_bytes() == damaged
    assert load_checkpoint(path)["images_seen"] == 1024


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": None}, {"identity": [1]}, {"identity": {}}, {"net": None}, {"ema": None}, {"ema": {"averages": 3}},
        {"optimizer": {"param_groups": []}}, {"images_seen": "x"}, {"images_seen": -256}, {"images_seen": True},
        {"images_seen": 1000}, {"seconds": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_checkpoint_with_something_else_inside(tmp_path, changes):
    """Whatever its checksum says."""
    state = {"format": 2, **tiny_state(512), "identity": {"batch": 256}, **changes}
    state = {name: value for name, value in state.items() if value is not None}
    torch.save({**state, "sha256": content_hash(state)}, tmp_path / "training-state-0000001.pt")
    with pytest.raises(UnsoundCheckpointError, match=f"no whole checkpoint: its {next(iter(changes))}"):
        load_checkpoint(tmp_path / "training-state-0000001.pt")


def test_weights_of_another_network_are_one_error(run, folder):
    path = find_checkpoints(folder)[-1]
    state = torch.load(path, weights_only=True)
    state["optimizer"]["param_groups"] = [1]
    del state["sha256"]
    torch.save({**state, "sha256": content_hash(state)}, path)
    with pytest.raises(ValueError, match="the checkpoint is odd in a way"):
        run(duration=2048)


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "pointer", "page"])
def test_what_only_has_the_name_of_a_checkpoint_is_passed_over(tmp_path, kind):
    checkpoints, odd = CheckpointFolder(tmp_path), checkpoint_path(tmp_path, 2000)
    sound = checkpoints.save(tiny_state(1000))
    match kind:
        case "folder":
            odd.mkdir()
        case "pipe":
            os.mkfifo(odd)
        case "link":
            odd.symlink_to(tmp_path / "gone")
        case "pointer":
            odd.write_text("version https://git-lfs.github.com/spec/v1\n")
        case "page":
            odd.write_text("<html>")
    path, _, notes = CheckpointFolder(tmp_path).newest()
    assert path == sound
    assert [note.startswith(f"passed over, and kept: {odd} is ") for note in notes] == [True]
    CheckpointFolder(tmp_path, keep=1).save(tiny_state(2000))
    assert os.path.lexists(f"{odd}.unsound1")
    assert load_checkpoint(odd)["images_seen"] == 2000
    assert find_checkpoints(tmp_path) == [odd]


def test_unsound_checkpoints_push_out_no_others(tmp_path):
    checkpoints = CheckpointFolder(tmp_path, keep=2)
    for images in (1000, 2000, 3000):
        (tmp_path / f"training-state-000000{images // 1000 + 5}.pt").write_bytes(b"damaged")
        checkpoints.save(tiny_state(images))
    kept = [path.name for path in find_checkpoints(tmp_path)]
    assert kept == [f"training-state-000000{n}.pt" for n in (2, 3, 6, 7, 8)]


def test_a_full_disk_is_an_error_of_the_disk(tmp_path, monkeypatch):
    def full(content, file):
        class Disk:
            def write(self, data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        save(content, Disk())

    save = torch.save
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        CheckpointFolder(tmp_path).save({"images_seen": 1000, "net": torch.zeros(10)})
    assert caught.value.filename == str(checkpoint_path(tmp_path, 1000))
    assert list(tmp_path.iterdir()) == []


def test_no_sound_checkpoint_is_no_reason_to_begin_anew(run, folder):
    for path in find_checkpoints(folder):
        path.write_bytes(path.read_bytes()[:1000])
    before = contents(folder)
    with pytest.raises(Refused, match=r"no checkpoint in .* can be gone on from .*training-state-0000001"):
        run()
    assert contents(folder) == before


def test_checkpoints_of_the_version_before(run, folder):
    """They have no checksum, and do not say which images they were trained on; and there was no record."""
    expected = networks(folder)
    for path in find_checkpoints(folder):
        state = torch.load(path, weights_only=True)
        state["format"] = 1
        del state["sha256"], state["identity"]["data images (hash)"], state["identity"]["data labels (hash)"]
        torch.save(state, path)
    find_checkpoints(folder)[-1].unlink()
    (folder / "training_options.json").unlink()
    for network in folder.glob("network-*"):
        network.unlink()
    assert run() == 1024
    assert networks(folder) == expected
    with pytest.raises(Refused, match="--seed=0, not 1"):
        run(seed=1)


def test_a_checkpoint_of_a_newer_version(run, folder):
    alter(find_checkpoints(folder)[-1], format=99)
    with pytest.raises(Refused, match="format 99, this version reads up to 2: go on with the version that wrote it"):
        run()


# files of others


@pytest.fixture
def edm2_state(monkeypatch):
    """Something like what the original trainer has in its file of the same name."""
    module = ModuleType("dnnlib.util")
    module.EasyDict = type("EasyDict", (dict,), {"__module__": "dnnlib.util", "__qualname__": "EasyDict"})
    monkeypatch.setitem(sys.modules, "dnnlib.util", module)
    return {"state": module.EasyDict(cur_nimg=134217728), "net": {"w": torch.ones(3)}, "optimizer_state": {}}


@pytest.mark.parametrize("kind", ["plain", "attributes", "other dict", "pickle"])
def test_a_checkpoint_of_another_program_is_called_so(run, tmp_path, edm2_state, kind, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    state = {**edm2_state, "state": dict(edm2_state["state"])} if kind == "plain" else edm2_state
    content = {"epoch": 3, "model": torch.ones(2)} if kind == "other dict" else state
    path = folder / "training-state-0134217.pt"
    torch.save(content, path, _use_new_zipfile_serialization=kind != "pickle")
    monkeypatch.undo()
    (folder / "log.txt").write_text("of another program\n")
    before = contents(folder)
    with pytest.raises(Refused, match="is no checkpoint of this program") as caught:
        run()
    assert "delete" not in str(caught.value)
    assert {**contents(folder), ".training.lock": b""} == {**before, ".training.lock": b""}


@pytest.mark.parametrize(
    "name", ["network-snapshot-0134217-0.100.pkl", "training-state-000128.pt", "network-snapshot-000128.pkl"]
)
def test_a_folder_with_files_of_an_unknown_run(run, tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_bytes(b"weeks of work")
    with pytest.raises(Refused, match=f"such as {name} .*Give another --outdir"):
        run()
    assert (tmp_path / "run" / name).read_bytes() == b"weeks of work"


@pytest.mark.parametrize("content", ['{"dataset_kwargs": {}, "batch_size": 2048}', "[]", "{", ""])
def test_options_that_another_program_wrote(run, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "training_options.json").write_text(content)
    with pytest.raises(Refused, match=r"training_options\.json"):
        run()
    assert (tmp_path / "run" / "training_options.json").read_text() == content


def test_a_damaged_record_is_to_be_moved(run, folder):
    record = folder / "training_options.json"
    record.write_bytes(b"")
    with pytest.raises(Refused, match=r"training_options\.json .*Move it elsewhere: then the same command goes on"):
        run()
    record.rename(folder / "elsewhere.json")
    assert run(duration=2048) == 2048
    assert "goes on from" in (folder / "log.txt").read_text()
    assert json.loads(record.read_text())["free"]["duration"] == 2048


# the same run or none


def test_other_data_is_refused(run, folder, tmp_path, tiny_pixels, tiny_labels):
    before = contents(folder)
    pixels = tiny_pixels.copy()
    pixels[7, 0, 0, 0] ^= 1
    with pytest.raises(Refused, match=r"holds a run with data images \(hash\)=\w{16}, not \w{16}: give the same"):
        run(data=write_set(tmp_path / "pixel.zip", pixels, tiny_labels), duration=2048)
    with pytest.raises(Refused, match="data labels "):
        run(data=write_set(tmp_path / "label.zip", tiny_pixels, tiny_labels[::-1]), duration=2048)
    assert contents(folder) == before


def test_a_set_that_moved_or_changed_its_form_is_the_same(run, folder, tiny_zip, tmp_path):
    shutil.copy(tiny_zip, tmp_path / "renamed.zip")
    assert run(data=tmp_path / "renamed.zip") == 1024
    shutil.unpack_archive(tiny_zip, tmp_path / "unpacked")
    assert run(data=tmp_path / "unpacked") == 1024


def test_a_run_without_checkpoints_keeps_its_folder(run, folder):
    """Killed before the first checkpoint, it has networks alone."""
    expected = networks(folder)
    for path in find_checkpoints(folder):
        path.unlink()
    before = contents(folder)
    with pytest.raises(Refused, match=r"--lr=0\.01, not 0\.5; --seed=0, not 7"):
        run(seed=7, lr=0.5)
    assert contents(folder) == before
    assert run() == 1024
    log = (folder / "log.txt").read_text()
    assert "begins anew: an earlier start of this run left 2 networks but no checkpoint; they stay until" in log
    assert networks(folder) == expected
    assert "in place of another one" not in log


def test_a_network_that_changes_is_not_replaced_in_silence(run, folder):
    for path in find_checkpoints(folder):
        path.unlink()
    (folder / "network-snapshot-0000001-0.100.pkl").write_bytes(b"of other software")
    run()
    lines = (folder / "log.txt").read_text().splitlines()
    assert [line.split("wrote ")[1].split("-")[-1] for line in lines if "in place of another one" in line] == [
        "0.100.pkl in place of another one, of an earlier start of this run"
    ]


def test_what_may_change_is_said(run, folder):
    run(duration=2048, snapshot=2048, batch_gpu=64)
    log = (folder / "log.txt").read_text()
    for line in ("--duration is 2048, was 1024", "--snapshot is 2048, was 1024", "--batch_gpu is 64, was 0"):
        assert line in log
    record = json.loads((folder / "training_options.json").read_text())
    assert record["free"]["duration"] == 2048
    record["free"]["training code"] = record["free"]["torch version"] = "another"
    (folder / "training_options.json").write_text(json.dumps(record))
    run(duration=2048, snapshot=2048, batch_gpu=64)
    log = (folder / "log.txt").read_text()
    assert f"torch version is {torch.__version__}, was another" in log
    assert "training code is" in log


def test_a_duration_that_is_over_is_said(run, folder):
    run(duration=2048)
    before = networks(folder)
    assert run(duration=1024) == 2048
    last = (folder / "log.txt").read_text().splitlines()[-1]
    assert "nothing to train: the run in" in last
    assert "is at 2.0 kimg, and --duration=1024 (1.0 kimg) is over; give a longer one to go on" in last
    assert networks(folder) == before
