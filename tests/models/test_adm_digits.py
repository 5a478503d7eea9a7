"""The ADM networks of digits that ship here, and the scripts that trained them: losses against slow references."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.distributions import Normal, kl_divergence

from edm2_guidance.models import open_classifier, open_model
from edm2_guidance.pretrained import train_adm, train_classifier
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.timesteps import alphas_bar, noise_levels
from edm2_guidance.sampling.opening import open_recipe
from tests.pictures import encoded

DATA = Path(__file__).parents[1] / "data"
PRETRAINED = Path(__file__).parents[2] / "edm2_guidance" / "pretrained"
EVERY = torch.tensor([1.0, *alphas_bar("linear")], dtype=torch.float64)


@pytest.fixture(scope="module")
def digits():
    """200 real test digits: uint8 [200,3,16,16], and their classes."""
    with np.load(DATA / "mnist16-200.npz") as file:
        return torch.from_numpy(file["arr_0"]).permute(0, 3, 1, 2), torch.from_numpy(file["arr_1"])


@pytest.fixture(scope="module")
def digit_zip(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "digits.zip"
    names = [f"{i}.png" for i in range(32)]
    with zipfile.ZipFile(path, "w") as file:
        for name, image in zip(names, digits[0], strict=False):
            file.writestr(name, encoded(image.permute(1, 2, 0).numpy()))
        labels = [[name, int(label)] for name, label in zip(names, digits[1], strict=False)]
        file.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


@pytest.mark.parametrize(("t", "mix"), [(1, 0.0), (1, 0.7), (40, 0.2), (999, 1.0)])
def test_terms_of_the_bound_are_divergences_of_two_normal_distributions(t, mix):
    """By the means of arXiv 2006.11239, Eqs. 7 and 11, from the image and from the predicted noise."""
    images, noise, error = torch.randn(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    kept, before = EVERY[t + 1], EVERY[t]
    beta = 1 - kept / before
    least = beta * (1 - before) / (1 - kept)
    x = kept.sqrt() * images + (1 - kept).sqrt() * noise
    true = before.sqrt() * beta / (1 - kept) * images + (1 - beta).sqrt() * (1 - before) / (1 - kept) * x
    predicted = (x - beta / (1 - kept).sqrt() * (noise + error)) / (1 - beta).sqrt()
    std = (mix * beta.log() + (1 - mix) * least.log()).exp().sqrt()
    slow = kl_divergence(Normal(true, least.sqrt()), Normal(predicted, std)).mean() / np.log(2)
    found = train_adm._bound(images, error, torch.full_like(images, mix), torch.full((2,), t), EVERY)
    assert float(found) == pytest.approx(float(slow), rel=1e-4, abs=1e-7)


def test_the_term_of_the_data_is_the_likelihood_of_their_levels():
    """Of all 256 levels it sums to one; the mean is what the noise leads back to."""
    levels = torch.arange(256).double() / 127.5 - 1
    odds = train_adm._log_likelihood(levels, torch.full_like(levels, 0.3), torch.tensor(0.05)).exp()
    assert float(odds.sum()) == pytest.approx(1, abs=1e-6)
    assert int(odds.argmax()) == round(1.3 * 127.5)
    images, error = levels.view(1, 1, 16, 16), torch.full((1, 1, 16, 16), 0.5)
    mean = images - ((1 - EVERY[1]) / EVERY[1]).sqrt() * error
    std = (1 - EVERY[2] / EVERY[1]).mul(1 - EVERY[1]).div(1 - EVERY[2]).sqrt()
    expected = -train_adm._log_likelihood(images, mean, std).mean() / np.log(2)
    found = train_adm._bound(images, error.double(), torch.zeros_like(images), torch.zeros(1, dtype=torch.long), EVERY)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("script", "opener"),
    [
        pytest.param(train_adm, open_model, marks=pytest.mark.slow),
        (train_classifier, open_classifier),
    ],
)
def test_training_scripts_reproduce_their_bytes(script, opener, digit_zip, tmp_path, monkeypatch):
    """Not well trained by 32 digits, but complete: the same seed gives the same file, another seed another one."""
    monkeypatch.setattr(script, "BATCH", 16)
    files = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for seed, file in zip((0, 0, 1), files, strict=True):
        arguments = [f"--data={digit_zip}", f"--dest={file}", "--epochs=1", f"--seed={seed}"]
        test = [f"--test={digit_zip}"] if script is train_classifier else []
        result = CliRunner().invoke(script.main, [*arguments, *test])
        assert result.exit_code == 0, result.output
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    assert opener(files[0]).class_names == tuple("0123456789")


def test_the_classifier_that_ships_knows_noisy_digits(digits):
    """As the README says, of digits it has never seen; of noise alone it knows nothing. One step along its gradient
    makes every class more probable."""
    classifier = open_classifier("mnist16-classifier")
    images, classes = digits[0] / 127.5 - 1, digits[1].long()
    draw = torch.Generator().manual_seed(0)
    right = {}
    for t in (0, 250, 999):
        sigma = torch.tensor(noise_levels("linear")[t])
        x = images + sigma * torch.randn(images.shape, generator=draw)
        log_probs = classifier.log_probs(x, sigma)
        right[t] = float((log_probs.argmax(dim=1) == classes).double().mean())
    assert right[0] > 0.97
    assert right[250] > 0.9
    assert right[999] < 0.25
    x, sigma, wanted = torch.randn(10, 3, 16, 16, generator=draw) * 2, torch.tensor(2.0), torch.arange(10)
    x.requires_grad_()
    before = classifier.log_probs(x, sigma)[wanted, wanted]
    (slope,) = torch.autograd.grad(before.sum(), x)
    after = classifier.log_probs(x + 0.5 * sigma**2 * slope, sigma)[wanted, wanted]
    assert bool((after > before).all())
    assert (PRETRAINED / "mnist16-classifier.safetensors").stat().st_size < 1_000_000


def test_the_denoiser_that_ships_draws_the_digit_that_is_asked_for(digits):
    """One step from moderate noise: nearer to the image than the noise by far, and than under another class."""
    model, sigma = open_model("adm-mnist16"), torch.tensor(noise_levels("linear")[400])
    images, classes = digits[0][:40] / 127.5 - 1, digits[1][:40].tolist()
    x = images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    made = {
        shift: model.predict(x, sigma, model.conditions([(n + shift) % 10 for n in classes], torch.device("cpu")))
        for shift in (0, 5)
    }
    missed = {shift: float((each.denoised - images).square().mean().sqrt()) for shift, each in made.items()}
    assert missed[0] < 0.35 < float(sigma) / 5
    assert missed[5] > 1.1 * missed[0]
    assert 0 < float(made[0].mix.mean()) < 1
    assert (PRETRAINED / "adm-mnist16.safetensors").stat().st_size < 1_000_000


def test_without_a_class_it_is_refused_before_sampling():
    """As main network and as a guide that is on."""
    path, ours = PRETRAINED / "adm-mnist16.safetensors", PRETRAINED / "mnist16-cond.pkl"
    for recipe in (Recipe(path, labels="none"), Recipe(ours, Guide(path, 2.0), labels="none")):
        with pytest.raises(ValueError, match="trained with classes alone: it denoises no image without one"):
            open_recipe(recipe, "cpu")
    assert open_recipe(Recipe(ours, Guide(path, 1.0), labels="none"), "cpu").recipe.guides[0].off
