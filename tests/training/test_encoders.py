"""Encoders against slow references written from the formulas, and a tiny VAE saved to disk by the tests."""

import ast
import copy
import hashlib
import json
import os
import pickle
import shutil
import socket
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from torch_utils import persistence
from training import encoders
from training.encoders import Encoder, StabilityVAEEncoder, StandardRGBEncoder

RAW_MEAN, RAW_STD = (5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28)
f32 = np.float32


def random_pixels(count=5, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


# --- RGB -------------------------------------------------------------------------------------------------


def rgb_level(value):
    """The level of one float32 value, step by step."""
    scaled = f32(f32(value) * f32(127.5)) + f32(128)
    return int(min(max(float(scaled), 0.0), 255.0))  # int() cuts the fraction off


def test_rgb_round_trip_of_every_level():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    encoder = StandardRGBEncoder()
    latents = encoder.encode(levels)
    assert latents.dtype == torch.float32
    expected = [f32(f32(k) / f32(127.5)) - f32(1) for k in range(256)]
    assert latents[0, 0].flatten().tolist() == expected
    assert (latents.min(), latents.max()) == (-1, 1)
    assert torch.equal(encoder.decode(latents), levels)


def test_rgb_decoding_cuts_off_at_the_edge_of_every_level():
    edges = np.array([(k - 128) / 127.5 for k in range(257)], dtype=f32)
    below, above = np.nextafter(edges, f32(-9)), np.nextafter(edges, f32(9))
    values = np.concatenate([below, edges, above, [-1e30, -1.5, 1.5, 1e30, -np.inf, np.inf, 0.0, -0.0]]).astype(f32)
    values = np.resize(values, 3 * 16 * 17).reshape(1, 3, 16, 17)
    decoded = StandardRGBEncoder().decode(torch.from_numpy(values)).numpy()
    assert decoded.dtype == np.uint8
    expected = [rgb_level(value) for value in values.flatten()]
    assert decoded.flatten().tolist() == expected
    assert set(expected) == set(range(256))


def test_rgb_zero_is_level_128_not_127():
    x = torch.tensor([0.0, -1e-3, (127.99 - 128) / 127.5]).reshape(1, 3, 1, 1)
    assert StandardRGBEncoder().decode(x).flatten().tolist() == [128, 127, 127]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rgb_decoding_works_in_float32_whatever_comes_in(dtype):
    x = torch.linspace(-1.2, 1.2, 300).reshape(1, 3, 10, 10).to(dtype)
    expected = [rgb_level(value) for value in x.float().flatten().tolist()]
    assert StandardRGBEncoder().decode(x).flatten().tolist() == expected


def test_rgb_pixels_are_their_own_raw_latents():
    pixels = random_pixels()
    assert torch.equal(StandardRGBEncoder().encode_pixels(pixels), pixels)


def test_nan_has_no_colour():
    x = torch.zeros(4, 3, 2, 2)
    x[1, 0, 0, 0] = x[3, 2, 1, 1] = float("nan")
    with pytest.raises(ValueError, match=r"images \[1, 3\] of a batch of 4 hold NaN"):
        StandardRGBEncoder().decode(x)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (1, 3, 1, 1), (2, 3, 5, 7)])
def test_rgb_shapes(shape):
    encoder = StandardRGBEncoder()
    assert encoder.decode(torch.zeros(shape)).shape == shape
    assert encoder.encode(torch.zeros(shape, dtype=torch.uint8)).shape == shape


@pytest.mark.parametrize(
    ("method", "x", "message"),
    [
        ("encode", torch.zeros(1, 3, 4, 4), r"uint8 \[N, 3, H, W\], got float32 \[1, 3, 4, 4\]"),
        ("encode_latents", torch.zeros(1, 3, 4, 4, dtype=torch.int64), "got int64"),
        ("encode_pixels", torch.zeros(3, 4, 4, dtype=torch.uint8), r"got uint8 \[3, 4, 4\]"),
        ("encode", torch.zeros(1, 1, 4, 4, dtype=torch.uint8), r"got uint8 \[1, 1, 4, 4\]"),
        ("decode", torch.zeros(1, 4, 4, 4), r"floating point \[N, 3, H, W\], got float32 \[1, 4, 4, 4\]"),
        ("decode", torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "got uint8"),
        ("decode", torch.zeros(3, 4, 4), r"got float32 \[3, 4, 4\]"),
    ],
)
def test_rgb_refuses_what_it_is_not_made_for(method, x, message):
    with pytest.raises(ValueError, match=message):
        getattr(StandardRGBEncoder(), method)(x)


