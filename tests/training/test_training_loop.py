import json
import math
import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pictures import write_set
from tests.training.tiny_run import tiny_config, tiny_state
from torch_utils import distributed
from training.checkpoint import CheckpointFolder, checkpoint_path, find_checkpoints, load_checkpoint
from training.dataset import ImageFolderDataset
from training.finite import Behind
from training.network_io import load_network
from training.saving import copied
from training.training_loop import PositionRandn, Trainer, build_network, derived_seed, learning_rate, train

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def dataset(tiny_zip):
    return ImageFolderDataset(tiny_zip)


@pytest.fixture
def make_trainer(dataset):
    made = []

    def make(**changes):
        made.append(Trainer(tiny_config(**changes), dataset, CPU))
        return made[-1]

    yield make
    for trainer in made:
        trainer.close()


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_losses_are_added_up_in_what_the_device_has(make_trainer, monkeypatch):
    assert make_trainer().step().dtype == torch.float64
    monkeypatch.setattr(distributed, "wide_dtype", lambda device: torch.float32)  # as on mps
    assert make_trainer().step().dtype == torch.float32


def test_published_learning_rate():
    """EDM2-S: 0.0100 at its peak, held for 70,000 steps of 2048, then falling as 1/sqrt; ramp-up over 10 M images."""

    def rate(n):
        return learning_rate(n, 2048, 0.0100, 70000, 10_000_000)

    assert rate(0) == 0
    assert rate(5_000_000) == pytest.approx(0.0050)
    assert rate(10_000_000) == pytest.approx(0.0100)
    assert rate(70000 * 2048) == pytest.approx(0.0100)
    assert rate(4 * 70000 * 2048) == pytest.approx(0.0050)
    assert learning_rate(1 << 40, 2048, 0.01, 0, 0) == 0.01  # both parts off


def test_every_image_has_its_own_noise():
    together = PositionRandn([1, 2, 3], CPU)
    first, second = together([3, 2, 2]), together([3, 1])
    alone = PositionRandn([2], CPU)
    assert torch.equal(alone([1, 2, 2]), first[1:2])
    assert torch.equal(alone([1, 1]), second[1:2])


def test_streams_differ():
    seeds = [derived_seed(s, stream, n) for s in (0, 1) for stream in range(4) for n in range(3)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert derived_seed(-1, 0) != derived_seed(1, 0)


def test_initial_network_depends_on_the_seed_alone():
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    nets = [build_network(tiny_config(seed=seed), 8, 3, 3) for seed in (0, 0, 1)]
    assert torch.equal(flat(nets[0]), flat(nets[1]))
    assert not torch.equal(flat(nets[0]), flat(nets[2]))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_rounds_do_not_change_the_step(make_trainer):
    """Gradient accumulation: the same images, noise and sums, up to rounding."""
    one, four = make_trainer(rampup=0), make_trainer(rampup=0, batch_gpu=16)
    assert (four.batch_gpu, four.rounds) == (16, 4)
    for _ in range(3):
        assert float(one.step()) == pytest.approx(float(four.step()), rel=1e-4)
    torch.testing.assert_close(flat(one.state.net), flat(four.state.net), rtol=1e-3, atol=1e-4)


def test_gradient_is_that_of_the_mean_over_the_batch(make_trainer):
    """Against finite differences of the loss in one parameter, with the noise of the first step."""
    trainer = make_trainer(ls=3.0)
    gain = trainer.state.net.unet.out_gain
    round_ = next(iter(trainer._rounds(0)))

    def loss():
        total = trainer._backward(0, *round_)
        return float(total) * 3 * 8 * 8 / 64 * 3.0  # sum over pixels, mean over images, loss scaling

    loss()
    gradient = float(gain.grad)
    gain.data += 1e-2
    above = loss()
    gain.data -= 2e-2
    below = loss()
    assert gradient == pytest.approx((above - below) / 2e-2, rel=2e-3)


def test_gradients_that_are_not_finite_count_as_zero(make_trainer):
    trainer = make_trainer(rampup=0)
    weight = trainer.state.net.logvar_linear.weight
    weight.register_hook(lambda grad: torch.full_like(grad, math.nan))
    before = weight.detach().clone()
    trainer.step()
    after = weight.detach()
    # Only forced normalisation may have touched it.
    torch.testing.assert_close(after / after.norm(), before / before.norm(), rtol=1e-5, atol=1e-6)
    assert torch.isfinite(flat(trainer.state.net)).all()


def test_a_step_waits_for_no_number(make_trainer, monkeypatch):
    """On CUDA each of these would wait until all that was begun is computed."""
    trainer, asked = make_trainer(batch_gpu=32, dropout=0.1), []
    trainer.step()  # what happens once
    for name in ("item", "tolist", "cpu", "__bool__", "__float__", "__int__", "nonzero"):
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda *args, n=name, plain=plain: (asked.append(n), plain(*args))[1])
    for _ in range(2):
        trainer.step()
    assert asked == []
    assert float(torch.ones([])) == 1
    assert asked == ["__float__"]


