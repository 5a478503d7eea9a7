"""Pipelines of diffusers as denoisers: their own `__call__`, made again by our samplers and guidance, and by hand."""

import itertools
import json
import math
import shutil

import pytest
import torch

from dnnlib.inference import Inference
from edm2_guidance.models import open_model
from edm2_guidance.models.discrete import DENOISED
from edm2_guidance.models.pipelines import noise_levels_of
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.timesteps import noise_levels
from edm2_guidance.sampling.engine import trajectory
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.guidance.guided import Batch, guided
from edm2_guidance.sampling.opening import open_recipe
from edm2_guidance.sampling.seeds import SeededStreams
from tests.diffusers_pipelines import (
    made_once,
    tiny_ddpm,
    tiny_dit,
    tiny_if,
    tiny_if_second,
    tiny_sd,
    tiny_sdxl,
    tiny_upscaler,
)

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


@pytest.mark.parametrize(("make", "args", "kind"), [
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


def test_deepfloyd_if_is_made_again_with_its_noise(folder):
    """Ancestral steps with the learned variance, thresholded: their random numbers are ours, but for that of labels."""
    import diffusers

    source = folder(tiny_if)
    pipe = diffusers.DiffusionPipeline.from_pretrained(source)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler.set_timesteps(5)
    recipe = Recipe(
        source, Guide(None, 2.0, reference="unconditional"), num_steps=5, sampler="ddpm:clip=false", prompts=PROMPTS,
        schedule=levels_of(pipe.scheduler), around="threshold:if",
    )  # fmt: skip
    model, streams = open_recipe(recipe, "cpu").main, SeededStreams(SEEDS)

    def main(x, sigma, labels, **how):
        return model.predict(x, sigma, model.conditions(labels, torch.device("cpu")), **how)

    at = guided(main, [(recipe.guides[0], None)], batch=Batch([0, 1], 2), around=recipe.around)
    with torch.no_grad():
        *_, last = trajectory(recipe.sampler, recipe.steps(), at, streams.randn([3, 8, 8]), streams.randn_like)
    theirs = pipe(
        PROMPTS, num_inference_steps=5, guidance_scale=2.0, generator=SeededStreams(SEEDS).generators, output_type="pt"
    ).images
    torch.testing.assert_close(last.x, theirs, rtol=1e-4, atol=1e-4)


def test_dit_is_made_again(folder):
    """Of a thousand classes, as their pipeline takes for granted; by its VAE, too."""
    import diffusers

    source = folder(tiny_dit, 1000)
    pipe = diffusers.DiffusionPipeline.from_pretrained(source)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler.set_timesteps(5)
    recipe = Recipe(
        source, Guide(None, 4.0, reference="unconditional"), num_steps=5, sampler="ddim:clip=false",
        schedule=levels_of(pipe.scheduler), labels=7,
    )  # fmt: skip
    ours, _ = sample(open_recipe(recipe, "cpu"), SEEDS)
    theirs = pipe(
        [7, 7], guidance_scale=4.0, num_inference_steps=5, generator=SeededStreams(SEEDS).generators, output_type="pt"
    ).images
    with torch.no_grad():
        made = (pipe.vae.decode(ours / 0.18215).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(made, theirs, rtol=0, atol=1e-4)
    assert theirs.std() > 0.05


def test_an_unconditional_pipeline(folder):
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(folder(tiny_ddpm))
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.scheduler.set_timesteps(5)
    recipe = Recipe(folder(tiny_ddpm), num_steps=5, sampler="ddim:clip=false", schedule=levels_of(pipe.scheduler))
    ours, labels = sample(open_recipe(recipe, "cpu"), SEEDS)
    assert labels is None
    x = SeededStreams(SEEDS).randn([3, 8, 8])
    for t in pipe.scheduler.timesteps:
        with torch.no_grad():
            x = pipe.scheduler.step(pipe.unet(x, t).sample, t, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_what_a_network_predicts_becomes_the_image():
    """With x = y + sigma n: of noise, of v = a n - s y with a = 1 / sqrt(1 + sigma^2), s = sigma a, and of y."""
    y, n, sigma = torch.tensor([0.3, -0.7]), torch.tensor([1.1, -0.4]), torch.tensor(2.5)
    a = 1 / (1 + sigma**2) ** 0.5
    predicted = {"epsilon": n, "v_prediction": a * n - sigma * a * y, "sample": y}
    for kind, made in predicted.items():
        torch.testing.assert_close(DENOISED[kind](y + sigma * n, made, sigma), y)


def test_noise_schedules_by_their_configuration():
    """Against diffusers' float32 tables, and our named ones."""
    from diffusers import DDPMScheduler

    for kind, first, last, named in (
        ("linear", 1e-4, 0.02, "linear"),
        ("scaled_linear", 0.00085, 0.012, "scaled-linear"),
        ("squaredcos_cap_v2", 1e-4, 0.02, "cosine"),
        ("linear", 1e-4, 0.01, None),
    ):
        scheduler = DDPMScheduler(beta_schedule=kind, beta_start=first, beta_end=last)
        levels, betas = noise_levels_of(scheduler.config, "folder")
        assert betas == named
        shares = torch.tensor([1 / (1 + level**2) for level in levels])
        torch.testing.assert_close(shares, scheduler.alphas_cumprod, rtol=1e-4, atol=1e-8)
        if named:
            assert levels == noise_levels(named)


@pytest.mark.parametrize(("config", "why"), [
    ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "of FlowMatchEulerDiscreteScheduler is not known"),
    ({"beta_schedule": "linear", "rescale_betas_zero_snr": True}, "with rescale_betas_zero_snr is not known"),
    ({"beta_schedule": "linear", "num_train_timesteps": 1}, "1 timesteps"),
    ({"beta_schedule": "linear", "num_train_timesteps": 10**9}, "1000000000 timesteps"),
    ({"beta_schedule": "linear", "beta_start": "a"}, "from a to 0.02 are no noise schedule"),
    ({"beta_schedule": "linear", "beta_end": 2.0}, "to 2.0 are no noise schedule"),
])  # fmt: skip
def test_other_noise_schedules_are_refused_by_name(config, why):
    with pytest.raises(ValueError, match=why):
        noise_levels_of(config, "folder")


@pytest.mark.parametrize(("make", "file", "said", "why"), [
    (tiny_dit, "vae/config.json", {"scaling_factor": "x"}, "component vae: .* do not scale 4 channels"),
    (tiny_dit, "vae/config.json", {"latents_mean": [0, 0], "latents_std": [1, 1]}, "do not scale 4 channels"),
    (tiny_dit, "vae/config.json", {"latents_std": [0, 1, 1, 1]}, "do not scale 4 channels"),
    (tiny_sdxl, "tokenizer_2/tokenizer_config.json", {"model_max_length": "x"}, "tokenizer_2: model_max_length is 'x'"),
    (tiny_sdxl, "tokenizer/tokenizer_config.json", {"model_max_length": 78}, "is 78, and its text encoder sees 77"),
    (tiny_if, "tokenizer/tokenizer_config.json", {"model_max_length": 0}, "model_max_length is 0"),
    (tiny_if_second, "image_noising_scheduler/scheduler_config.json", {"num_train_timesteps": 250},
     "odd: component image_noising_scheduler has 250 timesteps, and the small image is told timestep 250"),
    (tiny_upscaler, "low_res_scheduler/scheduler_config.json", {"num_train_timesteps": 20},
     "odd: component low_res_scheduler has 20 timesteps, and the small image is told timestep 20"),
])  # fmt: skip
def test_odd_configurations_are_refused_before_any_work(folder, tmp_path, make, file, said, why):
    shutil.copytree(folder(make), tmp_path / "odd")
    path = tmp_path / "odd" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    with pytest.raises(ValueError, match=why):
        open_model(str(tmp_path / "odd"))


def test_bfloat16_and_back(folder):
    model = open_model(folder(tiny_dit))
    x, sigma = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(1.5)
    with torch.no_grad():
        full = model.predict(x, sigma, model.conditions([1, 2], model.device)).denoised
        model.take(Inference(precision="bfloat16"))
        assert model.multiply_adds > 0
        rough = model.predict(x, sigma, model.conditions([1, 2], model.device)).denoised
        model.take(Inference())
        again = model.predict(x, sigma, model.conditions([1, 2], model.device)).denoised
    assert 0 < (rough - full).abs().max() < 0.2
    torch.testing.assert_close(again, full, rtol=0, atol=0)


def test_a_vae_between_pixels_and_latents(folder):
    """Its latents, by its own scale, are those that are denoised."""
    model = open_model(folder(tiny_sdxl))
    model.load_decoder()
    pixels = torch.randint(256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    latents = model.encode(pixels, torch.Generator().manual_seed(1))
    vae = model._files.component("vae")
    posterior = vae.encode(pixels / 127.5 - 1).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(latents, (posterior.mean + posterior.std * noise) * 0.13025)
    decoded = vae.decode(latents / 0.13025).sample
    assert (model.decode(latents).float() - (decoded.clamp(-1, 1) + 1) * 127.5).abs().max() <= 0.5 + 1e-3
    assert model.image_size == 16
    assert model.identity["encoder"]["class"] == "AutoencoderKL"


def test_two_networks_of_the_same_text_encoder_share_it(folder):
    one, other = open_model(folder(tiny_if)), open_model(folder(tiny_if))
    assert one._told._texts is other._told._texts


SMALL = torch.randint(256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(5)).to(torch.uint8)


def enlarged(source, recipe, small, noise, randn_like=torch.randn_like):
    """By our samplers, of these small images and this noise."""
    model = open_model(source).prompted(PROMPTS).enlarging(small.shape[-1])

    def main(x, sigma, labels, **how):
        return model.predict(x, sigma, model.conditions(labels, torch.device("cpu"), small), **how)

    at = guided(main, [(recipe.guides[0], None)], batch=Batch([0, 1], 2), around=recipe.around)
    with torch.no_grad():
        *_, last = trajectory(recipe.sampler, recipe.steps(), at, noise, randn_like)
    return last.x


def noised_as_ours(monkeypatch, module, small, shape, call):
    """The noise that they draw for the small images, in this call of all that draw, is ours."""
    from edm2_guidance.models.enlarging import _noise

    own, calls = module.randn_tensor, itertools.count(1)
    ours = torch.stack([_noise(each, shape) for each in small])
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **how: ours if next(calls) == call else own(*args, **how))


def test_the_second_stage_of_deepfloyd_if_is_made_again(folder, monkeypatch):
    import diffusers
    from diffusers.pipelines.deepfloyd_if import pipeline_if_superresolution as theirs

    source = folder(tiny_if_second)
    pipe = diffusers.DiffusionPipeline.from_pretrained(source)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler.set_timesteps(4)
    recipe = Recipe(
        source, Guide(None, 2.0, reference="unconditional"), num_steps=4, sampler="ddpm:clip=false",
        schedule=levels_of(pipe.scheduler), around="threshold:if",
    )  # fmt: skip
    streams, small = SeededStreams(SEEDS), SMALL[:, :, :4, :4]
    ours = enlarged(source, recipe, small, streams.randn([3, 16, 16]), streams.randn_like)
    noised_as_ours(monkeypatch, theirs, small, (3, 16, 16), call=2)
    made = pipe(
        PROMPTS, image=small / 127.5 - 1, num_inference_steps=4, guidance_scale=2.0, output_type="pt",
        generator=SeededStreams(SEEDS).generators, noise_level=250,
    ).images  # fmt: skip
    torch.testing.assert_close(ours, made, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [8, 16])
def test_the_upscaler_of_stable_diffusion_is_made_again(folder, monkeypatch, side):
    """Of the size that it was trained for, and of another."""
    import diffusers
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_upscale as theirs

    source, small = folder(tiny_upscaler), SMALL.repeat(1, 1, side // 8, side // 8)
    pipe = diffusers.DiffusionPipeline.from_pretrained(source)
    pipe.set_progress_bar_config(disable=True)
    more = {"timestep_spacing": "trailing", "set_alpha_to_one": True}
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, **more)
    pipe.scheduler.set_timesteps(4)
    recipe = Recipe(
        source, Guide(None, 2.0, reference="unconditional"), num_steps=4, sampler="ddim:clip=false",
        schedule=levels_of(pipe.scheduler),
    )  # fmt: skip
    noise = SeededStreams(SEEDS).randn([4, side, side])
    ours = enlarged(source, recipe, small, noise)
    noised_as_ours(monkeypatch, theirs, small, (3, side, side), call=1)
    made = pipe(
        PROMPTS, small / 255, num_inference_steps=4, guidance_scale=2.0, output_type="latent", latents=noise,
        noise_level=20,
    ).images  # fmt: skip
    torch.testing.assert_close(ours, made, rtol=1e-4, atol=1e-4)


def test_a_cascade_by_its_commands_words(folder):
    """The base stage sampled with the network that enlarges: prompts are of both, and each seed's image its own."""
    base = Recipe(folder(tiny_upscaler), num_steps=2)
    first = Recipe(folder(tiny_sd, "epsilon"), num_steps=2)
    recipe = Recipe(base.net, num_steps=2, base=first, prompts=PROMPTS, sampler="euler")
    both = open_recipe(recipe, "cpu")
    assert both.image_size == 64
    (together,), (alone,) = both.images([0, 1], 2), both.images([1], 1)
    assert together.labels == (0, 1)
    assert (together.images[1].float() - alone.images[0].float()).abs().max() <= 1


@pytest.mark.parametrize("make", [tiny_if_second, tiny_upscaler])
def test_what_a_network_costs_that_enlarges(folder, make):
    model = open_model(folder(make))
    counted = model.cost()
    assert counted.parameters == model.num_parameters
    assert counted.multiply_adds > 10 * counted.parameters  # convolutions see every pixel
    assert counted.input_shape == (1, *model.shape)


def test_a_prompt_beyond_the_text_encoder_is_told_so(folder):
    model = open_model(folder(tiny_sd, "epsilon")).prompted(["of " * 80, "of " * 70])
    with pytest.warns(RuntimeWarning, match=r'"of of of .* has more than 77 tokens'):
        model.conditions([0], model.device)
    model.conditions([1], model.device)


def test_each_prompt_is_encoded_once(folder, monkeypatch):
    model = open_model(folder(tiny_sdxl)).prompted(PROMPTS)
    encoder, calls = model._told._texts._files.component("text_encoder"), []
    monkeypatch.setattr(model._told._texts, "_known", {})
    encoder.register_forward_hook(lambda *args: calls.append(1))
    first = model.conditions([0, 1, 0], model.device)
    assert len(calls) == 2
    again = model.conditions([1, 0], model.device)
    assert len(calls) == 2
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one[1:], other, rtol=0, atol=0)