def test_base_class_has_no_conversion_of_its_own():
    for method in ("encode_pixels", "encode_latents", "encode", "decode"):
        with pytest.raises(NotImplementedError):
            getattr(Encoder(), method)(torch.zeros(1))


# --- VAE: formulas ---------------------------------------------------------------------------------------


def save_tiny_vae(folder, seed=0, latent_channels=4):
    from diffusers import AutoencoderKL

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            block_out_channels=(4, 8),
            norm_num_groups=2,
            latent_channels=latent_channels,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        )
        for parameter in vae.parameters():  # livelier than the initialisation, so that decoding clips both ways
            parameter.data.add_(0.15 * torch.randn_like(parameter))
    vae.save_pretrained(folder)
    return vae.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(folder, the VAE itself)."""
    folder = tmp_path_factory.mktemp("vae") / "tiny"
    return folder, save_tiny_vae(folder)


@pytest.fixture
def encoder(tiny):
    return StabilityVAEEncoder(str(tiny[0]))


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Nothing may leave this machine; the caches are empty; returns the list of attempts."""
    attempts = []

    def refuse(*args, **_):
        attempts.append(args)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("EDM2_VAE", raising=False)
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return attempts


def test_scale_and_bias_are_the_published_formula_in_float32():
    encoder = StabilityVAEEncoder()
    assert encoder.vae_name == "stabilityai/sd-vae-ft-mse"
    assert encoder.batch_size == 8
    scale = [f32(0.5) / f32(std) for std in RAW_STD]
    bias = [f32(0) - f32(mean) * s for mean, s in zip(RAW_MEAN, scale, strict=True)]
    assert encoder.scale.dtype == encoder.bias.dtype == f32
    assert encoder.scale.tolist() == scale
    assert encoder.bias.tolist() == bias
    other = StabilityVAEEncoder("x", [1, 2], [4, 5], final_mean=[1, 0], final_std=2)
    assert other.scale.tolist() == [f32(0.5), f32(0.4)]
    assert other.bias.tolist() == [f32(0.5), -f32(2) * f32(0.4)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"raw_std": (1, 2, 3, 0)}, "std positive"),
        ({"raw_std": (1, 2, 3)}, "a number per latent channel"),
        ({"raw_mean": (1, 2, 3, float("nan"))}, "a number per latent channel"),
        ({"raw_mean": 1.0, "raw_std": 1.0}, "a number per latent channel"),
        ({"batch_size": 0}, "at least 1 image, got 0"),
    ],
)
def test_bad_constructor_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        StabilityVAEEncoder(**arguments)


def test_raw_latents_are_the_posterior_of_pixels_over_255(tiny, encoder):
    pixels = random_pixels()
    raw = encoder.encode_pixels(pixels)
    assert raw.dtype == torch.float32
    assert raw.shape == (5, 8, 8, 8)
    for image, got in zip(pixels.numpy(), raw, strict=True):
        x = torch.from_numpy(np.array([[[[f32(v) / f32(255) for v in row] for row in c] for c in image]], dtype=f32))
        moments = tiny[1].quant_conv(tiny[1].encoder(x))[0].numpy()
        std = np.exp(0.5 * np.clip(moments[4:].astype(np.float64), -30, 20))
        np.testing.assert_allclose(got[:4].numpy(), moments[:4], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got[4:].numpy(), std, rtol=1e-4, atol=1e-5)


def test_final_latents_are_standardised_draws(encoder):
    raw = torch.randn(2, 8, 3, 5, generator=torch.Generator().manual_seed(1)).abs()
    final = encoder.encode_latents(raw, torch.Generator().manual_seed(7))
    noise = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(7)).numpy()
    assert final.dtype == torch.float32
    for n, c, i, j in np.ndindex(2, 4, 3, 5):
        mean, std = f32(raw[n, c, i, j]), f32(raw[n, c + 4, i, j])
        scale = 0.5 / RAW_STD[c]
        expected = (mean + std * noise[n, c, i, j]) * scale - RAW_MEAN[c] * scale
        assert abs(float(final[n, c, i, j]) - expected) < 1e-5


