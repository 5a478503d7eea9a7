"""Ten steps of both published samplers, with and without a classifier, through the recipe's own parts: golden states.

The given trajectories are of linear betas; those of cosine ones are compared with the published formulas, by the
published tables.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from edm2_guidance.models.adm_files import save_adm
from edm2_guidance.models.networks.adm import Architecture
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import Reference, Sampler, Schedule, Weight
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling import seeds as seeding
from edm2_guidance.sampling.engine import trajectory
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.guidance.guided import Batch, guided
from edm2_guidance.sampling.opening import open_recipe

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "adm.npz")
TINY = Architecture("denoiser", 16, 32, (1, 2), 1, 10, head_width=16, attention=(8,))
LABELS = GOLDEN["in/y"].tolist()
SAMPLERS = {"ancestral": ("ddpm", "10"), "ddim": ("ddim", "ddim10"), "ddim_eta0.5": ("ddim:eta=0.5", "ddim10")}
AGREEMENT = {"ancestral": 4e-6, "ddim": 1e-5, "ddim_eta0.5": 1e-5}
CASES = [(form, scale) for form in SAMPLERS for scale in (0, 2)]


def golden(name):
    return torch.from_numpy(GOLDEN[name])


def built(name, betas):
    role = "denoiser" if name == "unet_legacy" else name
    net = replace(TINY, role=role, betas=betas).build().eval().requires_grad_(False)
    keys = [key for key in GOLDEN.files if key.startswith(f"{name}/")]
    net.load_state_dict({key.removeprefix(f"{name}/"): golden(key) for key in keys})
    return net


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adm")
    names = [(name, betas) for name in ("unet_legacy", "classifier") for betas in ("linear", "cosine")]
    for name, betas in names:
        save_adm(folder / f"{name}-{betas}.safetensors", built(name, betas))
    return {each: NetworkRef(str(folder / f"{each[0]}-{each[1]}.safetensors")) for each in names}


def recipe_of(files, betas, form, scale, dtype="float32"):
    sampler, steps = SAMPLERS[form]
    weight = Weight.parse("posterior" if form == "ancestral" else "constant").with_fields({"w": 1 + scale})
    guide = Guide(files["classifier", betas], weight, reference=Reference.parse("classifier"))
    return Recipe(
        files["unet_legacy", betas],
        (guide,),
        sampler=Sampler.parse(sampler),
        schedule=Schedule.parse(f"timesteps:steps={steps}:betas={betas}"),
        dtype=dtype,
        noise_device="cpu",
    )


def states(recipe, start, noise):
    """After every step, on x / sqrt(1 + sigma^2)."""
    generation = open_recipe(recipe, "cpu")
    assert not generation.notes
    main, classifier = generation.main, generation.guides[0]
    y = main.conditions(LABELS, torch.device("cpu"))
    guides = [(generation.recipe.guides[0], classifier.log_probs)]
    at = guided(
        lambda x, sigma, _: main.predict(x, sigma, y), guides, batch=Batch(LABELS, 10), clip=recipe.sampler.clips
    )
    draws = iter(noise)
    with torch.no_grad():
        steps = list(trajectory(recipe.sampler, recipe.steps(), at, start, lambda x: next(draws).to(x)))
    return [step.x / math.hypot(1, step.info.sigma_next) for step in steps]


def noise_of(name):
    return golden(f"{name}/noise") if f"{name}/noise" in GOLDEN.files else []


@pytest.mark.parametrize(("form", "scale"), CASES)
def test_given_trajectories(files, form, scale):
    """Every state to the relative agreement that is asked of them, by the float32 of another processor."""
    name = f"traj/linear/{form}/scale{scale}"
    expected = golden(f"{name}/x")
    made = states(recipe_of(files, "linear", form, scale), expected[0], noise_of(name))
    for ours, theirs in zip(made, expected[1:], strict=True):
        assert (ours - theirs).norm() / theirs.norm() < AGREEMENT[form]


@pytest.mark.parametrize("form", ["ancestral", "ddim_eta0.5"])
def test_a_whole_sample_of_the_house(files, form, monkeypatch):
    """The way of the command lines, with the given noise in place of the seeds'."""
    name = f"traj/linear/{form}/scale2"
    expected, draws = golden(f"{name}/x"), iter(golden(f"{name}/noise"))
    streams = type("Streams", (), {"randn_like": staticmethod(lambda x: next(draws))})
    monkeypatch.setattr(seeding, "start", lambda *args: (streams, expected[0], LABELS))
    counted = {"main": 0, "classifier 1": 0}
    made, labels = sample(open_recipe(recipe_of(files, "linear", form, 2), "cpu"), [0, 1], counted)
    assert (made - expected[-1]).norm() / expected[-1].norm() < AGREEMENT[form]
    assert (labels, counted) == (LABELS, {"main": 20, "classifier 1": 20})