@pytest.mark.cuda
@pytest.mark.parametrize("changes", [{}, {"fp16": False}, {"bf16": True}], ids=str)
@pytest.mark.parametrize("latents", [False, True])
def test_a_step_waits_for_nothing_on_cuda(dataset, tmp_path, latents, changes):
    if latents:
        items = np.random.default_rng(0).normal(size=[20, 8, 8, 8]).astype(np.float32)
        dataset = ImageFolderDataset(write_set(tmp_path / "latents.zip", items, [0] * 20))
    device = torch.device("cuda", 0)
    trainer, flags = Trainer(tiny_config(**changes), dataset, device), Behind(device)
    losses = [trainer.step() for _ in range(2)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(3):
            losses.append(trainer.step())
            flags.add(number, trainer.flags)
            assert [seen for seen, _ in flags.read(everything=False)] == ([number - 1] if number else [])
    finally:
        torch.cuda.set_sync_debug_mode("default")
        trainer.close()
    assert list(flags.read(everything=True)) == [(2, [False] * 6)]
    assert torch.stack(losses).isfinite().all()


@pytest.mark.cuda
def test_a_run_on_cuda_stops_and_goes_on(dataset, tmp_path):
    should_stop, progress = stop_after(1024)
    how = {"device": torch.device("cuda", 0), "progress": progress}
    assert train(tiny_config(batch=256), dataset, tmp_path, should_stop=should_stop, **how) == 1024
    assert train(tiny_config(batch=256), dataset, tmp_path, **how) == 2048
    assert load_checkpoint(find_checkpoints(tmp_path)[-1])["images_seen"] == 2048
    assert len(list(tmp_path.glob("network-snapshot-*"))) == 4


def test_a_run_begun_with_another_adam_goes_on_with_it(make_trainer):
    """Versions before computed Adam's step tensor by tensor, with other last bits."""
    old, new = make_trainer(rampup=0), make_trainer(rampup=0)
    old.state.optimizer.param_groups[0]["fused"] = None
    for _ in range(2):
        old.step()
    new.state.load(copied(old.state.as_checkpoint()))
    for trainer in (old, new):
        trainer.step()
    assert new.state.optimizer.param_groups[0]["fused"] is None
    assert torch.equal(flat(old.state.net), flat(new.state.net))


def test_training_learns(dataset, tmp_path):
    config = tiny_config(status=512, snapshot=2048, checkpoint=2048, lr=0.02, decay=0)
    assert train(config, dataset, tmp_path, device=CPU) == 2048
    records = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [r["images_seen"] for r in records] == [512 * i for i in range(1, 5)]
    assert records[-1]["loss"] < records[0]["loss"] - 0.2
    assert records[-1]["lr"] == pytest.approx(0.02)
    assert records[-1]["images_per_s"] > 0
    assert records[-1]["eta_s"] == 0


def test_snapshots_are_network_files(dataset, tmp_path):
    config = tiny_config(batch=256, P_mean=-0.7)
    dataset.class_names = ("cat", "dog", "owl")
    train(config, dataset, tmp_path, device=CPU)
    names = sorted(path.name for path in tmp_path.glob("network-snapshot-*"))
    assert names == [f"network-snapshot-{k:07d}-{e}.pkl" for k in (1, 2) for e in ("0.050", "0.100")]
    loaded = load_network(tmp_path / "network-snapshot-0000002-0.100.pkl")
    assert loaded.net.label_dim == 3
    assert loaded.dataset_kwargs["path"] == "tiny.zip"  # no folder of this machine
    assert loaded.class_names == ("cat", "dog", "owl")
    assert str(tmp_path) not in (tmp_path / names[0]).read_bytes().decode("latin-1")
    checkpoint = load_checkpoint(find_checkpoints(tmp_path)[-1])
    for name, stored in loaded.net.state_dict().items():
        assert torch.equal(stored, checkpoint["ema"]["averages"][1][name].half())


def stop_after(images):
    seen = []
    return (lambda: sum(seen) >= images), seen.append


def test_resumed_run_drops_statistics_from_beyond_its_checkpoint(dataset, tmp_path):
    config = tiny_config(batch=256, status=256, checkpoint=512)
    should_stop, progress = stop_after(1024)
    train(config, dataset, tmp_path, device=CPU, should_stop=should_stop, progress=progress)
    with open(tmp_path / "stats.jsonl", "a") as file:
        file.write('{"images_seen": 1280, "kimg": 1.28}\n{"images_se')  # as a kill would leave it
    train(config, dataset, tmp_path, device=CPU)
    seen = [json.loads(line)["images_seen"] for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert seen == list(range(256, 2049, 256))


FINISHED = tiny_config(batch=256, duration=1024)


@pytest.fixture(scope="module")
def finished_once(tiny_zip, tmp_path_factory):
    train(FINISHED, ImageFolderDataset(tiny_zip), folder := tmp_path_factory.mktemp("finished"), device=CPU)
    return folder


@pytest.fixture
def finished(finished_once, tmp_path):
    """The folder of a whole run."""
    return Path(shutil.copytree(finished_once, tmp_path / "run"))


def test_finished_run_does_nothing_more(dataset, finished):
    before = {path.name: path.stat().st_mtime_ns for path in finished.glob("*.pkl")}
    assert train(FINISHED, dataset, finished, device=CPU) == 1024
    assert {path.name: path.stat().st_mtime_ns for path in finished.glob("*.pkl")} == before


def test_finished_run_writes_lost_networks_again(dataset, finished):
    path = finished / "network-snapshot-0000001-0.100.pkl"
    before = path.read_bytes()
    path.unlink()
    train(FINISHED, dataset, finished, device=CPU)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_run_can_be_made_longer(dataset, tmp_path, one_thread):
    train(tiny_config(duration=1024), dataset, tmp_path / "parts", device=CPU)
    train(tiny_config(), dataset, tmp_path / "parts", device=CPU)
    train(tiny_config(), dataset, tmp_path / "whole", device=CPU)
    name = "network-snapshot-0000002-0.050.pkl"
    assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(("change", "message"), [({"lr": 0.02}, "lr=0.01, not 0.02"), ({"seed": 5}, "seed=0, not 5")])
def test_another_run_in_the_folder_is_refused(dataset, finished, change, message):
    with pytest.raises(ValueError, match=message):
        train(replace(FINISHED, **change), dataset, finished, device=CPU)


def test_two_processes_in_one_folder_are_refused(dataset, tmp_path):
    def second():
        with pytest.raises(ValueError, match="another process is training"):
            train(tiny_config(), dataset, tmp_path, device=CPU)
        return True

    assert train(tiny_config(), dataset, tmp_path, device=CPU, should_stop=second) == 64


def test_damaged_checkpoint(dataset, tmp_path):
    path = CheckpointFolder(tmp_path).save(tiny_state(64))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="can be gone on from"):
        train(tiny_config(), dataset, tmp_path, device=CPU)


def test_checkpoints_execute_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/executed",)

    torch.save({"format": 1, "images_seen": 1, "net": Hostile()}, checkpoint_path(tmp_path, 1))
    with pytest.raises(ValueError, match="is no checkpoint of this program"):
        load_checkpoint(checkpoint_path(tmp_path, 1))
    assert not (tmp_path / "executed").exists()


def test_latents_are_sampled_from_their_mean_and_deviation(tmp_path):
    """Eight channels in the data are four in the network; no VAE is loaded."""
    rng = np.random.default_rng(0)
    mean = rng.normal([5.81, 3.25, 0.12, -2.15], [4.17, 4.62, 3.71, 3.28], [40, 8, 8, 4]).transpose(0, 3, 1, 2)
    items = np.concatenate([mean, np.full_like(mean, 0.01)], axis=1).astype(np.float32)
    for i, item in enumerate(items):
        np.save(tmp_path / f"img-mean-std-{i:08d}.npy", item)
    trainer = Trainer(tiny_config(cond=False), ImageFolderDataset(tmp_path, use_labels=False), CPU)
    seen = []
    trainer.state.net.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    trainer.loss_fn.P_mean, trainer.loss_fn.P_std = -9.0, 0.1  # so little noise that the network sees the latents
    trainer.step()
    trainer.close()
    assert trainer.state.net.img_channels == 4
    expected = items[[trainer.order[p] for p in range(64)]][:, :4]
    raw_mean, raw_std = (np.reshape(v, [4, 1, 1]) for v in ([5.81, 3.25, 0.12, -2.15], [4.17, 4.62, 3.71, 3.28]))
    np.testing.assert_allclose(seen[0].numpy(), (expected - raw_mean) / raw_std * 0.5, atol=0.02)
    assert trainer.encoder._vae is None


def test_only_the_last_checkpoints_are_kept(tmp_path):
    for images in (1000, 2000, 10_000_000_000, 3000, 4000):
        CheckpointFolder(tmp_path, keep=3).save(tiny_state(images))
    assert [p.name for p in find_checkpoints(tmp_path)] == [
        "training-state-0003000.pt".replace("3000", "0003"),
        "training-state-0000004.pt",
        "training-state-10000000.pt",
    ]


def test_bfloat16_stays_close(make_trainer):
    exact, coarse = make_trainer(rampup=0), make_trainer(rampup=0, bf16=True)
    for _ in range(4):
        expected = float(exact.step()) / 64
        assert float(coarse.step()) / 64 == pytest.approx(expected, rel=0.02)
    assert flat(coarse.state.net).dtype == torch.float32


WORKER = """
import os, sys, torch
import torch._dynamo  # as optimizers do, late
from dataclasses import replace
torch.set_num_threads(1)
from pathlib import Path
from tests.training.tiny_run import tiny_config, tiny_state
from training.dataset import ImageFolderDataset
from training import training_loop
data, folder, said, *ports = ImageFolderDataset(sys.argv[1]), *map(Path, sys.argv[2:4]), *sys.argv[4:]
other = os.fork()  # both from one process, which has everything imported
rank = 0 if other else 1
os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
sys.stdout = open(f"{said}-{rank}", "w", buffering=1)
config = tiny_config(batch=256, duration=1024, status=256)

def train(outdir=folder, **changes):
    os.environ["MASTER_PORT"] = ports.pop()
    try:
        training_loop.train(replace(config, **changes), data, outdir, device=torch.device("cpu"))
    except (ValueError, ArithmeticError, OSError, RuntimeError) as error:
        print("refused:", error)

class Eyes:
    name, text, evaluations, every = "looks", "looks", 0, 1
    beats = 0

    def look(self, snapshot, log, beat):
        for _ in range(20):
            beat()
            self.beats += 1

def watched(folder, told, duration):
    eyes, asked = Eyes(), []

    def should_stop():
        asked.append(1)
        return rank == told and len(asked) > 10  # the other worker has no eyes, and is asked at every beat

    os.environ["MASTER_PORT"] = ports.pop()
    seen = training_loop.train(
        replace(config, duration=duration), data, folder, device=torch.device("cpu"),
        should_stop=should_stop, watchers=[eyes] if rank == 0 else [],
    )
    return seen, eyes.beats, len(asked)

def stopped_at(folder, told):
    plain, asked, sent, counts = torch.distributed.all_reduce, [], [], []
    torch.distributed.all_reduce = lambda *args, **more: (sent.append(1), plain(*args, **more))[1]
    os.environ["MASTER_PORT"] = ports.pop()
    seen = training_loop.train(
        replace(config, status=1024), data, folder, device=torch.device("cpu"),
        should_stop=lambda: bool(asked.append(1)) or rank == told and len(asked) == 3,
        progress=lambda images: counts.append(len(sent)),
    )
    torch.distributed.all_reduce = plain
    assert counts[1] == counts[2] < len(sent)  # a step sends nothing but gradients, unless something is due after it
    return seen

train()
assert stopped_at(folder / "stopped", told=1) == 768
train(folder / "elsewhere" if rank == 1 else folder)
steps, met = 4, 22  # before the look, after each of its 20 parts, and at its end
assert watched(folder / "seen", None, 1024) == (1024, 20 * (rank == 0), steps + met), rank
assert watched(folder / "told", 1, 2048)[:2] == (1024, 5 * (rank == 0)), rank
loss = training_loop.EDM2Loss.__call__
if rank == 1:
    training_loop.EDM2Loss.__call__ = lambda *args: loss(*args) * float("nan")
train(duration=2048)
train(lr=0.02 if rank == 1 else config.lr)
training_loop.EDM2Loss.__call__ = loss
save = training_loop.CheckpointFolder.save
training_loop.CheckpointFolder.save = lambda *args: open(folder / "gone" / "x")
train(folder / "full")
training_loop.CheckpointFolder.save = save
(folder / "file").touch()
train(outdir=folder / "file")
if rank == 0:
    sys.exit(os.waitpid(other, 0)[1])
"""


def test_two_workers_train_as_one(tiny_zip, dataset, tmp_path):
    """DistributedDataParallel over gloo: the batch, its noise and the averages are those of a single process.

    Then, in the same two processes: worker 1 is told to stop; nothing is sent in a step but gradients; worker 1 does
    not see the checkpoint; it waits in short steps while worker 0 looks
    at a snapshot, and is told to stop meanwhile; its loss alone is not finite; it has another learning rate than
    worker 0; worker 0 cannot write its checkpoint, or take the folder.
    """
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "MASTER_ADDR": "127.0.0.1",
    }
    env["WORLD_SIZE"] = "2"
    ports = free_ports(9)
    command = [sys.executable, "-c", WORKER, str(tiny_zip), str(tmp_path / "two"), str(tmp_path / "said"), *ports]
    subprocess.run(command, env=env, timeout=300, check=True)
    output = [(tmp_path / f"said-{rank}").read_text() for rank in range(2)]
    assert "2 workers x 1 round x 128 images" in output[0]
    said = [[line for line in text.splitlines() if line.startswith("refused:")] for text in output]
    assert output[1].splitlines() == said[1]  # one voice
    assert said[0][0] == "refused: worker 1 cannot go on: see its message"
    assert "elsewhere/training-state-0000001.pt" in said[1][0]
    assert "training stopped at 1.8 kimg: 3 steps in a row with a loss that is not finite" in said[0][1]
    assert said[1][1].endswith("see the message of worker 0")
    assert said[0][2] == said[1][2]
    assert "worker 1 has other options, data or another checkpoint than worker 0" in said[0][2]
    assert said[1][3:] == ["refused: worker 0 cannot go on: see its message"] * 2
    assert "gone/x" in said[0][3]
    assert "File exists" in said[0][4]
    train(tiny_config(batch=256, duration=1024, status=256), dataset, tmp_path / "one", device=CPU)
    one, two = (load_checkpoint(checkpoint_path(tmp_path / d, 1024)) for d in ("one", "two"))
    for name, expected in one["net"].items():
        torch.testing.assert_close(two["net"][name], expected, rtol=0.02, atol=0.02, msg=lambda m, n=name: f"{n}: {m}")
    losses = [[json.loads(x)["loss"] for x in (tmp_path / d / "stats.jsonl").open()] for d in ("one", "two")]
    assert set(losses[1][4:]) == {None}  # of the steps that were lost
    np.testing.assert_allclose(losses[0], losses[1][:4], rtol=1e-4)


def free_ports(count):
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [str(listener.getsockname()[1]) for listener in listeners]