def test_noise_comes_from_the_default_generator_or_the_given_one(encoder):
    raw = torch.ones(1, 8, 2, 2)
    torch.manual_seed(3)
    a = encoder.encode_latents(raw)
    torch.manual_seed(3)
    b = encoder.encode_latents(raw)
    c = encoder.encode_latents(raw)
    assert torch.equal(a, b)
    assert not torch.equal(b, c)
    state = torch.get_rng_state()
    encoder.encode_latents(raw, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)
    raw[:, 4:] = 0  # a posterior of no width leaves nothing to draw
    assert torch.equal(encoder.encode_latents(raw), encoder.encode_latents(raw))


def test_decoding_inverts_clamps_and_cuts_off(tiny, encoder):
    final = 3 * torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    decoded = encoder.decode(final)
    assert decoded.dtype == torch.uint8
    assert decoded.shape == (4, 3, 8, 8)
    expected = []
    for latents in final.numpy():
        raw = np.stack([(latents[c] - encoder.bias[c]) / encoder.scale[c] for c in range(4)])[None]
        image = tiny[1].decoder(tiny[1].post_quant_conv(torch.from_numpy(raw)))[0]
        expected.append([int(min(max(v, 0.0), 1.0) * 255) for v in image.flatten().tolist()])
    difference = np.abs(decoded.flatten(1).numpy().astype(int) - np.array(expected))
    assert difference.max() <= 1  # where the last bits of another batch size fall across the edge of a level
    assert (difference == 0).mean() > 0.998
    assert {0, 255} < set(np.array(expected).flatten().tolist())


class BrightnessVAE(torch.nn.Module):
    """Stands in for a VAE whose output is known exactly: the first latent channel, in [0, 1] and beyond."""

    def decode(self, x):
        return types.SimpleNamespace(sample=x[:, :1].expand(-1, 3, -1, -1))


def test_vae_quantiser_cuts_off_at_the_edge_of_every_level():
    encoder = StabilityVAEEncoder("unused", [0.0] * 4, [0.5] * 4)  # scale 1, bias 0
    encoder._vae = BrightnessVAE()
    edges = np.array([k / 255 for k in range(257)], dtype=f32)
    values = np.concatenate([edges, np.nextafter(edges, f32(-9)), np.nextafter(edges, f32(9)), [-3, 7, np.inf]])
    values = np.resize(values.astype(f32), 29 * 27).reshape(1, 1, 29, 27)
    x = torch.from_numpy(values).expand(1, 4, 29, 27)
    expected = [int(f32(min(max(v, f32(0)), f32(1))) * f32(255)) for v in values.flatten()]
    assert encoder.decode(x)[0, 0].flatten().tolist() == expected
    assert set(expected) == set(range(256))
    with pytest.raises(ValueError, match="hold NaN"):
        encoder.decode(torch.full((1, 4, 2, 2), float("nan")))


