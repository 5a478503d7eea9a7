"""The registry of detectors: pinned weights, local overrides, refusals, and the contract of their input."""

import hashlib
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from edm2_guidance.metrics import detectors
from edm2_guidance.metrics.catalog import extractors, find_extractor
from edm2_guidance.metrics.detectors import Detector, load_detector
from edm2_guidance.metrics.evaluation import check_image_sizes
from edm2_guidance.metrics.extractors.mnist import Mnist
from edm2_guidance.metrics.extractors.networks.mnist import DigitClassifier

PRETRAINED = Path(__file__).resolve().parents[2] / "edm2_guidance" / "pretrained"


@pytest.fixture
def digit_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return DigitClassifier().state_dict()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_published_weights_are_pinned() -> None:
    fid, dino = (find_extractor(name).weights for name in ("fid", "fd_dinov2"))
    assert fid.sha256 == "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
    assert fid.source.startswith("https://github.com/toshas/torch-fidelity/releases/download/")
    assert [url.rsplit("/", 1)[-1] for url in fid.mirrors] == ["pt_inception-2015-12-05-6726825d.pth"]
    assert dino.sha256 == "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"
    assert dino.source == "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"


def test_every_detector_builds_with_its_feature_dimension() -> None:
    for spec in extractors().values():
        with torch.device("meta"):
            net = spec.build().eval()
            size = spec.image_size if spec.image_size is not None else 224
            assert net(torch.zeros(2, 3, size, size, dtype=torch.uint8)).shape == (2, spec.features["pool"])


def test_published_weights_are_fetched_with_hash_and_mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def fetch(source: str, **kwargs: Any) -> Path:
        asked.append((source, kwargs))
        raise FileNotFoundError("stop here")

    monkeypatch.setattr(detectors, "fetch", fetch)
    with pytest.raises(FileNotFoundError, match="stop here"):
        load_detector("fid", offline=True)
    spec = find_extractor("fid").weights
    assert asked == [(spec.source, {"sha256": spec.sha256, "mirrors": spec.mirrors, "offline": True})]


def test_missing_weights_offline_say_what_to_do() -> None:
    with pytest.raises(OSError, match=r"weights-inception-2015-12-05-6726825d\.pth"):
        load_detector("fid", offline=True)


