"""Solvers beside diffusers' schedulers, over the same noise levels, on the exact mixture in float64."""

import importlib
import math

import pytest
import torch

from edm2_guidance.recipe.parts import Sampler, planned
from edm2_guidance.sampling.engine import trajectory
from tests import mixture
from tests.functions import denoise_at
from tests.mixture import golden

pytestmark = [
    pytest.mark.slow,  # the first import of diffusers takes seconds
    pytest.mark.filterwarnings("ignore:__array"),  # theirs, of numpy
]
START, NOISE = golden("x_start"), golden("noise")


def scheduler(module, name, count, **config):
    """One of theirs for so many steps, whose next noise is `draws`."""
    found = importlib.import_module(f"diffusers.schedulers.scheduling_{module}")
    made = getattr(found, name)(**config)
    made.set_timesteps(count)
    made.is_scale_input_called = True
    return found, made


def over_sigma(made, sigmas):
    """These levels, 0 with them, in place of its own, in coordinates where x is data plus noise."""
    made.sigmas, made.timesteps = sigmas, torch.arange(len(sigmas) - 1, 0, -1)
    made._step_index = 0
    made._sigma_to_alpha_sigma_t = lambda sigma: (torch.ones_like(sigma), sigma)


def theirs(made, levels, to_zero=True, output=lambda x, denoised, sigma: denoised):
    """Where their steps end. levels: that D is asked at; to_zero: whether the last step is theirs, not D itself."""
    x = START
    for number, sigma in enumerate(levels):
        denoised = mixture.denoise(x, float(sigma))
        if number == len(levels) - 1 and not to_zero:
            return denoised
        x = made.step(output(x, denoised, sigma), made.timesteps[number], x).prev_sample
    return x


def ours(spec, count, start=START):
    solver, levels = Sampler.parse(spec), golden(f"sigmas/{count}").tolist()[:-1]
    plan = planned(solver, levels)
    noisy = [each.index for each in plan if each.sigma > each.level or _adds_noise(solver, each)]
    drawn = iter(NOISE[noisy])
    *_, last = trajectory(
        solver, plan, denoise_at(mixture.denoise), start / solver.start(levels[0]), lambda x: next(drawn)
    )
    return last.x


def _adds_noise(solver, step):
    if solver.kind == "sa":
        return solver.strength(step.sigma) > 0 and step.sigma_next > 0
    return solver.kind in ("ddpm", "ddim") and getattr(solver, "eta", 1) > 0 and step.sigma_next > 0


@pytest.fixture
def wide(monkeypatch):
    """Some of theirs take the state to float32: here that is float64."""
    monkeypatch.setattr(torch, "float32", torch.float64)


DPMPP = ("dpmsolver_multistep", "DPMSolverMultistepScheduler")
UNIPC = ("unipc_multistep", "UniPCMultistepScheduler")
MULTISTEP = [
    ("dpmpp-2m", 12, *DPMPP, {"solver_order": 2}),
    ("dpmpp-2m", 18, *DPMPP, {"solver_order": 2}),
    ("dpmpp-3m", 12, *DPMPP, {"solver_order": 3}),
    ("dpmpp-3m:end=tail", 18, *DPMPP, {"solver_order": 3}),  # theirs lowers the order at the end of fewer than 15 steps
    ("unipc:order=2", 12, *UNIPC, {"solver_order": 2, "solver_type": "bh2"}),
    ("unipc:order=2:base=bh1", 18, *UNIPC, {"solver_order": 2, "solver_type": "bh1"}),
    ("unipc", 18, *UNIPC, {"solver_order": 3, "solver_type": "bh2"}),
    ("unipc:base=bh1", 12, *UNIPC, {"solver_order": 3, "solver_type": "bh1"}),
    ("deis:order=2", 12, "deis_multistep", "DEISMultistepScheduler", {"solver_order": 2}),
    ("deis:order=3", 12, "deis_multistep", "DEISMultistepScheduler", {"solver_order": 3}),
]


@pytest.mark.parametrize(("spec", "count", "module", "name", "config"), MULTISTEP)
def test_multistep(spec, count, module, name, config, wide):
    """UniPC with bh1 and DEIS have no step to 0: the last D is their end."""
    _, made = scheduler(module, name, count, prediction_type="sample", **config)
    sigmas = golden(f"sigmas/{count}")
    over_sigma(made, sigmas)
    to_zero = made.config.get("solver_type") != "bh1" and "deis" not in spec
    end = theirs(made, sigmas[:-1], to_zero)
    torch.testing.assert_close(ours(spec, count), end, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("count", [8, 18])
@pytest.mark.parametrize(
    ("spec", "config"),
    [
        ("sa", {"predictor_order": 3, "corrector_order": 4}),
        ("sa:tau=0", {"predictor_order": 3, "corrector_order": 4}),
        ("sa:predictor=2:corrector=2", {"predictor_order": 2, "corrector_order": 2}),
    ],
)
def test_sa(spec, config, count, monkeypatch):
    sigmas, solver = golden(f"sigmas/{count}"), Sampler.parse(spec)
    module, made = scheduler(
        "sasolver", "SASolverScheduler", count, prediction_type="sample",
        tau_func=lambda step: solver.strength(float(sigmas[count - int(step)])), **config,
    )  # fmt: skip
    over_sigma(made, sigmas)
    drawn = iter(NOISE)
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **how: next(drawn))
    torch.testing.assert_close(ours(spec, count), theirs(made, sigmas[:-1], to_zero=False), rtol=1e-8, atol=1e-8)


