"""Finished pictures: which are kept, and which are another's."""

import pytest
from PIL import Image

from edm2_guidance.recipe.recipe import NetworkRef, Recipe
from edm2_guidance.work.figure_folder import FigureFolder

RECIPE = Recipe(NetworkRef("main.pkl", "a" * 64))
FORMAT_1 = {
    "net": {"source": "main", "sha256": "a" * 64}, "guides": [], "labels": "random", "seed_rule": "edm2",
    "noise_device": "cpu", "encoder": {},
    "sampler": {
        "num_steps": 32, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0, "S_churn": 0.0, "S_min": 0.0,
        "S_max": "inf", "S_noise": 1.0, "dtype": "float32",
    },
}  # fmt: skip


def test_pictures_of_the_version_before_are_kept(tmp_path):
    folder, picture = FigureFolder(tmp_path), Image.new("RGB", (2, 2))
    folder.save("a.png", picture, {"seeds": [1], "recipes": [FORMAT_1]})
    folder.save("b.png", picture, {"seeds": [1], "recipes": ["another program's"]})
    now = {"seeds": [1], "recipes": [RECIPE.to_json()]}
    assert folder.has("a.png", now)
    for name, other in (("a.png", {**now, "seeds": [2]}), ("b.png", now)):
        with pytest.raises(ValueError, match="of other networks or settings"):
            folder.has(name, other)