def test_batch_size_changes_memory_only(tiny):
    final = torch.randn(7, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    pixels = random_pixels(7)
    results = []
    for batch_size in (1, 3, 7, 50):
        encoder = StabilityVAEEncoder(str(tiny[0]), batch_size=batch_size)
        results.append((encoder.decode(final).int(), encoder.encode_pixels(pixels)))
    for images, raw in results[1:]:
        difference = (images - results[0][0]).abs()
        assert difference.max() <= 1
        assert (difference == 0).float().mean() > 0.999
        torch.testing.assert_close(raw, results[0][1], rtol=1e-4, atol=1e-5)


def test_batches_are_no_larger_than_asked():
    encoder = StabilityVAEEncoder("unused", batch_size=3)
    sizes = []

    class Recorder(BrightnessVAE):
        def decode(self, x):
            sizes.append(len(x))
            return super().decode(x)

    encoder._vae = Recorder()
    encoder.decode(torch.zeros(7, 4, 2, 2))
    assert sizes == [3, 3, 1]


def test_vae_of_no_images(encoder):
    assert encoder.decode(torch.zeros(0, 4, 4, 4)).shape == (0, 3, 8, 8)
    assert encoder.decode(torch.zeros(0, 4, 4, 4)).dtype == torch.uint8
    assert encoder.encode(random_pixels(0)).shape == (0, 4, 8, 8)


def test_encode_then_decode_shapes(encoder):
    final = encoder.encode(random_pixels(3), torch.Generator().manual_seed(0))
    assert final.shape == (3, 4, 8, 8)
    assert final.dtype == torch.float32
    assert encoder.decode(final).shape == (3, 3, 16, 16)


@pytest.mark.parametrize(
    ("method", "x", "message"),
    [
        ("encode", torch.zeros(1, 3, 16, 16), r"uint8 \[N, 3, H, W\], got float32"),
        ("encode_pixels", torch.zeros(1, 4, 16, 16, dtype=torch.uint8), r"got uint8 \[1, 4, 16, 16\]"),
        ("encode_latents", torch.zeros(1, 4, 2, 2), r"\[N, 8, H, W\], got float32 \[1, 4, 2, 2\]"),
        ("encode_latents", torch.zeros(1, 8, 2, 2, dtype=torch.uint8), "got uint8"),
        ("decode", torch.zeros(1, 3, 2, 2), r"\[N, 4, H, W\], got float32 \[1, 3, 2, 2\]"),
        ("decode", torch.zeros(1, 4, 2, 2, dtype=torch.int32), "got int32"),
    ],
)
def test_vae_refuses_what_it_is_not_made_for_before_loading_anything(method, x, message):
    with pytest.raises(ValueError, match=message):
        getattr(StabilityVAEEncoder("nowhere"), method)(x)


# --- VAE: where it comes from ----------------------------------------------------------------------------


def cached(cache, name, source, files=encoders.VAE_FILES):
    """Lay the files out as the hub's own cache does."""
    repository = cache / ("models--" + name.replace("/", "--"))
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for file in files:
        shutil.copy(source / file, snapshot / file)
    return snapshot


def bias_of(encoder):
    """A number that tells VAEs of different seeds apart."""
    encoder.init("cpu", offline=True)
    return float(encoder._vae.decoder.conv_in.bias[0])


def test_order_of_places(tmp_path, monkeypatch, tiny, no_network):
    """Override, folder, hub cache, EDM2's cache: each is found only when those before are not there."""
    values = [float(save_tiny_vae(tmp_path / "v" / str(seed), seed).decoder.conv_in.bias[0]) for seed in range(4)]
    assert len(set(values)) == 4
    source = tmp_path / "v"
    monkeypatch.chdir(tmp_path)
    edm2 = Path(os.environ["DNNLIB_CACHE_DIR"], "diffusers")
    cached(edm2, "who/vae", source / "3")
    assert bias_of(StabilityVAEEncoder("who/vae")) == values[3]
    cached(tmp_path / "hub", "who/vae", source / "2")
    assert bias_of(StabilityVAEEncoder("who/vae")) == values[2]
    shutil.copytree(source / "1", tmp_path / "who" / "vae")
    assert bias_of(StabilityVAEEncoder("who/vae")) == values[1]
    monkeypatch.setenv("EDM2_VAE", str(source / "0"))
    assert bias_of(StabilityVAEEncoder("who/vae")) == values[0]
    assert no_network == []


def test_incomplete_copy_in_the_cache_is_passed_over(tmp_path, tiny):
    cached(tmp_path / "hub", "who/vae", tiny[0], files=["config.json"])
    with pytest.raises(FileNotFoundError, match="in no cache"):
        StabilityVAEEncoder("who/vae").init("cpu", offline=True)


def test_offline_without_a_copy_asks_nobody(no_network):
    with pytest.raises(FileNotFoundError) as error:
        StabilityVAEEncoder().init("cpu", offline=True)
    for text in ("stabilityai/sd-vae-ft-mse", "offline was asked for", "EDM2_VAE", "config.json", "safetensors"):
        assert text in str(error.value)
    assert no_network == []


def test_the_hubs_own_offline_switch_is_respected(no_network, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"could not be fetched .*EDM2_VAE"):
        StabilityVAEEncoder().init("cpu")
    assert no_network == []


def test_hub_is_asked_last_once_and_only_for_the_two_files(tmp_path, tiny, monkeypatch):
    calls = []

    def download(name, *, allow_patterns):
        calls.append((name, sorted(allow_patterns)))
        return str(cached(tmp_path / "hub", name, tiny[0]))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    first, second = StabilityVAEEncoder("who/vae"), StabilityVAEEncoder("who/vae")
    first.init("cpu")
    first.init("cpu")
    second.init("cpu")
    assert calls == [("who/vae", ["config.json", "diffusion_pytorch_model.safetensors"])]


def test_hub_failure_is_passed_on_with_its_reason(monkeypatch):
    class Odd(Exception):
        pass

    def download(*_, **__):
        raise Odd("429 too\nmany requests")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(FileNotFoundError, match=r"could not be fetched \(429 too many requests\).*EDM2_VAE") as error:
        StabilityVAEEncoder("who/vae").init("cpu")
    assert isinstance(error.value.__cause__, Odd)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a/b/c", "~/nowhere"])
def test_missing_folder_is_not_taken_for_a_name_on_the_hub(name, no_network):
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        StabilityVAEEncoder(name).init("cpu")
    assert no_network == []


def test_override_to_a_missing_folder(monkeypatch, tiny):
    monkeypatch.setenv("EDM2_VAE", "elsewhere")
    with pytest.raises(FileNotFoundError, match="EDM2_VAE=elsewhere: there is no such folder"):
        StabilityVAEEncoder(str(tiny[0])).init("cpu")


def test_incomplete_folder_says_what_it_lacks(tmp_path, tiny):
    shutil.copy(tiny[0] / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"lacks diffusion_pytorch_model\.safetensors"):
        StabilityVAEEncoder(str(tmp_path)).init("cpu")
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"a pickle, which is not opened")
    with pytest.raises(FileNotFoundError, match="lacks"):
        StabilityVAEEncoder(str(tmp_path)).init("cpu")


