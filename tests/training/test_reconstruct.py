"""Post-hoc EMA on network files: against averages that were tracked while the network was trained."""

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from training import network_safetensors, reconstruct
from training.encoders import StabilityVAEEncoder
from training.loss import EDM2Loss
from training.network_io import load_network, save_network, save_safetensors
from training.networks_edm2 import Precond
from training.phema import PowerFunctionEMA, sigma_rel_to_exponent
from training.reconstruct import Snapshot, find_snapshots, plan_reconstructions

TRACKED = (0.05, 0.10, 0.03, 0.075, 0.15, 0.20)  # the first two are stored, the others are what should come out
TIMES, STEPS, BATCH = 10, 4, 256  # snapshots, steps between them, images per step


def tiny_net(**changes):
    kwargs = {"model_channels": 8, "channel_mult": [1], "num_blocks": 0, "attn_resolutions": [], "channels_per_head": 8}
    torch.manual_seed(0)
    return Precond(4, 3, 3, **{**kwargs, **changes})


def flat(net):
    return torch.cat([parameter.detach().float().flatten() for parameter in net.parameters()]).double()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network in training: its snapshots, its parameters after every step [T, P], its averages at the end [P]."""
    folder = tmp_path_factory.mktemp("run")
    net, loss_fn = tiny_net().train(), EDM2Loss(-0.8, 1.6, 0.4)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.9, 0.99))
    ema, path = PowerFunctionEMA(net, TRACKED), []
    images, labels = torch.randn(4, 3, 4, 4).clip(-1, 1), torch.eye(3)[[0, 1, 2, 0]]
    for step in range(1, TIMES * STEPS + 1):
        optimizer.zero_grad()
        loss_fn(net, images, labels).sum().backward()
        optimizer.step()
        ema.update(net, step * BATCH, BATCH)
        path.append(flat(net))
        if step % STEPS == 0:
            for length, average in ema.snapshots(net)[:2]:
                name = f"network-snapshot-{step * BATCH // 1000:07d}-{length:.3f}.pkl"
                parts = {"encoder": StabilityVAEEncoder(), "dataset_kwargs": {"path": "tiny.zip"}, "loss_fn": loss_fn}
                save_network(folder / name, average, **parts)
    averages = {length: flat(average) for length, average in ema.snapshots(net)}
    return SimpleNamespace(folder=folder, path=torch.stack(path), averages=averages, net=net)


def reconstructed(run, outdir, lengths, **kwargs):
    plan = plan_reconstructions(find_snapshots(str(run.folder), **kwargs), lengths, outdir)
    reconstruct.reconstruct(plan.snapshots, plan.outputs)
    return plan, [load_network(output.path) for output in plan.outputs]


def test_tracked_averages_are_reconstructed(run, tmp_path):
    """Within what can be proven, for every parameter.

    The tracked average is exactly the integral of profile p times theta(t), theta constant between steps. So with the
    fitted profile q the difference is that of (q - p) (theta - c) for any constant c, since both profiles have
    integral 1; by Cauchy and Schwarz it is at most ||q - p|| ||theta - c||. Here ||q - p|| is the error in the plan
    times ||p||, and over time scaled to [0, 1] ||p|| = (g + 1) / sqrt(2 g + 1), while the best ||theta - c|| is
    theta's standard deviation. Rounding adds 2^-11 relative (float16) of each term of the sum, and of the sum.
    """
    lengths = [0.03, 0.075, 0.15, 0.20]
    plan, files = reconstructed(run, tmp_path, lengths)
    stored = torch.stack([flat(load_network(snapshot.source).net) for snapshot in plan.snapshots])
    spread = run.path.std(dim=0, correction=0)
    for output, file, length in zip(plan.outputs, files, lengths, strict=True):
        g = float(sigma_rel_to_exponent(length))
        weights = torch.tensor(output.coefficients, dtype=torch.float64)
        proven = output.error * (g + 1) / np.sqrt(2 * g + 1) * spread
        rounding = 2.0**-11 * (weights.abs() @ stored.abs() + run.averages[length].abs()) + 1e-6
        difference = (flat(file.net) - run.averages[length]).abs()
        assert bool((difference <= proven + rounding).all())
        nearest = min((run.averages[stored_length] - run.averages[length]).norm() for stored_length in (0.05, 0.10))
        assert difference.norm() < 0.25 * nearest  # and so it is not one of the stored ones


def test_stored_average_comes_out_again(run, tmp_path):
    _, (file,) = reconstructed(run, tmp_path, [0.10], kimg=2)
    stored = load_network(run.folder / "network-snapshot-0000002-0.100.pkl")
    torch.testing.assert_close(flat(file.net), flat(stored.net), rtol=2**-10, atol=1e-6)


def test_everything_else_is_that_of_the_last_snapshot(run, tmp_path):
    plan, (file,) = reconstructed(run, tmp_path, [0.15], kimg=3)
    last = load_network(plan.snapshots[-1].source)
    assert plan.snapshots[-1].sigma_rel == 0.10
    assert isinstance(file.encoder, StabilityVAEEncoder)
    assert file.dataset_kwargs == {"path": "tiny.zip"}
    assert (file.loss_fn.P_mean, file.loss_fn.P_std, file.loss_fn.sigma_data) == (-0.8, 1.6, 0.4)
    for (name, ours), theirs in zip(file.net.named_buffers(), last.net.buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    assert {p.dtype for p in file.net.parameters()} == {torch.float16}


def test_one_snapshot_in_memory_at_a_time(run, tmp_path, monkeypatch):
    alive, most = weakref.WeakSet(), []

    def counted(*args, **kwargs):
        most.append(len(alive))
        file = load_network(*args, **kwargs)
        alive.add(file.net)
        return file

    monkeypatch.setattr(reconstruct, "load_network", counted)
    plan = plan_reconstructions(find_snapshots(str(run.folder), kimg=3), [0.07, 0.12], tmp_path)
    reconstruct.reconstruct(plan.snapshots, plan.outputs)
    assert most == [0] * 6


def test_snapshots_of_another_network_are_refused(run, tmp_path):
    save_network(tmp_path / "a-0000001-0.050.pkl", tiny_net())
    save_network(tmp_path / "a-0000002-0.050.pkl", tiny_net(model_channels=16))
    plan = plan_reconstructions(find_snapshots(str(tmp_path)), [0.06], tmp_path / "out")
    with pytest.raises(ValueError, match=r"a-0000002-0\.050\.pkl is another network: model_channels is 16"):
        reconstruct.reconstruct(plan.snapshots, plan.outputs)
    assert not (tmp_path / "out").exists()


def test_safetensors_snapshots(run, tmp_path):
    for path in run.folder.glob("*-000000[123]-*"):
        save_safetensors(tmp_path / path.with_suffix(".safetensors").name, load_network(path).net)
    plan = plan_reconstructions(find_snapshots(str(tmp_path)), [0.15], tmp_path / "out")
    reconstruct.reconstruct(plan.snapshots, plan.outputs)
    _, (file,) = reconstructed(run, tmp_path / "pkl", [0.15], kimg=3)
    assert torch.equal(flat(load_network(plan.outputs[0].path).net), flat(file.net))


# ----------------------------------------------------------------------------
# Which snapshots.


@pytest.fixture
def names(tmp_path):
    for name in (
        "phema-x-0000000-0.050.pkl",
        "phema-x-0000008-0.050.pkl",
        "phema-x-0000008-0.100.pkl",
        "phema-x-0000016-0.050.pkl",
        "phema-x-0000016-0.100.pkl",
        "phema-x-0000016-0.100.safetensors",
        "network-0000008-0.050.pkl",
        "training-state-0000008.pt",
        "log.txt",
    ):
        (tmp_path / name).touch()
    return str(tmp_path)


def test_choice_of_snapshots(names):
    found = find_snapshots(names, prefix="phema-x")
    assert [(s.kimg, s.sigma_rel) for s in found] == [(8, 0.05), (8, 0.1), (16, 0.05), (16, 0.1)]
    assert found[-1].source.endswith(".pkl")
    assert len(find_snapshots(names, prefix="phema-x", sigma_rels=[0.1])) == 2
    assert [s.kimg for s in find_snapshots(names, prefix="phema-x", kimg=8)] == [8, 8]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "several runs: choose one with --inprefix=network|phema-x"),
        ({"prefix": "y"}, "no snapshots named y-KIMG-LENGTH.pkl (prefixes there: network, phema-x)"),
        ({"prefix": "phema-x", "sigma_rels": [0.05, 0.2]}, "no snapshots of length 0.200, only 0.050, 0.100"),
        ({"prefix": "phema-x", "kimg": 13}, "--outkimg=13: there is no snapshot at that time"),
        ({"prefix": "phema-x", "kimg": 13}, "the nearest is 16"),
    ],
)
def test_what_is_there_is_said(names, kwargs, message):
    with pytest.raises(ValueError) as error:
        find_snapshots(names, **kwargs)
    assert message in str(error.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(NotADirectoryError, match="there is no folder"):
        find_snapshots(str(tmp_path / "none"))


def test_images_from_the_name():
    for images in (1024, 33554432, 134217728, 939524096, 2147483648, 1024 * 977):
        assert Snapshot("", "", images // 1000, 0.1).images == images


def test_names_of_published_runs():
    url = "https://nvlabs-fi-cdn.nvidia.com/edm2/raw-snapshots/edm2-img512-s"
    found = find_snapshots(url + "/", kimg=134217)
    assert [s.source.removeprefix(url + "/edm2-img512-s-") for s in found] == [
        f"{kimg}-{length}.pkl" for kimg in ("0033554", "0067108", "0100663", "0134217") for length in ("0.050", "0.100")
    ]
    assert [s.images for s in found[::2]] == [(32 << 20) * i for i in (1, 2, 3, 4)]
    assert len(find_snapshots(url, kimg=2147483)) == 2 * 64
    assert find_snapshots(url, kimg=33554, prefix="other")[0].source == url + "/other-0033554-0.050.pkl"
    with pytest.raises(ValueError, match="--outkimg is needed with a URL"):
        find_snapshots(url)
    with pytest.raises(ValueError, match="the nearest is 134217"):
        find_snapshots(url, kimg=134218)


# ----------------------------------------------------------------------------
# How well.


def spaced(count, unit=32 << 20):
    return [Snapshot(f"{i}", "x", i * unit // 1000, length) for i in range(1, count + 1) for length in (0.05, 0.10)]


def test_published_runs_suffice_for_most_lengths(tmp_path):
    """64 times of 32 Mi images give lengths from 1.5 to 25 % of training within 2.5 %, but not 1 % of it."""
    plan = plan_reconstructions(spaced(64), [0.010, 0.015, 0.020, 0.050, 0.130, 0.250], tmp_path)
    errors = [output.error for output in plan.outputs]
    np.testing.assert_allclose(errors, [0.0583, 0.0231, 0.0108, 0, 0.0003, 0.0146], atol=1e-4)
    assert plan.nearest_good(0.010) == pytest.approx(0.015)
    assert "warning: more than 5%, so phema-2147483-0.010.pkl" in reconstruct.describe(plan, plan.outputs, 1)
    assert "0.015.pkl is" not in reconstruct.describe(plan, plan.outputs, 1)


def test_early_networks_are_warned_about(tmp_path):
    plan = plan_reconstructions(spaced(4), [0.085, 0.2], tmp_path)
    text = reconstruct.describe(plan, plan.outputs, 1)
    assert "phema-0134217-0.085.pkl: profile met within 2.48%\n" in text
    assert "phema-0134217-0.200.pkl: profile met within 22.26%\nwarning" in text
    assert text.endswith("The nearest length that they give is 0.120")


def test_outputs_that_cannot_be(run, tmp_path):
    snapshots = find_snapshots(str(run.folder))
    with pytest.raises(ValueError, match=r"written as phema-0000010-0\.100\.pkl"):
        plan_reconstructions(snapshots, [0.1, 0.1], tmp_path)
    with pytest.raises(ValueError, match=r"between 0 and 0\.289"):
        plan_reconstructions(snapshots, [0.1, 0.3], tmp_path)
    with pytest.raises(ValueError, match="is one of the snapshots"):
        plan_reconstructions(snapshots, [0.1], run.folder, "network-snapshot")


# ----------------------------------------------------------------------------
# What is not averaged.


def test_a_snapshot_that_is_not_finite_is_named(tmp_path, monkeypatch):
    net = tiny_net()
    save_network(tmp_path / "a-0000001-0.050.pkl", net)
    bad = tiny_net().to(torch.float16)
    bad.unet.out_conv.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"is not written: the network's unet\.out_conv\.weight is not finite"):
        save_safetensors(tmp_path / "a-0000002-0.050.safetensors", bad)
    with monkeypatch.context() as patch:  # others write such files
        patch.setattr(network_safetensors, "first_not_finite", lambda state: None)
        save_safetensors(tmp_path / "a-0000002-0.050.safetensors", bad)
    plan = plan_reconstructions(find_snapshots(str(tmp_path)), [0.06], tmp_path / "out")
    with pytest.raises(ValueError, match=r"a-0000002-0\.050\.safetensors .* unet\.out_conv\.weight is not finite"):
        reconstruct.reconstruct(plan.snapshots, plan.outputs)
    assert not (tmp_path / "out").exists()


def test_snapshots_of_two_runs_are_not_mixed(tmp_path):
    for time, run in ((1, None), (2, "first"), (3, "first"), (4, "second")):
        kwargs = {"path": "tiny.zip"} if run is None else {"training_run": run}
        save_network(tmp_path / f"a-000000{time}-0.050.pkl", tiny_net(), dataset_kwargs=kwargs)
    snapshots = find_snapshots(str(tmp_path))
    plan = plan_reconstructions(snapshots[:3], [0.06], tmp_path / "out")
    reconstruct.reconstruct(plan.snapshots, plan.outputs)  # files of other trainers do not say
    plan = plan_reconstructions(snapshots, [0.06], tmp_path / "out")
    with pytest.raises(ValueError, match=r"a-0000004-0\.050\.pkl is another network: training_run is second"):
        reconstruct.reconstruct(plan.snapshots, plan.outputs)
