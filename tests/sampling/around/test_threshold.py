"""Dynamic thresholding: by hand, by diffusers' own, and where it is refused."""

import pytest
import torch

from edm2_guidance.recipe.around import Around
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.opening import open_recipe

D = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def finished(spec, denoised):
    return Around.parse(spec).finish(denoised, None, {})


def test_by_hand():
    image = torch.tensor([0.5, -1.0, 4.0]).view(1, 3, 1, 1)
    assert finished("threshold:ratio=0.5", image).flatten().tolist() == [0.5, -1.0, 1.0]  # clipped at the median, 1
    assert finished("threshold:ratio=1", image).flatten().tolist() == [0.125, -0.25, 1.0]
    assert finished("threshold:ratio=1:most=2", image).flatten().tolist() == [0.25, -0.5, 1.0]


def test_what_is_in_the_range_of_pixels_stays():
    torch.testing.assert_close(finished("threshold:ratio=1", D / 10), D / 10, rtol=0, atol=0)


def test_each_image_by_itself():
    torch.testing.assert_close(finished("threshold", 3 * D)[1:2], finished("threshold", 3 * D[1:2]), rtol=0, atol=0)


def test_it_is_what_diffusers_does_to_deepfloyd_if():
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=1.5)
    for scale in (0.3, 0.8, 5.0):
        torch.testing.assert_close(
            finished("threshold:if", scale * D).float(), theirs._threshold_sample(scale * D).float(), rtol=0, atol=1e-6
        )


def test_high_weights_stay_in_the_range_of_pixels():
    plain = Recipe("mnist16-cond", [Guide("mnist16-uncond", 9.0)], num_steps=4)
    held = Recipe("mnist16-cond", [Guide("mnist16-uncond", 9.0)], num_steps=4, around="threshold")
    most = [
        float(next(iter(open_recipe(each).images([0, 1], 2).latents())).values.abs().max()) for each in (plain, held)
    ]
    assert most[1] <= 1 + 1e-6 < most[0]


def test_latents_are_refused():
    from edm2_guidance.sampling.opening import _check_sampling

    main = type("Latents", (), {"shape": (4, 8, 8), "image_size": 64, "source": "net.pkl"})
    with pytest.raises(ValueError, match=r"threshold is of pixels, and net.pkl denoises latents"):
        _check_sampling(Recipe("net", around="threshold"), main, [])
