"""dataset_tool.py encode and decode, with a tiny VAE from a folder."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from edm2_guidance.commands.dataset_tool import main
from tests.pictures import write_set
from tests.words import last_of_each
from training.dataset import ImageFolderDataset
from training.encoders import StabilityVAEEncoder

LABELS = [3, 0, 2, 2, 1]


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """Folder of an AutoencoderKL that halves three times, as the real one."""
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("vae") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=(4, 4, 4, 4),
            norm_num_groups=2,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
        for parameter in vae.parameters():
            parameter.data.add_(0.15 * torch.randn_like(parameter))
    vae.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, [5, 16, 16, 3], dtype=np.uint8)


@pytest.fixture(scope="module")
def images(tmp_path_factory, pixels):
    return write_set(tmp_path_factory.mktemp("set") / "images.zip", pixels, LABELS)


def tool(command, vae, *args):
    return CliRunner().invoke(main, last_of_each([command, f"--model-url={vae}", "--device=cpu", *args]))


def arrays(path):
    with zipfile.ZipFile(path) as archive:
        return [np.load(io.BytesIO(archive.read(n))) for n in archive.namelist() if n.endswith(".npy")]


def test_means_and_deviations_of_every_image_with_its_label(vae, images, pixels, tmp_path):
    result = tool("encode", vae, f"--source={images}", f"--dest={tmp_path}/latents.zip", "--batch=2")
    assert result.exit_code == 0, result.output
    names = [f"00000/img-mean-std-{i:08d}.npy" for i in range(5)]
    with zipfile.ZipFile(tmp_path / "latents.zip") as archive:
        assert archive.namelist() == [*names, "dataset.json"]
        assert json.loads(archive.read("dataset.json")) == {
            "labels": [list(pair) for pair in zip(names, LABELS, strict=True)]
        }
    made = np.stack(arrays(tmp_path / "latents.zip"))
    assert (made.dtype, made.shape) == (np.float32, (5, 8, 2, 2))
    expected = StabilityVAEEncoder(str(vae)).encode_pixels(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())
    np.testing.assert_allclose(made, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert ImageFolderDataset(tmp_path / "latents.zip").label_dim == 4


def test_decoding_gives_the_images_of_the_means(vae, images, tmp_path):
    assert tool("encode", vae, f"--source={images}", f"--dest={tmp_path}/latents.zip").exit_code == 0
    result = tool("decode", vae, f"--source={tmp_path}/latents.zip", f"--dest={tmp_path}/images.zip", "--batch=3")
    assert result.exit_code == 0, result.output
    encoder = StabilityVAEEncoder(str(vae))
    mean = torch.from_numpy(np.stack(arrays(tmp_path / "latents.zip")))[:, :4]
    scale, bias = (torch.from_numpy(x).reshape(1, -1, 1, 1) for x in (encoder.scale, encoder.bias))
    expected = encoder.decode(mean * scale + bias).int()
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        for i in range(5):
            made = np.asarray(Image.open(io.BytesIO(archive.read(f"00000/img{i:08d}.png")))).astype(int)
            assert np.abs(made - expected[i].permute(1, 2, 0).numpy()).max() <= 1  # a batch moves sums by an ulp
        assert [label for _, label in json.loads(archive.read("dataset.json"))["labels"]] == LABELS


def test_the_first_images_to_a_folder_without_labels(vae, pixels, tmp_path):
    source = write_set(tmp_path / "set.zip", pixels)
    args = (f"--source={source}", f"--dest={tmp_path}/out", "--max-images=3", "--batch=2")
    assert tool("encode", vae, *args).exit_code == 0
    assert sorted(p.name for p in (tmp_path / "out" / "00000").iterdir()) == [
        f"img-mean-std-0000000{i}.npy" for i in range(3)
    ]
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == {"labels": None}


@pytest.mark.parametrize(
    ("command", "args", "message"),
    [
        ("encode", ["--source={tmp}/missing"], "missing does not exist"),
        ("encode", ["--source={tmp}/odd.zip"], "holds 12x12 images: the VAE takes multiples of 8"),
        ("encode", ["--source={tmp}/latents"], "encode reads images"),
        ("decode", ["--source={images}"], "decode reads sets of .npy latents"),
        ("decode", ["--source={tmp}/latents"], "latents have 8 channels"),
        ("encode", ["--source={images}", "--model-url=./nowhere"], "--model-url=./nowhere: "),
        ("encode", ["--source={images}", "--model-url=/nosuch"], "--model-url=DIR takes a folder with config.json"),
        ("encode", ["--source={images}", "--model-url=who/what", "--offline"], "--model-url=DIR takes a folder"),
        ("encode", ["--source={images}", "--model-url=who/what", "--offline"], "VAE who/what is in no cache"),
        ("encode", ["--source={images}", "--device=tpu"], "tpu"),
        ("encode", ["--source={images}", "--dest={tmp}/odd.zip"], "odd.zip exists"),
    ],
)
def test_bad_input_is_one_line_before_any_work(vae, images, pixels, tmp_path, monkeypatch, command, args, message):
    monkeypatch.delenv("EDM2_VAE", raising=False)
    write_set(tmp_path / "odd.zip", pixels[:, :12, :12])
    (tmp_path / "latents").mkdir()
    np.save(tmp_path / "latents" / "a.npy", np.zeros([3, 2, 2], np.float32))
    before = sorted(tmp_path.rglob("*"))
    args = [arg.format(tmp=tmp_path, images=images) for arg in args]
    result = tool(command, vae, f"--dest={tmp_path}/new.zip", *args)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert message in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bad_item_is_named_and_nothing_is_left(vae, pixels, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image if i < 4 else image[:8]).save(source / f"{i}.png")
    result = tool("encode", vae, f"--source={source}", f"--dest={tmp_path}/out.zip", "--batch=2")
    assert result.exit_code == 1
    assert "'4.png'" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_batches_that_memory_does_not_hold_are_halved(vae, images, tmp_path, monkeypatch, command):
    """The same set, up to last bits; a failed attempt adds nothing to it."""
    assert tool("encode", vae, f"--source={images}", f"--dest={tmp_path}/latents.zip").exit_code == 0
    source = images if command == "encode" else tmp_path / "latents.zip"
    sizes, method = [], "encode_pixels" if command == "encode" else "decode"
    plain = getattr(StabilityVAEEncoder, method)

    def limited(self, x):
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return plain(self, x)

    assert tool(command, vae, f"--source={source}", f"--dest={tmp_path}/whole.zip", "--batch=5").exit_code == 0
    monkeypatch.setattr(StabilityVAEEncoder, method, limited)
    with pytest.warns(
        RuntimeWarning, match=f"{command[:-1]}ing: memory does not hold 5 images at a time; from now on 2"
    ):
        result = tool(command, vae, f"--source={source}", f"--dest={tmp_path}/parts.zip", "--batch=5")
    assert result.exit_code == 0, result.output
    assert sizes == [5, 3, 2, 2, 1]
    with zipfile.ZipFile(tmp_path / "parts.zip") as parts, zipfile.ZipFile(tmp_path / "whole.zip") as whole:
        assert parts.namelist() == whole.namelist()
        assert parts.read("dataset.json") == whole.read("dataset.json")
        for name in [name for name in parts.namelist() if name != "dataset.json"]:
            ours, theirs = (read_item(archive.read(name)) for archive in (parts, whole))
            assert np.allclose(ours, theirs, rtol=1e-5, atol=1 if command == "decode" else 1e-5)


def read_item(data):
    stream = io.BytesIO(data)
    return np.load(stream) if data.startswith(b"\x93NUMPY") else np.asarray(Image.open(stream)).astype(int)
