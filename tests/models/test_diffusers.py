"""Pipelines of diffusers as denoisers: their own `__call__`, made again by our samplers and guidance, and by hand."""

import math

import pytest
import torch

from dnnlib.inference import Inference
from edm2_guidance.models import open_model
from edm2_guidance.models.discrete import DENOISED
from edm2_guidance.models.diffusers import noise_levels_of
from edm2_guidance.recipe.recipe import Guide, Recipe
from edm2_guidance.recipe.timesteps import noise_levels
from edm2_guidance.sampling.engine import trajectory
from edm2_guidance.sampling.generation import open_recipe, sample
from edm2_guidance.sampling.guidance.guided import Batch, guided
from edm2_guidance.sampling.seeds import SeededStreams
from tests.diffusers_pipelines import made_once, tiny_ddpm, tiny_dit, tiny_if, tiny_sd, tiny_sdxl

PROMPTS = ["a painting of a raccoon", "the blue jay"]
SEEDS = [3, 4]


@pytest.fixture
def folder(tmp_path_factory):
    return lambda make, *args: str(made_once(tmp_path_factory, make, *args))


def levels_of(scheduler):
    """Of the timesteps that a scheduler of diffusers takes, as our table of levels says them."""
    shares = scheduler.alphas_cumprod.double()
    table = ((1 - shares) / shares).sqrt()
    return "table:sigmas=" + "+".join(repr(float(table[int(t)])) for t in scheduler.timesteps)


@pytest.mark.parametrize("make, args, kind", [
    (tiny_sdxl, (), "EulerDiscreteScheduler"),
    (tiny_sd, ("epsilon",), "DDIMScheduler"),
    (tiny_sd, ("v_prediction",), "DDIMScheduler"),
    (tiny_sd, ("v_prediction",), "EulerDiscreteScheduler"),
])  # fmt: skip
def test_pipelines_of_text_are_made_again(folder, make, args, kind):
    """Our Euler's method over their levels is their Euler's, and DDIM."""
    import diffusers

    source = folder(make, *args)
    pipe = diffusers.DiffusionPipeline.from_pretrained(source)
    pipe.set_progress_bar_config(disable=True)
    ddim = {"clip_sample": False, "set_alpha_to_one": True} if kind == "DDIMScheduler" else {}
    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config, timestep_spacing="trailing", **ddim)
    pipe.scheduler.set_timesteps(5)
    recipe = Recipe(
        source, Guide(None, 3.0, reference="unconditional"), num_steps=5, sampler="euler", prompts=PROMPTS,
        schedule=levels_of(pipe.scheduler),
    )  # fmt: skip
    generation, level = open_recipe(recipe, "cpu"), recipe.levels()[0]
    ours, labels = sample(generation, SEEDS)
    assert labels == [1, 0]
    noise = SeededStreams(SEEDS).randn(generation.main.shape) * level
    told = {
        "prompt": [PROMPTS[label] for label in labels], "num_inference_steps": 5, "guidance_scale": 3.0,
        "latents": noise / (math.sqrt(1 + level**2) if ddim else pipe.scheduler.init_noise_sigma),
    }  # fmt: skip
    torch.testing.assert_close(ours, pipe(**told, output_type="latent").images, rtol=1e-4, atol=1e-4)
    pixels, (decoded, _) = pipe(**told, output_type="pt").images, generation.decode(ours)
    assert (decoded - pixels * 255).abs().max() < 0.6


def test_dit_is_made_again_by_hand(folder):
    """Their pipeline's null class is 1000; of a network of ten classes it is the tenth."""
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(folder(tiny_dit))
    pipe.scheduler.set_timesteps(5)
    recipe = Recipe(
        folder(tiny_dit), Guide(None, 4.0, reference="unconditional"), num_steps=5, sampler="ddim:clip=false",
        schedule=levels_of(pipe.scheduler), labels=7,
    )  # fmt: skip
    generation, level = open_recipe(recipe, "cpu"), recipe.levels()[0]
    ours, _ = sample(generation, SEEDS)
    x = SeededStreams(SEEDS).randn([4, 8, 8])
    for t in pipe.scheduler.timesteps:
        with torch.no_grad():
            noise = pipe.transformer(torch.cat([x, x]), t.expand(4), torch.tensor([7, 7, 10, 10])).sample[:, :4]
        told, untold = noise.chunk(2)
        x = pipe.scheduler.step(untold + 4 * (told - untold), t, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4 * math.sqrt(1 + level**2) / level)
    assert generation.main.class_names[7] == "class 7"
