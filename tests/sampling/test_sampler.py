"""Schedule, guidance, Heun and seeds against golden numbers and against exact solutions."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from edm2_guidance.commands.generate_images import main
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from edm2_guidance.recipe.parts import Sampler, Schedule, StepInfo, constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling import seeds as seeding
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.guidance.guided import Counted, guided
from edm2_guidance.sampling.opening import open_recipe
from tests.functions import denoise_at, levels, steps_of
from tests.functions import network as function
from training.encoders import StandardRGBEncoder
from training.network_safetensors import save_safetensors
from training.networks_edm2 import Precond

DATA = Path(__file__).parents[1] / "data"
SAMPLER = np.load(DATA / "sampler.npz")
SEEDS = np.load(DATA / "seeds.npz")
CASES = json.loads(str(SAMPLER["cases"]))
STEP = StepInfo(0, 1, 1.0, 1.0, 0.0)


def network(name):
    data = np.load(DATA / f"precond_{name}.npz")
    net = Precond(**json.loads(str(data["init_kwargs"]))).half().eval().requires_grad_(False)
    net.load_state_dict({k[6:]: torch.from_numpy(data[k]) for k in data.files if k.startswith("param:")})
    return net


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The golden networks as network files."""
    folder = tmp_path_factory.mktemp("golden")
    for name in ("cond", "uncond", "weak"):
        save_safetensors(folder / f"{name}.safetensors", network(name), encoder=StandardRGBEncoder())
    return folder


def recipe_of(case, files):
    """A golden case as the recipe that the command line would make of it."""
    names = ("num_steps", "sigma_min", "sigma_max", "rho", "S_churn", "S_min", "S_max", "S_noise")
    double = "float64" in case.get("dtype", "") or "float64" in case.get("sampler", "")
    given = {k: case[k] for k in names if k in case}
    schedule, churn = ({k: given[k] for k in given if k in kinds} for kinds in (names[1:4], names[4:]))
    guides = ()
    if case["gnet"] is not None:
        interval = case.get("index_interval")
        ref = NetworkRef(str(files / f"{case['gnet']}.safetensors"))
        guides = (Guide(ref, constant(case["guidance"]), None if interval is None else StepInterval(*interval)),)
    return Recipe(
        NetworkRef(str(files / "cond.safetensors")),
        guides,
        num_steps=given.get("num_steps", 32),
        schedule=Schedule.parse("edm").with_fields(schedule),
        sampler=Sampler.parse("heun").with_fields(churn),
        dtype="float64" if double else "float32",
        noise_device="cpu",
    )


def run_case(case, seeds, files):
    latents, _ = sample(open_recipe(recipe_of(case, files), "cpu"), seeds)
    return latents