def published(betas, form, scale, start, noise, wrong=None):
    """The published sampler on x / sqrt(1 + sigma^2), from the original's tables; float64 but for the networks."""
    steps = SAMPLERS[form][1]
    table = {key: GOLDEN[f"sched/{betas}/{steps}/{key}"] for key in ("betas", "alphas_cumprod", "timestep_map")}
    more = ("posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2")
    log_least, coef1, coef2 = (GOLDEN[f"sched/{betas}/{steps}/{key}"] for key in more)
    net, classifier = built("unet_legacy", betas), built("classifier", betas)
    y, x, found = one_hot(torch.tensor(LABELS), 10).float(), start.double(), []

    def gradient(at, t):
        at = at.float().requires_grad_()
        chosen = classifier(at, t).log_softmax(1)[range(2), LABELS]
        return scale * torch.autograd.grad(chosen.sum(), at)[0].double()

    for k in range(9, -1, -1):
        a, before = table["alphas_cumprod"][k], table["alphas_cumprod"][k - 1] if k > 0 else 1.0
        t = torch.full((2,), int(table["timestep_map"][k]))
        eps, code = net(x.float(), t, y).double().chunk(2, 1)
        first = (x / math.sqrt(a) - math.sqrt(1 / a - 1) * eps).clamp(-1, 1)
        if form == "ancestral":
            share = (code + 1) / 2
            log_variance = share * math.log(table["betas"][k]) + (1 - share) * log_least[k]
            mean = coef1[k] * first + coef2[k] * x
            x = mean + log_variance.exp() * gradient(mean if wrong == "at the mean" else x, t)
            spread = (log_variance / 2).exp()
        else:
            eps = (x / math.sqrt(a) - first) / math.sqrt(1 / a - 1) - math.sqrt(1 - a) * gradient(x, t)
            first = x / math.sqrt(a) - math.sqrt(1 / a - 1) * eps
            first = first.clamp(-1, 1) if wrong == "clipped after" else first
            spread = 0.5 * math.sqrt((1 - before) / (1 - a)) * math.sqrt(1 - a / before)
            x = math.sqrt(before) * first + math.sqrt(1 - before - spread**2) * eps
        x = x + (k > 0) * spread * noise[9 - k]
        found.append(x)
    return found


@pytest.mark.parametrize(
    ("betas", "form", "wrong"),
    [
        ("linear", "ddim_eta0.5", "clipped after"),
        ("cosine", "ancestral", "at the mean"),
        pytest.param("linear", "ancestral", "at the mean", marks=pytest.mark.slow),
        pytest.param("cosine", "ddim_eta0.5", "clipped after", marks=pytest.mark.slow),
    ],
)
def test_published_formulas_with_either_betas(files, betas, form, wrong):
    """float64 states, so that sigma = 20,291 of the cosine's last timestep costs no digits."""
    name = f"traj/linear/{form}/scale2"
    start, noise = golden(f"{name}/x")[0].double(), golden(f"{name}/noise").double()
    made = states(recipe_of(files, betas, form, 2, "float64"), start, noise)
    for ours, theirs in zip(made, published(betas, form, 2, start, noise), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert (made[-1] - published(betas, form, 2, start, noise, wrong)[-1]).abs().max() > 2e-3


def test_a_schedule_of_other_betas_is_told(files):
    recipe = recipe_of(files, "linear", "ddim", 2)
    other = replace(recipe, schedule=Schedule.parse("timesteps:steps=ddim10:cosine"))
    (note,) = open_recipe(other, "cpu").notes
    assert note.endswith("was trained on linear betas, and the schedule has cosine ones")