def break_json(folder):
    (folder / "config.json").write_text("{")


def break_other_class(folder):
    (folder / "config.json").write_text('{"_class_name": "UNet2DModel", "block_out_channels": "wide"}')


def break_no_blocks(folder):
    """An IndexError inside diffusers."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "block_out_channels": []}))


def break_truncated(folder):
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def break_missing_tensor(folder):
    from safetensors.torch import load_file, save_file

    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["decoder.conv_in.bias"]
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "damage", [break_json, break_other_class, break_no_blocks, break_truncated, break_missing_tensor]
)
def test_broken_folder(tmp_path, tiny, damage):
    folder = tmp_path / "vae"
    shutil.copytree(tiny[0], folder)
    damage(folder)
    with pytest.raises(OSError, match=r"the VAE in .*(is broken|lacks 1 tensors.*conv_in).*fetch it again") as error:
        StabilityVAEEncoder(str(folder)).init("cpu")
    assert not isinstance(error.value, FileNotFoundError)
    assert "\n" not in str(error.value)


def test_vae_with_other_latents(tmp_path):
    save_tiny_vae(tmp_path, latent_channels=8)
    with pytest.raises(ValueError, match="has 8 latent channels, the encoder 4"):
        StabilityVAEEncoder(str(tmp_path)).init("cpu")


def test_names_of_older_attention_layers_load(tmp_path, tiny):
    """The published file still has query, key, value, proj_attn; diffusers renames them."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny[0], tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, tensor in tensors.items():
        for new, old in names.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        renamed[key] = tensor
    assert renamed.keys() != tensors.keys()
    save_file(renamed, tmp_path / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    pixels = random_pixels(2)
    expected = StabilityVAEEncoder(str(tiny[0])).encode_pixels(pixels)
    assert torch.equal(StabilityVAEEncoder(str(tmp_path)).encode_pixels(pixels), expected)


def test_diffusers_not_installed(encoder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(RuntimeError, match=r"needs the package diffusers: pip install diffusers$"):
        encoder.decode(torch.zeros(1, 4, 2, 2))


def test_diffusers_broken(encoder, monkeypatch):
    class Broken(types.ModuleType):
        def __getattr__(self, name):
            raise ImportError("cannot import name 'thing' from 'transformers'")

    monkeypatch.setitem(sys.modules, "diffusers", Broken("diffusers"))
    with pytest.raises(RuntimeError, match=r"is installed, but cannot be imported.*'thing'"):
        encoder.init("cpu")


def test_loading_leaves_the_default_generator_alone():
    """Some releases of diffusers draw the parameters before they load them."""

    class Drawing(torch.nn.Module):
        config = types.SimpleNamespace(latent_channels=4)

        @classmethod
        def from_pretrained(cls, *_, **__):
            torch.randn(10)
            return cls(), {"missing_keys": [], "mismatched_keys": []}

    state = torch.get_rng_state()
    encoders._load_vae(Drawing, "anywhere", 4)
    assert torch.equal(torch.get_rng_state(), state)


def test_loaded_vae_is_frozen(encoder):
    encoder.init("cpu")
    assert not encoder._vae.training
    assert not any(parameter.requires_grad for parameter in encoder._vae.parameters())
    assert not encoder.decode(torch.zeros(1, 4, 2, 2, requires_grad=True)).requires_grad


# --- identity --------------------------------------------------------------------------------------------


def digests(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in encoders.VAE_FILES}


def test_rgb_identity():
    assert StandardRGBEncoder().identity() == {"class": "StandardRGBEncoder"}


def test_vae_identity_is_name_content_and_standardisation(tiny, tmp_path, monkeypatch):
    encoder = StabilityVAEEncoder("who/vae", batch_size=3)
    monkeypatch.setenv("EDM2_VAE", str(tiny[0]))
    with pytest.raises(RuntimeError, match="call init first"):
        encoder.identity()
    encoder.init("cpu")
    identity = encoder.identity()
    assert json.loads(json.dumps(identity)) == identity == {
        "class": "StabilityVAEEncoder",
        "vae_name": "who/vae",
        "vae_sha256": digests(tiny[0]),
        "scale": encoder.scale.astype(float).tolist(),
        "bias": encoder.bias.astype(float).tolist(),
    }  # fmt: skip
    monkeypatch.delenv("EDM2_VAE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub2"))
    cached(tmp_path / "hub2", "who/vae", tiny[0])
    again = StabilityVAEEncoder("who/vae")
    again.init("cpu", offline=True)
    assert again.identity() == identity, "the same files from another place, in other batches"


def test_vae_identity_tells_weights_configurations_and_statistics_apart(tiny, tmp_path):
    save_tiny_vae(tmp_path / "seed" / "tiny", seed=1)
    shutil.copytree(tiny[0], tmp_path / "config" / "tiny")
    config = tmp_path / "config" / "tiny" / "config.json"
    config.write_text(config.read_text() + " ")
    folders = [tiny[0], tmp_path / "seed" / "tiny", tmp_path / "config" / "tiny"]
    made = [StabilityVAEEncoder(str(folder)) for folder in folders]
    made += [StabilityVAEEncoder(str(tiny[0]), final_std=1), StabilityVAEEncoder(str(tiny[0]), final_mean=1)]
    for encoder in made:
        encoder.init("cpu")
    texts = {json.dumps(encoder.identity(), sort_keys=True) for encoder in made}
    assert len(texts) == 5
    for text in texts:
        assert str(tmp_path) not in text
        assert str(tiny[0].parent) not in text
        assert json.loads(text)["vae_name"] == "tiny"


def test_vae_identity_is_that_of_what_was_loaded(tiny, tmp_path):
    """Files that change afterwards, as downloads may, change neither the pixels nor what is said of them."""
    folder = tmp_path / "vae"
    shutil.copytree(tiny[0], folder)
    encoder = StabilityVAEEncoder(str(folder))
    encoder.init("cpu")
    (folder / "config.json").write_text("{}")
    encoder.init("cpu")
    assert encoder.identity()["vae_sha256"] == digests(tiny[0])
    assert copy.deepcopy(encoder).identity() == encoder.identity()


# --- pickles ---------------------------------------------------------------------------------------------


def test_pickle_leaves_the_vae_out(encoder):
    encoder.init("cpu")
    data = pickle.dumps({"encoder": encoder})
    assert len(data) < 30_000
    assert encoder._vae is not None
    loaded = pickle.loads(data)["encoder"]
    assert isinstance(loaded, StabilityVAEEncoder)
    assert loaded._vae is None
    assert "_vae_sha256" not in encoder.__reduce__()[1][0]["state"]
    with pytest.raises(RuntimeError, match="call init first"):
        loaded.identity()
    assert loaded.init_args == encoder.init_args == (encoder.vae_name,)
    assert set(loaded.__dict__) == {"vae_name", "scale", "bias", "batch_size", "_vae", "_init_args", "_init_kwargs"}
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.decode(x), encoder.decode(x))
    assert copy.deepcopy(encoder)._vae is not encoder._vae


def test_source_stands_alone():
    """At the top it imports nothing that a reader of the pickle may lack."""
    tree = ast.parse(Path(encoders.__file__).read_text())
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    foreign = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"numpy", "torch", "torch_utils.persistence"}


def test_embedded_source_runs_by_itself(encoder):
    """A reader that has other classes of these names executes the text in the file and gets the same pixels."""
    meta = encoder.__reduce__()[1][0]
    meta = {**meta, "module_src": meta["module_src"] + "\n# text of another release\n"}
    with pytest.raises(ValueError, match="refused to execute"):
        persistence._reconstruct_persistent_obj(meta)
    with persistence.trusting():
        other = persistence._reconstruct_persistent_obj(meta)
    assert type(other).__module__ != "training.encoders"
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(other.decode(x), encoder.decode(x))
    assert other.identity() == encoder.identity()