LONG = {"interval_index_17_22", "autoguidance_2.1"}  # as others, but in 32 steps, or in less than double precision


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in CASES])
def test_golden_samples(name, files):
    expected = torch.from_numpy(SAMPLER[name]).double()
    result = run_case(CASES[name], [int(s) for s in SAMPLER["seeds"]][: len(expected)], files)
    assert result.dtype == (torch.float64 if recipe_of(CASES[name], files).dtype == "float64" else torch.float32)
    result = result.double()
    assert float((result - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.slow
def test_golden_precision_tells_float64_from_float32(files):
    """In float32 the double-precision samples are met too, but not as closely: the option does something."""
    case, seeds = CASES["cfg_const_fp64"], [int(s) for s in SAMPLER["seeds"]][:4]
    double = run_case(case, seeds, files)
    single, _ = sample(open_recipe(replace(recipe_of(case, files), num_steps=10, dtype="float32"), "cpu"), seeds)
    assert 0 < float((double - single).abs().max()) < 1e-3


def test_golden_samples_through_the_command_line(files, tmp_path):
    """Options, recipe, sampling, decoding and PNGs in one go: churn, then double precision in an interval of steps."""
    lines = {
        "churn_40": "--gnet=@weak --guidance=1.7 --steps=10 --S_churn=40 --S_min=0.05 --S_max=50 --S_noise=1.003",
        "interval_index_3_5": "--gnet=@uncond --guidance=3 --steps=10 --guidance_interval=3,5 --dtype=float64",
        "rho_5": "--steps=9 --rho=5 --sigma_min=0.01 --sigma_max=50",
    }
    for name, line in lines.items():
        expected = StandardRGBEncoder().decode(torch.from_numpy(SAMPLER[name][:3]))
        seeds = [int(s) for s in SAMPLER["seeds"]][: len(expected)]
        args = [re.sub(r"@(\w+)", rf"{files}/\1.safetensors", arg) for arg in f"--net=@cond --batch=16 {line}".split()]
        listed = ",".join(map(str, seeds))
        result = CliRunner().invoke(main, [*args, f"--seeds={listed}", f"--outdir={tmp_path / name}", "--device=cpu"])
        assert result.exit_code == 0, result.stderr
        for seed, image in zip(seeds, expected, strict=True):
            made = np.asarray(Image.open(tmp_path / name / f"{seed:06d}.png")).astype(int)
            assert np.abs(made - image.permute(1, 2, 0).numpy().astype(int)).max() <= 1, name


def test_golden_noise_labels_and_what_follows():
    """The random bits are exact; processors differ by some 1e-6 in the logarithms and cosines behind the normals."""
    seeds = [int(s) for s in SEEDS["seeds"]]
    streams, noise, labels = seeding.start(seeds, (3, 16, 16), int(SEEDS["num_classes"]), "random")
    np.testing.assert_allclose(noise.numpy(), SEEDS["noise"], rtol=0, atol=1e-5)
    assert labels == SEEDS["labels"].tolist()
    np.testing.assert_allclose(streams.randn((3, 16, 16)).numpy(), SEEDS["next_randn"], rtol=0, atol=1e-5)


def test_golden_figure_seeds():
    triples = zip(SEEDS["figure_class"], SEEDS["figure_seed"], SEEDS["figure_hashed_seed"], strict=True)
    for class_index, seed, hashed in triples:
        assert seeding.figure_seed(int(class_index), int(seed)) == int(hashed)


def test_figure_seeds_equal_this_interpreters_hash():
    for pair in [(0, 0), (0, 1), (999, 2**40), (123456789, 987654321)]:
        assert seeding.figure_seed(*pair) == hash(pair) % 2**31


@pytest.mark.parametrize(("rule", "expected"), [("balanced", [0, 9, 3, 7]), (0, [0] * 4), (7, [7] * 4)])
def test_label_rules_do_not_move_the_noise(rule, expected):
    seeds = [0, 9, 13, 2**32 + 1]
    free, noise_free, _ = seeding.start(seeds, (1, 2, 2), 10, "random")
    fixed, noise_fixed, labels = seeding.start(seeds, (1, 2, 2), 10, rule)
    assert labels == expected
    assert torch.equal(noise_free, noise_fixed)
    assert torch.equal(free.randn([3]), fixed.randn([3])), "an overridden label is drawn all the same"


def test_seed_rule_of_the_figures_draws_no_label():
    streams, noise, labels = seeding.start([6], (2, 4, 4), 1000, 64, "figure")
    generator = torch.Generator().manual_seed(hash((64, 6)) % 2**31)
    assert labels == [64]
    assert torch.equal(noise[0], torch.randn(2, 4, 4, generator=generator))
    assert torch.equal(streams.randn([5])[0], torch.randn(5, generator=generator))


def test_unconditional_networks_draw_no_label():
    streams, _, labels = seeding.start([3], (2, 4, 4), 0, "random")
    generator = torch.Generator().manual_seed(3)
    torch.randn(2, 4, 4, generator=generator)
    assert labels is None
    assert torch.equal(streams.randn([5])[0], torch.randn(5, generator=generator))


def test_an_image_depends_on_its_seed_alone(files):
    case = CASES["churn_40"]
    seeds = [int(s) for s in SAMPLER["seeds"]][:2]
    whole = run_case(case, seeds, files)
    alone = torch.cat([run_case(case, [seed], files) for seed in reversed(seeds)]).flip(0)
    assert float((whole - alone).norm() / whole.norm()) < 1e-5


def test_schedule_matches_published_values():
    sigmas = [*levels(), 0.0]
    assert len(sigmas) == 33
    assert sigmas[-1] == 0
    assert sigmas[0] == pytest.approx(80, rel=1e-12)
    for index, value in {13: 4.9991, 15: 2.9015, 17: 1.6086, 20: 0.5977, 22: 0.2830, 23: 0.1886, 31: 0.002}.items():
        assert sigmas[index] == pytest.approx(value, abs=5e-5)
    assert levels(1) == pytest.approx([80])


@pytest.mark.parametrize(
    ("lo", "hi", "first", "last", "snapped"),
    [
        (0.19, 1.61, 17, 22, 2),
        (0.60, 5.00, 13, 19, 2),
        (0.28, 2.90, 15, 21, 2),
        (0, 1.61, 17, 31, 1),
        (0.19, math.inf, 0, 22, 1),
        (0, math.inf, 0, 31, 0),
        (0.30, 2.50, 16, 21, 0),  # ends between levels, too far from either to mean one
    ],
)
def test_published_intervals_are_snapped(lo, hi, first, last, snapped):
    steps, notes = SigmaInterval(lo, hi).steps(levels())
    assert steps == StepInterval(first, last)
    assert len(notes) == snapped


def test_an_interval_between_two_levels_guides_nowhere():
    steps, _ = SigmaInterval(1.2, 1.55).steps(levels())
    assert steps is None


@pytest.mark.parametrize(("lo", "hi"), [(2, 1), (1, 1), (-1, 2), (math.nan, 1), (0, math.nan)])
def test_impossible_intervals(lo, hi):
    with pytest.raises(ValueError, match="LO < HI"):
        SigmaInterval(lo, hi)


def test_a_guide_that_is_off_costs_nothing_and_counts_are_exact():
    main, off, inside = (Counted(function(lambda x, sigma: 0.5 * x)) for _ in range(3))
    net = NetworkRef("guide")
    guides = [(Guide(net, constant(1.0)), off), (Guide(net, constant(2.0), StepInterval(17, 22)), inside)]
    *_, last = steps_of(guided(main, guides), torch.randn(3, 1, 2, 2), levels())
    assert (main.evaluations, off.evaluations, inside.evaluations) == (63 * 3, 0, 12 * 3)
    assert last.info.index == 31


def test_several_guides_follow_equation_6():
    x = torch.randn(2, 3)
    d_m, d_u, d_c = torch.randn(3, 2, 3).unbind()
    for w, alpha in [(2.0, 0.0), (2.0, 1.0), (3.0, 0.25)]:
        w_u, w_c = (1 - alpha) * (w - 1) + 1, alpha * (w - 1) + 1
        guides = [(lambda x, s: d_u, w_u), (lambda x, s: d_c, w_c)]
        blend = denoise_at(lambda x, s: d_m, *guides)(STEP)(x, 1.0)
        assert torch.allclose(blend, d_m + (w_u - 1) * (d_m - d_u) + (w_c - 1) * (d_m - d_c))
    cfg = denoise_at(lambda x, s: d_m, (lambda x, s: d_u, 1.7))(STEP)(x, 1.0)
    assert torch.allclose(cfg, d_u + 1.7 * (d_m - d_u), atol=1e-6)


# ----------------------------------------------------------------------------
# An exact model: a mixture of Gaussians, whose denoiser is known in closed form.

MEANS = torch.tensor([[-1.0, 0.4], [0.8, 0.9], [0.2, -1.1]], dtype=torch.float64)
SPREAD = 0.15
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)


def mixture_denoiser(x, sigma):
    """Posterior mean of x0 given x = x0 + sigma * n, for the mixture above; x [N,2]."""
    variance = SPREAD**2 + sigma**2
    logits = WEIGHTS.log() - ((x[:, None] - MEANS) ** 2).sum(-1) / (2 * variance)
    share = logits.softmax(dim=1)
    means = (SPREAD**2 * x[:, None] + sigma**2 * MEANS) / variance
    return (share[..., None] * means).sum(1)


def solve(noise, num_steps, **kwargs):
    *_, last = steps_of(denoise_at(mixture_denoiser), noise, levels(num_steps), **kwargs)
    return last.x


def test_one_gaussian_is_solved_exactly_in_the_limit():
    """For data N(0, s^2) the flow scales noise by s / sqrt(s^2 + sigma_max^2) * sigma_max, known in closed form."""
    s, noise = 0.7, torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    *_, last = steps_of(denoise_at(lambda x, sigma: x * s**2 / (s**2 + sigma**2)), noise, levels(2000))
    exact = noise * 80 * s / math.sqrt(s**2 + 80**2)
    assert float((last.x - exact).abs().max()) < 1e-5


@pytest.mark.parametrize("sampler", ["heun", "heun:S_churn=40:S_min=0.01:S_max=60"])
def test_end_distribution_of_an_exact_denoiser(sampler):
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(20000, 2, dtype=torch.float64, generator=generator)

    def randn_like(x):
        return torch.randn(x.shape, dtype=x.dtype, generator=generator)

    x = solve(noise, 64, sampler=sampler, randn_like=randn_like)
    nearest = torch.cdist(x, MEANS).argmin(dim=1)
    shares = torch.bincount(nearest, minlength=3) / len(x)
    assert torch.allclose(shares.double(), WEIGHTS, atol=0.015)  # 4 standard errors
    for k in range(3):
        inside = x[nearest == k]
        assert torch.allclose(inside.mean(0), MEANS[k], atol=0.015)
        assert torch.allclose(inside.std(0), torch.full([2], SPREAD, dtype=torch.float64), rtol=0.05)


def test_trajectory_is_yielded_and_starts_at_sigma_max():
    noise = torch.randn(4, 2, dtype=torch.float64)
    steps = list(steps_of(denoise_at(mixture_denoiser), noise, levels(8)))
    assert [step.info.index for step in steps] == list(range(8))
    assert steps[-1].info.sigma_next == 0
    assert torch.allclose(steps[0].denoised, mixture_denoiser(noise * 80, torch.tensor(80.0)))
