"""The entropy schedule: levels that are known, what is measured of a network, and the command that does."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from edm2_guidance.commands import network_tool
from edm2_guidance.images.batch import ImageBatch
from edm2_guidance.models.base import Model, Prediction
from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.stored import read_recipe
from edm2_guidance.sampling.denoising_error import denoising_errors, even_levels
from edm2_guidance.sampling.opening import open_recipe

DATA = Path(__file__).parents[2] / "data"
GOLDEN = np.load(DATA / "schedules.npz")
ERRORS = "+".join(map(repr, GOLDEN["mmse"].tolist()))
DIGITS = "entropy:file=pretrained/mnist16-cond-entropy.json"


@pytest.mark.parametrize("count", [8, 12])
@pytest.mark.parametrize(("name", "text"), [("entropy", "entropy"), ("rescaled-entropy", "entropy:rescaled")])
def test_golden_levels(name, text, count):
    made = [*Schedule.parse(f"{text}:errors={ERRORS}").levels(count), 0.0]
    assert made == pytest.approx(GOLDEN[f"schedule/{name}/{count}"].tolist(), rel=1e-9)


def test_of_one_gaussian_the_integral_is_known():
    """E = c^2 sigma^2 / (c^2 + sigma^2): c atan(sigma / c) if rescaled, else ln(sigma^2 / (c^2 + sigma^2)) / 2."""
    sigmas, c = np.array(even_levels(0.002, 80, 4001)), 0.5
    errors = "+".join(map(repr, (c**2 * sigmas**2 / (c**2 + sigmas**2)).tolist()))
    shares = np.linspace(1, 0, 9)
    low, high = np.arctan(0.002 / c), np.arctan(80 / c)
    made = Schedule.parse(f"entropy:rescaled:errors={errors}").levels(9)
    np.testing.assert_allclose(made, c * np.tan(low + shares * (high - low)), rtol=1e-4)
    low, high = (math.log(sigma**2 / (c**2 + sigma**2)) for sigma in (0.002, 80))
    kept = np.exp(low + shares * (high - low))
    made = Schedule.parse(f"entropy:errors={errors}").levels(9)
    np.testing.assert_allclose(made[1:], c * np.sqrt(kept / (1 - kept))[1:], rtol=1e-4)


def test_a_factor_of_all_errors_changes_nothing():
    made = [Schedule.parse(f"entropy:rescaled:errors={text}").levels(6) for text in ("1+2+3", "10+20+30")]
    assert made[0] == pytest.approx(made[1])
    assert Schedule.parse("entropy:errors=1+2:sigma_min=1:sigma_max=4").levels(1) == [4.0]


def test_the_file_of_the_digits_is_that_of_their_network(tmp_path):
    recipe = Recipe("mnist16-cond", num_steps=8, schedule=DIGITS)
    assert recipe.levels()[0] == 80
    assert recipe.levels()[-1] == 0.002
    stored = read_recipe(json.loads(json.dumps(recipe.to_json())))
    assert stored.hash == recipe.hash
    assert len(recipe.schedule.caption) < 30
    assert open_recipe(recipe, "cpu").notes == ()
    (note,) = open_recipe(replace(recipe, net="mnist16-weak"), "cpu").notes
    assert note.endswith("was measured on another network than mnist16-weak")


HELD = {"net": {"sha256": "a" * 64}, "sigma_min": 1, "sigma_max": 2, "errors": [1, 2]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ({}, "is no file of network_tool.py entropy: measure the network again"),
        ("80 1", "is no file of network_tool.py entropy"),
        (HELD | {"net": "a" * 64}, "is no file of network_tool.py entropy"),
        (HELD | {"net": {"sha256": "x:y,z"}}, "errors.json is no file of .*: net.sha256 is not 64 hexadecimal digits"),
        (HELD | {"net": {"sha256": ["a" * 64]}}, "net.sha256 is not 64 hexadecimal digits"),
        (HELD | {"net": {"sha256": "A" * 64}}, "net.sha256 is not 64 hexadecimal digits"),
        (HELD | {"sigma_max": "2"}, "sigma_max is not a number"),
        (HELD | {"errors": "123"}, "errors.json is no file of .*: errors is not a list of numbers"),
        (HELD | {"errors": ["x"]}, "errors is not a list of numbers"),
        (HELD | {"errors": [1, 0]}, "all above 0 and finite"),
        (HELD | {"errors": [1]}, "must be two at least"),
        (HELD | {"errors": []}, "errors is not a list of numbers"),
        (HELD | {"sigma_min": 2, "sigma_max": 1}, "need min < max"),
    ],
)
def test_malformed_files(tmp_path, text, says):
    (tmp_path / "errors.json").write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(ValueError, match=says):
        Schedule.parse(f"entropy:file={tmp_path / 'errors.json'}")


def test_without_errors_there_are_no_levels():
    with pytest.raises(ValueError, match=r"needs a file, entropy:file=FILE: network_tool\.py entropy writes it"):
        Recipe("net", schedule="entropy")


class Wiener(Model):
    """D(x) = c^2 / (c^2 + sigma^2) x, with an offset by the class."""

    source, device, shape, image_size, num_classes = "wiener", torch.device("cpu"), (3, 4, 4), 4, 2

    def predict(self, x, sigma, y, **how):
        return Prediction(x * 0.25 / (0.25 + sigma**2) + y[:, 1].view(-1, 1, 1, 1))


def digits(count, labels=(0, 1)):
    images = torch.randint(256, (count, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageBatch(images, labels=tuple(labels[number % len(labels)] for number in range(count)))


def test_errors_by_the_formula():
    batch, sigmas = digits(6), [0.1, 1.0, 10.0]
    made = denoising_errors(Wiener(), [batch], sigmas)
    for sigma, error in zip(sigmas, made, strict=True):
        total = 0.0
        for number in range(6):
            image = batch.images[number].double() / 127.5 - 1
            noise = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(number)).double()
            away = (image + sigma * noise) * 0.25 / (0.25 + sigma**2) + number % 2 - image
            total += float((away**2).sum())
        assert error == pytest.approx(total / 6, rel=1e-5)


def test_errors_know_no_batches():
    whole, seen = digits(6), []
    parts = [whole.select([0, 1, 2, 3]), whole.select([4, 5])]
    made = denoising_errors(Wiener(), parts, [0.5, 5.0], seen.append)
    assert made == pytest.approx(denoising_errors(Wiener(), [whole], [0.5, 5.0]), rel=1e-6)
    assert seen == [4, 2]


def test_images_that_do_not_fit():
    with pytest.raises(ValueError, match="an image is of class 2, and wiener knows 2"):
        denoising_errors(Wiener(), [digits(3, (0, 2))], [1.0])
    with pytest.raises(ValueError, match="the images have no classes, and wiener knows 2"):
        denoising_errors(Wiener(), [ImageBatch(digits(2).images)], [1.0])
    large = torch.zeros([1, 3, 8, 8], dtype=torch.uint8)
    with pytest.raises(ValueError, match="the images are 8x8, and those of wiener 4 wide"):
        denoising_errors(Wiener(), [ImageBatch(large, labels=(0,))], [1.0])


def run(*arguments):
    return CliRunner().invoke(network_tool.main, ["entropy", *map(str, arguments)])


def test_the_command(tmp_path):
    out = tmp_path / "made.json"
    asked = ("--net=mnist16-cond", f"--data={DATA / 'mnist16-200.npz'}", f"--out={out}", "--num-images=6", "--points=4")
    result = run(*asked)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out}\n"
    held = json.loads(out.read_text())
    assert (held["sigma_min"], held["sigma_max"], len(held["errors"])) == (0.002, 80, 4)
    assert held["data"]["images"] == 6
    assert held["errors"] == sorted(held["errors"]), "the more noise, the farther from the image"
    spread = np.load(DATA / "mnist16-200.npz")["arr_0"] / 127.5 - 1
    assert held["errors"][-1] == pytest.approx(spread.var(0).sum(), rel=0.4), "at most noise D is near the mean"
    schedule = Schedule.parse(f"entropy:rescaled:file={out}")
    assert schedule.measured_on == held["net"]["sha256"]
    assert len(schedule.levels(8)) == 8
    again = run(*asked)
    assert again.exit_code == 2
    assert "exists: take another --out, or --overwrite to replace it" in again.output
    before = out.read_text()
    assert run(*asked, "--overwrite", "--batch=2").exit_code == 0
    np.testing.assert_allclose(json.loads(out.read_text())["errors"], held["errors"], rtol=1e-3)
    assert json.loads(before)["data"] == json.loads(out.read_text())["data"]


def test_the_command_says_what_is_wrong(tmp_path):
    data, out = f"--data={DATA / 'mnist16-200.npz'}", f"--out={tmp_path / 'made.json'}"
    for given, says in [
        (("--net=mnist16-cond", "--data=nowhere.zip", out), "nowhere.zip does not exist"),
        (("--net=nowhere.pkl", data, out), "nowhere.pkl"),
        (("--net=mnist16-cond", data, out, "--sigma_min=3", "--sigma-max=2"), "--sigma_min=3 is not below"),
        (("--net=mnist16-classifier", data, out), "classifier"),
    ]:
        result = run(*given)
        assert result.exit_code == 2, result.output
        assert says in result.output
    assert not (tmp_path / "made.json").exists()
