"""The rule rescale: against its formula image by image, its limits, and the way from a command line."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from edm2_guidance.commands import generate_images
from edm2_guidance.recipe.parts import Rule, StepInfo
from tests.functions import denoise_at

STEP = StepInfo(0, 1, 1.0, 1.0, 0.0)
X, MAIN, GUIDE = torch.randn(3, 4, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()


def result(rule, *guides):
    at = denoise_at(lambda x, sigma: MAIN, *(guides or [(lambda x, sigma: GUIDE, 7.5)]), rule=Rule.parse(rule))
    return at(STEP)(X, 1.0)


@pytest.mark.parametrize("phi", [0.5, 0.7, 1.0])
def test_formula(phi):
    """Image by image in numpy, whose deviation has n - 1 in the denominator by ddof."""
    main, guide = MAIN.numpy(), GUIDE.numpy()
    for number, made in enumerate(result(f"rescale:phi={phi}").numpy()):
        linear = guide[number] + 7.5 * (main[number] - guide[number])
        scaled = linear * np.std(main[number], ddof=1) / np.std(linear, ddof=1)
        np.testing.assert_allclose(made, phi * scaled + (1 - phi) * linear, rtol=1e-12)


def test_limits():
    assert torch.equal(result("rescale:phi=0"), result("linear"))
    full = result("rescale:phi=1")
    torch.testing.assert_close(full.std((1, 2, 3)), MAIN.std((1, 2, 3)))
    assert Rule.parse("rescale") == Rule.parse("rescale:phi=0.7")
    off = result("rescale", (lambda x, sigma: GUIDE, 1.0))
    assert torch.equal(off, MAIN), "a guide that is off leaves nothing to scale"
    with pytest.raises(ValueError, match=r"phi=1\.5: must be at least 0 and at most 1"):
        Rule.parse("rescale:phi=1.5")


def test_an_image_without_contrast_stays():
    flat = torch.ones_like(MAIN)
    at = denoise_at(lambda x, sigma: flat, (lambda x, sigma: 0.5 * flat, 3.0), rule=Rule.parse("rescale"))
    assert torch.equal(at(STEP)(X, 1.0), 2 * flat)


def test_several_guides_are_scaled_together():
    both = result("rescale", (lambda x, sigma: GUIDE, 2.0), (lambda x, sigma: X, 3.0))
    linear = MAIN + (MAIN - GUIDE) + 2 * (MAIN - X)
    spread = MAIN.std((1, 2, 3), keepdim=True) / linear.std((1, 2, 3), keepdim=True)
    torch.testing.assert_close(both, linear * (0.7 * spread + 0.3))


def test_from_the_command_line(tiny_networks, tmp_path):
    words = [f"--net={tiny_networks['cond']}", f"--gnet={tiny_networks['weak']}", "--guidance=3", "--seeds=0"]
    for rule in ("linear", "rescale:phi=0.5"):
        place = tmp_path / rule.split(":")[0]
        done = CliRunner().invoke(generate_images.main, [*words, "--steps=3", f"--rule={rule}", f"--outdir={place}"])
        assert done.exit_code == 0, done.stderr
    assert "rule rescale:phi=0.5" in done.stderr
    assert json.loads((place / "recipe.json").read_text())["recipe"]["rule"] == "rescale:phi=0.5"
    assert (place / "000000.png").read_bytes() != (tmp_path / "linear" / "000000.png").read_bytes()