def test_fid_from_a_local_file(inception_golden: Any, relative_error: Callable[..., float], tmp_path: Path) -> None:
    arrays, state = inception_golden
    path = tmp_path / "inception.pth"
    torch.save(state, path)
    detector = load_detector("fid", weights=path)
    assert detector.identities["fid"] == {
        "metric": "fid",
        "network": "InceptionV3",
        "weights_sha256": sha256(path),
        "published": False,
        "resize": "tf1-bilinear-299",
        "dtype": "float32",
    }
    features = detector(torch.from_numpy(arrays["images_32"][:1]))["fid"]
    assert features.dtype == torch.float32
    assert relative_error(features, arrays["pool2048_32"][:1]) < 1e-5
    several = load_detector("sfid", weights=path, features=["spatial", "logits", "pool"], keep=["logits"])
    assert several.keep == {"fid_logits"}
    found = several(torch.from_numpy(arrays["images_32"][:1]))
    assert {name: each.shape[1] for name, each in found.items()} == {"sfid": 2023, "fid_logits": 1008, "fid": 2048}
    assert torch.equal(found["fid"], features), "what else is asked for moves nothing"
    torch.testing.assert_close(found["fid_logits"], features @ state["fc.weight"].T, rtol=1e-4, atol=1e-4)
    assert several.only(["sfid"], []).identities == {"sfid": {**detector.identities["fid"], "metric": "sfid"}}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_environment_variable_names_a_weight_file(
    suffix: str, digit_state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"digits{suffix}"
    if suffix == ".pth":
        torch.save(digit_state, path)
    else:
        safetensors.torch.save_file(digit_state, path)
    monkeypatch.setenv("EDM2_FD_MNIST_WEIGHTS", str(path))
    detector = load_detector("fd_mnist")
    assert detector.identity["weights_sha256"] == sha256(path)
    assert detector.identity["published"] is False
    assert torch.equal(detector.net.state_dict()["hidden.weight"], digit_state["hidden.weight"])
    by_argument = load_detector("fd_mnist", weights=PRETRAINED / "mnist16-detector.safetensors")
    assert by_argument.identity["published"] is True, "the argument goes before the variable"


def test_half_precision_weights_are_widened(digit_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in digit_state.items()}
    safetensors.torch.save_file(half, tmp_path / "half.safetensors")
    detector = load_detector("fd_mnist", weights=tmp_path / "half.safetensors")
    assert {value.dtype for value in detector.net.parameters()} == {torch.float32}
    assert torch.equal(detector.net.conv1.weight, half["conv1.weight"].float())


def broken(state: dict[str, torch.Tensor], kind: str) -> Any:
    if kind == "missing":
        return {key: value for key, value in state.items() if key != "hidden.weight"}
    if kind == "unknown":
        return {**state, "extra": torch.zeros(1)}
    if kind == "shape":
        return {**state, "hidden.weight": torch.zeros(10, 10)}
    if kind == "type":
        return {**state, "hidden.weight": torch.zeros(64, 768, dtype=torch.int8)}
    return [1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"does not fit DigitClassifier: hidden\.weight is missing"),
        ("unknown", "extra is not known"),
        ("shape", r"hidden\.weight has shape \[10, 10\], expected \[64, 768\]"),
        ("type", r"hidden\.weight is of type torch\.int8, expected torch\.float32"),
        ("list", "not a state dict"),
    ],
)
def test_weights_must_fit_exactly(
    kind: str, message: str, digit_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(broken(digit_state, kind), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message):
        load_detector("fd_mnist", weights=tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["garbage.pth", "garbage.safetensors", "empty.pth"])
def test_files_that_are_no_weights(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"" if "empty" in name else b"\x93 this is no weight file at all")
    with pytest.raises(ValueError, match=r"not a weight file"):
        load_detector("fd_mnist", weights=tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load_detector("fd_mnist", weights=tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    "error", [KeyError("x"), RecursionError(), AssertionError("x"), struct.error("x\ny"), IndexError()]
)
def test_whatever_a_library_raises_is_an_error_of_ours(
    error: Exception, digit_state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise error

    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(digit_state, path)
    monkeypatch.setattr("edm2_guidance.metrics.detectors.load_file", fail)
    with pytest.raises(ValueError, match=r"w\.safetensors is not a weight file") as caught:
        load_detector("fd_mnist", weights=path)
    assert "\n" not in str(caught.value)


def test_only_a_published_file_is_read_by_torch_itself(
    digit_state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one in the form that torch had before 1.6; of any other file the project's own reader says what it is."""
    path = tmp_path / "w.pth"
    torch.save(digit_state, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"w\.pth is not a weight file .*before torch 1\.6"):
        load_detector("fd_mnist", weights=path)
    monkeypatch.setattr(Mnist, "weights", replace(Mnist.weights, sha256=sha256(path)))
    assert load_detector("fd_mnist", weights=path).identity["published"] is True


class Hostile:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_weight_files_cannot_run_code(zipped: bool, tmp_path: Path) -> None:
    mark, path = tmp_path / "executed", tmp_path / "w.pth"
    hostile = {"conv1.weight": Hostile(f"touch {mark}")}
    if zipped:
        torch.save(hostile, path)
    else:
        path.write_bytes(pickle.dumps(hostile, 2))
    with pytest.raises(ValueError, match="not a weight file"):
        load_detector("fd_mnist", weights=path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 16, 16),
        torch.zeros(2, 1, 16, 16, dtype=torch.uint8),
        torch.zeros(2, 16, 16, 3, dtype=torch.uint8),
        torch.zeros(3, 16, 16, dtype=torch.uint8),
    ],
)
def test_only_uint8_rgb_is_taken(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[N, 3, H, W\]"):
        load_detector("fd_mnist")(images)


def test_no_images_give_no_features() -> None:
    assert load_detector("fd_mnist")(torch.zeros(0, 3, 16, 16, dtype=torch.uint8))["fd_mnist"].shape == (0, 64)


def test_features_carry_no_gradient_and_no_tf32() -> None:
    seen = {}

    class Probe(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.update(tf32=torch.backends.cudnn.allow_tf32, fixed=torch.backends.cudnn.deterministic)
            return torch.ones(len(images), 1, requires_grad=True) * 2

    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    features = Detector("probe", {"probe": 1}, {}, Probe(), torch.device("cpu"))(
        torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    )
    assert seen == {"tf32": False, "fixed": True}
    assert not features["probe"].requires_grad
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == before


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="use one of fid, fd_dinov2, fd_mnist"):
        find_extractor("kit")
    with pytest.raises(ValueError, match="one of torch, pil"):
        load_detector("fd_dinov2", resize="nearest", offline=True)


def test_image_size_is_checked_before_any_work() -> None:
    check_image_sizes(["fid"], (64, 48))
    check_image_sizes(["fid", "fd_mnist"], (16, 16))
    with pytest.raises(ValueError, match="16x16, these are 64x32"):
        check_image_sizes(["fid", "fd_mnist"], (32, 64))


def test_images_that_memory_does_not_hold_are_taken_in_parts() -> None:
    """The same features; the size that fits is kept, told once, and shown for the record."""
    detector = load_detector("fd_mnist")
    images = torch.randint(0, 256, (11, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole, sizes = detector(images)["fd_mnist"], []
    assert detector.reduced == {}

    def limit(module: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        sizes.append(len(args[0]))
        if len(args[0]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    detector.net.register_forward_pre_hook(limit)
    with pytest.warns(RuntimeWarning, match="fd_mnist: memory does not hold 11 images at a time; from now on 3"):
        parts = detector(images)["fd_mnist"]
    assert sizes == [11, 6, 3, 3, 3, 2]
    assert detector.reduced == {"fd_mnist": 3}
    assert torch.allclose(parts, whole, rtol=1e-5, atol=1e-6)
    sizes.clear()
    detector(images[:5])
    assert sizes == [3, 2]


def test_an_image_that_memory_does_not_hold_is_an_error_that_says_what_to_do() -> None:
    class Greedy(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.empty(10**15)

    detector = Detector("fid", {"fid": 1}, {}, Greedy(), torch.device("cpu"))
    with pytest.raises(
        RuntimeError, match=r"fid: not even one image fits into memory \(.*DefaultCPUAllocator.*--device"
    ):
        detector(torch.zeros(4, 3, 8, 8, dtype=torch.uint8))
