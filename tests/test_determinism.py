"""What is promised of the same seeds: noise and labels to the bit in any batches, pixels to a stated tolerance."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from dnnlib.places import EMBEDDED
from edm2_guidance.commands import calculate_metrics, generate_zip
from edm2_guidance.metrics import ledger
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling import seeds as seeding
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.opening import open_recipe
from tests.digits_network import save_digits_network

DATA = Path(__file__).parent / "data"
SAMPLE = 1e-3  # across batch sizes, of float32 samples in [-1, 1]; docs/reliability.md derives it


def draws(batches, labels, rule):
    """By seed: noise, class and the noise of two steps of churn, drawn in these batches."""
    found = {}
    for seeds in batches:
        streams, noise, classes = seeding.start(seeds, (3, 4, 4), 10, labels, rule)
        churn = [streams.randn_like(noise.double()), streams.randn_like(noise.double())]
        for row, seed in enumerate(seeds):
            found[seed] = (noise[row], classes[row], *(each[row] for each in churn))
    return found


@pytest.mark.parametrize(("labels", "rule"), [("random", "edm2"), ("balanced", "edm2"), (3, "edm2"), (3, "figure")])
def test_noise_labels_and_churn_are_exact_in_any_batches_and_order(labels, rule):
    """Also as workers draw them: each of n takes every n-th batch."""
    chance = random.Random(0)
    seeds = [0, 1, 2, 3, 17, 999, 10**6, 2**31, 2**32 - 1]
    alone = draws([[seed] for seed in seeds], labels, rule)
    for _ in range(20):
        order = chance.sample(seeds, len(seeds))
        batch, workers = chance.randint(1, len(seeds)), chance.randint(1, 4)
        batches = [order[start : start + batch] for start in range(0, len(order), batch)]
        made = {}
        for worker in chance.sample(range(workers), workers):
            made |= draws(batches[worker::workers], labels, rule)
        assert made.keys() == alone.keys()
        for seed, (noise, label, *churn) in made.items():
            assert label == alone[seed][1]
            assert torch.equal(noise, alone[seed][0])
            assert all(map(torch.equal, churn, alone[seed][2:]))


@pytest.fixture(scope="module")
def digits():
    """The shipped networks under autoguidance."""
    main, weak = (NetworkRef(str(EMBEDDED / f"mnist16-{kind}.pkl")) for kind in ("cond", "weak"))
    return open_recipe(Recipe(main, (Guide(weak, constant(1.5)),), 16), "cpu")


@pytest.mark.slow
def test_samples_across_batch_sizes_are_within_the_stated_tolerance(digits):
    """And a pixel differs by one level at most, only where the sample lies that close to the edge of a level.

    `python -m benchmarks.batch_sizes` measures it on whatever device is there.
    """
    seeds = range(8)
    whole, _ = sample(digits, seeds)
    levels = whole.double() * 127.5 + 128
    to_the_edge = (levels - levels.round()).abs()
    assert float((levels - levels.mean()).abs().mean()) > 1, "there is something to compare"
    apart = torch.cat([sample(digits, part)[0] for part in ([0], [1, 2, 3], [4, 5, 6, 7])])
    assert float((apart - whole).abs().max()) <= SAMPLE
    pixels = [digits.decode(each)[0].int() for each in (apart, whole)]
    differs = pixels[0] != pixels[1]
    assert int((pixels[0] - pixels[1]).abs().max()) <= 1
    assert not differs.any() or float(to_the_edge[differs].max()) <= 127.5 * SAMPLE


def pixels(generation, seeds, batch):
    return torch.cat([part.images for part in generation.images(seeds, batch)])


@pytest.fixture(scope="module")
def few_steps(digits):
    return replace(digits, recipe=replace(digits.recipe, num_steps=2))


def test_equal_batches_give_equal_bytes_in_any_order(few_steps):
    first, second = (pixels(few_steps, seeds, 2) for seeds in ([4, 5], [6, 7]))
    assert torch.equal(pixels(few_steps, [6, 7, 4, 5], 2), torch.cat([second, first]))


@pytest.fixture
def network(tmp_path):
    return save_digits_network(tmp_path / "net.safetensors")


def run(command, *args):
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output


def test_deterministic_runs_repeat_their_bytes(network, tmp_path):
    for name in ("a.zip", "b.zip"):
        sampler = ("--steps=3", "--S_churn=10", "--num_images=9", "--batch=4", "--device=cpu")
        run(generate_zip.main, f"--net={network}", *sampler, f"--out={tmp_path / name}", "--deterministic")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_the_ledger_says_what_was_deterministic(network, tmp_path):
    score = ("--metrics=fd_mnist", f"--ref={EMBEDDED / 'mnist16-refs.npz'}", f"--ledger={tmp_path / 'l.jsonl'}")
    sampler = (f"--net={network}", "--steps=1", "--num=12", f"--workdir={tmp_path / 'work'}", "--device=cpu")
    images = (f"--images={DATA / 'mnist16-200.npz'}", "--num=12", "--device=cpu")
    for option in ((), ("--deterministic",)):
        run(calculate_metrics.main, "gen", *sampler, *score, *option, "--again")
        run(calculate_metrics.main, "calc", *images, *score, *option, "--again")
    records = ledger.read(tmp_path / "l.jsonl")
    assert [record["hardware"]["deterministic"] for record in records] == [False, False, True, True]
    assert [record["value"] for record in records[:2]] == pytest.approx([record["value"] for record in records[2:]])
