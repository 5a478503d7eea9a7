"""The plain ways of `python -m benchmarks` compute what the toolkit does, and the numbers of its table are right."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from benchmarks import calibrate, files, frechet, image, side_by_side, training_step
from benchmarks.__main__ import main
from benchmarks.extractors import plain_extractor
from benchmarks.networks import Case
from benchmarks.plain_network import plain
from benchmarks.report import table
from benchmarks.side_by_side import Options, Result, Way, compare
from edm2_guidance.metrics.extractors.networks.dinov2 import DinoV2
from edm2_guidance.metrics.measures.gaussians import frechet_distance
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.papers.rates import read_rates, store
from edm2_guidance.recipe.intervals import StepInterval
from training.config import TrainingConfig
from training.dataset import ImageFolderDataset
from training.inference_form import prepare
from training.networks_edm2 import Precond
from training.training_loop import Trainer

QUICK = Options(quick=True, rounds=1)


@pytest.fixture
def net():
    """With all that differs between the plain network and ours: halving, doubling, attention, gains in float16."""
    torch.manual_seed(0)
    made = Precond(
        8, 3, 4, model_channels=16, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[4], channels_per_head=8
    )
    for name, weights in made.named_parameters():
        if name.endswith("gain"):
            torch.nn.init.constant_(weights, 0.3)
    return made.half().eval().requires_grad_(False)


def test_the_plain_network_is_the_same_function(net):
    x, sigma, labels = torch.randn(3, 3, 8, 8), torch.tensor(0.7), torch.eye(4)[:3]
    found = plain(net, "float32")(x, sigma, labels)
    assert_close(found, net(x, sigma, labels), atol=1e-5, rtol=1e-5)
    assert_close(found, prepare(net, "prepared", "float32")(x, sigma, labels), atol=1e-5, rtol=1e-5)


def test_plain_sampling_is_the_same_where_it_guides_at_the_same_steps():
    names, interval = ("mnist16-weak", "mnist16-uncond"), StepInterval(1, 1)
    ours = image.sampled(image.opened(names, 3, interval, "plain", QUICK), range(2))
    plainly = image.PlainSampler(names, 3, QUICK)
    assert_close(plainly(range(2), lambda step: step in interval), ours, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(plainly(range(2)), ours, atol=1e-3)


def test_the_plain_extractor_gives_the_same_features():
    torch.manual_seed(0)
    net = DinoV2(embed_dim=32, depth=2, num_heads=4).eval().requires_grad_(False)
    images = torch.randint(0, 256, [2, 3, 16, 16], dtype=torch.uint8)
    assert_close(plain_extractor(net)(images), net(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("root", [frechet._root(), frechet._root_by_eigenvectors])
def test_plain_distances_are_ours(root, monkeypatch):
    monkeypatch.setattr(frechet, "_root", lambda: root)
    rows = [frechet.features(16, 64, seed).double().numpy() for seed in (1, 2)]
    a, b = (Moments(each.mean(axis=0), np.cov(each, rowvar=False), len(each)) for each in rows)
    assert frechet.plain_distance(a, b) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_files_hold_the_same_pixels_either_way(tmp_path):
    images = files.smooth(16, 40)
    places = [
        files.plain_zip(images, tmp_path / "a.zip"),
        files.our_zip(images, tmp_path / "b.zip"),
        files.plain_folder(images, tmp_path / "a"),
        files.our_folder(images, tmp_path / "b"),
    ]
    for path in places:
        for read in (files.plain_read, files.our_read):
            assert torch.equal(torch.cat(read(path)), images)


def test_plain_training_takes_the_same_step(tmp_path):
    training_step.save_set(tmp_path / "set.zip", 16, 16)
    config = TrainingConfig(
        str(tmp_path / "set.zip"), duration=1 << 20, batch=4, rampup=0, decay=0, channels=8, channel_mult=(1,),
        num_blocks=1, channels_per_head=8, snapshot=1 << 20, checkpoint=1 << 20, status=1 << 20,
    )  # fmt: skip
    cpu, dataset = torch.device("cpu"), ImageFolderDataset(config.data)
    plainly, trainer = training_step.PlainTraining(config, dataset, cpu), Trainer(config, dataset, cpu)
    try:
        plainly.step()
        trainer.step()
    finally:
        trainer.close()
    ours = trainer.state
    for a, b in [(plainly.net, ours.net), *zip(plainly.averages, ours.ema.averages, strict=True)]:
        for mine, theirs in zip(a.parameters(), b.parameters(), strict=True):
            assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a way says so."""
    now = [0.0]
    monkeypatch.setattr(side_by_side.time, "perf_counter", lambda: now[0])

    def takes(seconds, made):
        def run():
            now[0] += next(seconds)
            return made

        return run

    return takes


def forever(*seconds):
    while True:
        yield from seconds


