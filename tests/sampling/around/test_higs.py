"""HiGS against a loop over images and channels, with SciPy's transform."""

import math

import numpy as np
import pytest
import torch
from scipy import fft

from edm2_guidance.recipe.around import Around
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.engine import trajectory
from tests.functions import denoise_at

NOISE = torch.randn(3, 2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def main(x, sigma):
    return x / (1 + sigma**2) + 0.1 * torch.tanh(x)


def run(around, noise=NOISE, sampler="heun", main=main):
    recipe = Recipe("net", num_steps=6, sampler=sampler, around=around)
    *_, last = trajectory(recipe.sampler, recipe.steps(), denoise_at(main, around=recipe.around), noise)
    return last.x


def high(x, cutoff):
    """One channel [H, W]."""
    height, width = x.shape
    i, j = np.meshgrid(np.arange(height) / height, np.arange(width) / width, indexing="ij")
    mask = 1 / (1 + np.exp(-50 * (np.hypot(i, j) - cutoff)))
    return fft.idctn(mask * fft.dctn(x, type=2, norm="ortho"), type=2, norm="ortho")


def loop(noise, spec, time, corrects):
    """Of one image."""
    levels = Recipe("net", num_steps=6).levels()
    x, g, denoise = noise * levels[0], None, main

    def moved(D, g, t):
        if g is None or not spec.t_min < t <= spec.t_max:
            return D
        away, along = D - g, D / D.norm()
        parallel = (away * along).sum() * along
        away = away - parallel + spec.parallel * parallel
        added = np.stack([high(channel, spec.cutoff) for channel in away.numpy()])
        return D + spec.w_H * math.sqrt((t - spec.t_min) / (spec.t_max - spec.t_min)) * torch.from_numpy(added)

    for index, (sigma, after) in enumerate(zip(levels, [*levels[1:], 0.0], strict=True)):
        t = time(index, sigma)
        D = denoise(x, sigma)
        d = (x - moved(D, g, t)) / sigma
        end = x + (after - sigma) * d
        if after > 0 and corrects:
            end = x + (after - sigma) * (d + (end - moved(denoise(end, after), g, t)) / after) / 2
        x, g = end, spec.alpha * D + (0 if g is None else (1 - spec.alpha) * g)
    return x


@pytest.mark.parametrize("sampler", ["heun", "euler"])
@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("higs", lambda index, sigma: sigma / (1 + sigma)),
        ("higs:w_H=1.75:parallel=0:alpha=0.5:cutoff=0.3:t_min=0.3", lambda index, sigma: sigma / (1 + sigma)),
        ("higs:w_H=2:t_min=0.1:t_max=0.7:time=steps", lambda index, sigma: 1 - index / 5),
    ],
)
def test_it_is_the_loop(sampler, text, time):
    made = run(text, sampler=sampler)
    for n, noise in enumerate(NOISE):
        expected = loop(noise, Around.parse(text), time, sampler == "heun")
        torch.testing.assert_close(made[n], expected, rtol=1e-9, atol=1e-9)
    assert float((made - run((), sampler=sampler)).abs().max()) > 0.02


def test_without_weight_it_is_nothing():
    assert torch.equal(run("higs:w_H=0"), run(()))


def test_no_batch_and_no_run_before_changes_an_image():
    whole = run("higs")
    parts = torch.cat([run("higs", NOISE[:1]), run("higs", NOISE[1:])])
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)


def test_where_d_stays_the_past_adds_nothing():
    """But for what the running mean is short of at first: D - g is the share (1 - alpha)^i of D."""
    still = run("higs", sampler="euler", main=lambda x, sigma: 0 * x + 0.25)
    plain = run((), sampler="euler", main=lambda x, sigma: 0 * x + 0.25)
    assert float((still - plain).abs().max()) < 0.25 * 0.25, "a constant picture has few high frequencies"


def test_times_in_order():
    with pytest.raises(ValueError, match=r"t_min=0.8, t_max=0.5: need t_min < t_max"):
        Around.parse("higs:t_min=0.8:t_max=0.5")
