"""DINOv2 against golden features in both resize modes."""

import json
from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest
import torch

from edm2_guidance.metrics.extractors.networks.dinov2 import DinoV2, preprocess


def small_network(dinov2_golden: tuple, resize: str) -> DinoV2:
    dims = json.loads(str(dinov2_golden[0]["dims"]))
    with torch.device("meta"):
        net = DinoV2(**dims, resize=resize)
    net.load_state_dict(dinov2_golden[1], assign=True)
    return net.eval()


def test_names_and_shapes_are_those_of_the_published_vit_l(dinov2_golden: tuple) -> None:
    expected = json.loads(str(dinov2_golden[0]["vitl14_state_dict_shapes"]))
    with torch.device("meta"):
        net = DinoV2()
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in net.parameters()) == 304_368_640


@pytest.mark.parametrize("size", [224, 512, 64])
@pytest.mark.parametrize("resize", ["torch", "pil"])
def test_golden(dinov2_golden: tuple, resize: str, size: int, relative_error: Callable[..., float]) -> None:
    net = small_network(dinov2_golden, resize)
    with torch.no_grad():
        features = net(torch.from_numpy(dinov2_golden[0][f"images_{size}"]))
    key = f"features_pil_{size}" if resize == "pil" else f"features_{size}"
    assert relative_error(features, dinov2_golden[0][key]) < 1e-5


def test_the_two_resizes_are_two_variants(dinov2_golden: tuple, relative_error: Callable[..., float]) -> None:
    """So that a result must say which one it used."""
    assert relative_error(dinov2_golden[0]["features_pil_512"], dinov2_golden[0]["features_512"]) > 1e-4


def test_features_do_not_depend_on_the_batch(dinov2_golden: tuple, relative_error: Callable[..., float]) -> None:
    net = small_network(dinov2_golden, "torch")
    images = torch.from_numpy(dinov2_golden[0]["images_64"])
    with torch.no_grad():
        assert relative_error(net(images)[1:], net(images[1:])) < 1e-5


def test_pil_mode_is_pillow_on_eight_bits() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    expected = np.asarray(PIL.Image.fromarray(image).resize((224, 224), PIL.Image.Resampling.BICUBIC))
    pixels = preprocess(torch.from_numpy(image).permute(2, 0, 1)[None], "pil")[0]
    restored = pixels * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    restored = (restored + torch.tensor([0.485, 0.456, 0.406])[:, None, None]) * 255
    assert np.abs(restored.permute(1, 2, 0).numpy() - expected).max() < 1e-3


def test_position_table_of_its_own_grid_is_used_unchanged() -> None:
    net = DinoV2(embed_dim=8, depth=1, num_heads=2, grid=3)
    torch.nn.init.normal_(net.pos_embed, generator=torch.Generator().manual_seed(0))
    assert torch.equal(net._positions(3, 3), net.pos_embed)
    assert net._positions(5, 4).shape == (1, 21, 8)
    assert torch.equal(net._positions(5, 4)[:, 0], net.pos_embed[:, 0])


def test_unknown_resize_is_refused() -> None:
    with pytest.raises(ValueError, match="'torch' or 'pil'"):
        DinoV2(embed_dim=8, depth=1, num_heads=2, resize="bilinear")