def noise_estimate(x, denoised, sigma):
    return (x - denoised) / sigma


@pytest.mark.parametrize("count", [8, 18])
def test_heun(count):
    _, made = scheduler("heun_discrete", "HeunDiscreteScheduler", count, prediction_type="sample")
    sigmas = golden(f"sigmas/{count}")
    asked = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2)])
    over_sigma(made, torch.cat([asked, sigmas[-1:]]))
    torch.testing.assert_close(ours("heun", count), theirs(made, asked), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("count", [8, 18])
def test_dpm2(count):
    _, made = scheduler("k_dpm_2_discrete", "KDPM2DiscreteScheduler", count, prediction_type="epsilon")
    sigmas = golden(f"sigmas/{count}")
    middle = (sigmas[:-2] * sigmas[1:-1]).sqrt()
    over_sigma(made, torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]]))
    made.sigmas_interpol = torch.cat([sigmas[:1], middle.repeat_interleave(2), sigmas[-1:], sigmas[-1:]])
    asked = torch.stack([sigmas[:-2], middle], 1).flatten().tolist()
    end = theirs(made, [*asked, float(sigmas[-2])], output=noise_estimate)
    torch.testing.assert_close(ours("dpm2", count), end, rtol=1e-8, atol=1e-8)


def test_lms():
    _, made = scheduler("lms_discrete", "LMSDiscreteScheduler", 18, prediction_type="sample")
    sigmas = golden("sigmas/18")
    over_sigma(made, sigmas)
    torch.testing.assert_close(ours("deis:poly=rho:order=4", 18), theirs(made, sigmas[:-1]), rtol=1e-8, atol=1e-8)


def scaled(levels):
    """The weights of data and noise where their squares add up to 1."""
    return 1 / (1 + levels**2).sqrt(), levels / (1 + levels**2).sqrt()


@pytest.mark.parametrize("count", [8, 18])
def test_ipndm(count):
    """Theirs steps in the coordinates of angles, and predicts velocities."""
    _, made = scheduler("ipndm", "IPNDMScheduler", count)
    sigmas = golden(f"sigmas/{count}")
    made.alphas, made.betas = scaled(sigmas)
    made._step_index = 0
    x = START * made.alphas[0]
    for number in range(count):
        data, noise = made.alphas[number], made.betas[number]
        denoised = mixture.denoise(x / data, float(sigmas[number]))
        velocity = data * (x - data * denoised) / noise - noise * denoised
        x = made.step(velocity, made.timesteps[number], x).prev_sample
    torch.testing.assert_close(ours("ipndm", count), x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("count", [8, 18])
def test_euler_with_churn(count, monkeypatch, wide):
    module, made = scheduler("euler_discrete", "EulerDiscreteScheduler", count, prediction_type="sample")
    sigmas = golden(f"sigmas/{count}")
    over_sigma(made, sigmas)
    x, raised = START, min(40 / count, math.sqrt(2) - 1)
    for number, sigma in enumerate(sigmas[:-1].tolist()):
        churned = 0.05 <= sigma <= 50
        monkeypatch.setattr(module, "randn_tensor", lambda *args, number=number, **how: NOISE[number])
        sigma_hat = sigma * (1 + raised) if churned else sigma
        moved = x + 1.003 * NOISE[number] * math.sqrt(sigma_hat**2 - sigma**2)
        step = float(made.timesteps[number])
        denoised = mixture.denoise(moved, sigma_hat)
        x = made.step(denoised, step, x, s_churn=40, s_tmin=0.05, s_tmax=50, s_noise=1.003).prev_sample
    end = ours("euler:S_churn=40:S_min=0.05:S_max=50:S_noise=1.003", count)
    torch.testing.assert_close(end, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("spec", "module", "name", "how"),
    [
        ("ddim:clip=false", "ddim", "DDIMScheduler", {}),
        ("ddim:clip=false:eta=0.5", "ddim", "DDIMScheduler", {"eta": 0.5}),
        ("ddim:clip=false:eta=1", "ddim", "DDIMScheduler", {"eta": 1.0}),
        ("ddpm:clip=false", "ddpm", "DDPMScheduler", {}),
    ],
)
@pytest.mark.parametrize("count", [8, 18])
def test_discrete(spec, module, name, how, count, monkeypatch):
    """Theirs counts its timesteps from the data, and keeps x times the weight of the data."""
    config = {"num_train_timesteps": count, "prediction_type": "sample", "clip_sample": False}
    found, made = scheduler(module, name, count, **config)
    sigmas = golden(f"sigmas/{count}")[:-1]
    made.alphas_cumprod = (1 / (1 + sigmas**2)).flip(0)
    made.final_alpha_cumprod = made.one = torch.ones((), dtype=torch.float64)
    start, drawn = START / START.std() * math.hypot(1, float(sigmas[0])), iter(NOISE)
    monkeypatch.setattr(found, "randn_tensor", lambda *args, **how: next(drawn))
    x = start * scaled(sigmas[0])[0]
    for number, sigma in enumerate(sigmas):
        denoised = mixture.denoise(x / scaled(sigma)[0], float(sigma))
        x = made.step(denoised, count - 1 - number, x, **how).prev_sample
    torch.testing.assert_close(ours(spec, count, start), x, rtol=1e-8, atol=1e-8)