def test_a_line_has_the_median_of_the_rounds_and_the_share_of_the_ceiling(clock, monkeypatch):
    monkeypatch.setitem(side_by_side.CEILINGS, "copy", lambda options: Way("copy", clock(forever(1.0), None), 100))
    ours = iter([9.0, 1.0, 1.0, 2.0, 4.0, 4.0, 4.0])  # the first call is slower and not counted
    plainly = Way("plain", clock(forever(8.0), [3.0, 4.0]))
    (line,) = compare(
        "s", "c", plainly, [Way("w", clock(ours, [3.0, 4.5]), 50, "copy")], Options(rounds=3, seconds=1e9)
    )
    assert (line.stage, line.case, line.way, line.plain, line.rounds) == ("s", "c", "w", "plain", 3)
    assert (line.low, line.times, line.high) == (6.0, 8.0, 8.0)
    assert line.difference == 0.5
    assert line.relative == pytest.approx(0.1)
    assert line.share == pytest.approx(0.5)


def test_a_way_that_fails_is_told_and_the_others_go_on(clock):
    def broken():
        raise RuntimeError("no\ncompiler")

    ways = [Way("a", broken), Way("b", clock(forever(1.0), 2.0))]
    good, bad = compare("s", "c", Way("plain", clock(forever(2.0), 7.0)), ways, Options(rounds=3), expected=2.0)
    assert (good.way, good.times, good.difference) == ("b", 2.0, 0.0)
    assert (bad.way, bad.failed, bad.note) == ("a", True, "failed: RuntimeError: no compiler")


def test_results_of_other_shapes_are_not_compared(clock):
    with pytest.raises(ValueError, match="2 and 1 numbers"):
        compare("s", "c", Way("p", clock(forever(1.0), [1, 2])), [Way("w", clock(forever(1.0), 1))], Options())


def test_a_table_has_a_cell_for_every_heading():
    line = Result("s", "a|b", "w", "p", 1.5, 1.25, 2.0, 3, 1e-6, 1e-7, 0.5, "copy", memory=1.1, note="x|y")
    rows = [row for row in table([line, replace(line, times=None, share=None)], Options()).splitlines() if "|" in row]
    assert {row.count("|") for row in rows} == {9}
    assert "1.50 (1.25 to 2.00)" in rows[2]
    assert "50% of copy" in rows[2]


def test_the_command_writes_a_table_and_json(tmp_path, capsys):
    assert main(["--quick", "--only=frechet", "--rounds=1", f"--out={tmp_path / 'b'}"]) == 0
    assert capsys.readouterr().out == (tmp_path / "b.md").read_text()
    found = json.loads((tmp_path / "b.json").read_text())
    assert {"device", "torch", "threads", "quick"} <= found["about"].keys()
    assert {line["stage"] for line in found["results"]} == {"moments", "frechet"}
    for line in found["results"]:
        assert 0 < line["low"] <= line["times"] <= line["high"]
        assert line["relative"] < 1e-9


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--only=nonsense", "give some of evaluation, "),
        ("--device=tpu", "give cpu"),
        ("--rounds=0", "give 1 or more"),
        (f"--out={__file__}/b", "is a file"),
    ],
)
def test_usage_errors(words, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([words])
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


@pytest.fixture
def short(monkeypatch):
    """A calibration by the smallest network alone."""
    monkeypatch.setattr(calibrate, "_extractors", lambda options: [("fid", lambda: None, 8)])
    monkeypatch.setattr(calibrate, "decoder", lambda options: None)
    monkeypatch.setattr(calibrate, "_cases", lambda options: [Case("mnist16-cond", 8)])
    monkeypatch.setattr(calibrate, "CALLS", 1)


def test_calibration_is_kept_in_every_form(short, monkeypatch, capsys):
    store().parent.mkdir(parents=True, exist_ok=True)
    store().write_bytes(b"damaged")
    assert main(["--calibrate"]) == 0
    found = read_rates()
    assert {each.key[1:] for each in found} >= {("plain", "float32"), ("prepared", "float32")}
    assert all(each.networks[0][1] > 0 and each.extractors["fid"] > 0 and each.decoder is None for each in found)
    said = capsys.readouterr()
    assert f"kept in {store()}" in said.out
    assert "warning: replaced, as it cannot be read" in said.err
    before = store().read_bytes()
    monkeypatch.setattr(calibrate, "rates", lambda options: found[:1])
    assert main(["--calibrate", "--quick"]) == 0
    assert "not kept: --quick" in capsys.readouterr().out
    assert store().read_bytes() == before, "rates of small work are no rates of this machine"


def test_a_calibration_that_cannot_be_kept_is_refused_at_once(short, monkeypatch, capsys):
    monkeypatch.setattr(calibrate, "rates", lambda options: pytest.fail("measured for nothing"))
    monkeypatch.setenv("DNNLIB_CACHE_DIR", f"{__file__}/x")
    with pytest.raises(SystemExit) as stopped:
        main(["--calibrate"])
    assert stopped.value.code == 2
    assert "is a file, so" in capsys.readouterr().err
