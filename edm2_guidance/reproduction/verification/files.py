"""The published files: fetched, and compared with what is known of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.download import fetch
from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.metrics.detectors import find_weights, load_detector
from edm2_guidance.metrics.extractors.base import Extractor
from edm2_guidance.metrics.scoring import open_reference
from edm2_guidance.models import family_of, open_model
from edm2_guidance.papers.costs import VAE_BYTES, facts_of
from edm2_guidance.papers.references import REFERENCES
from edm2_guidance.papers.tables import run_of
from edm2_guidance.papers.train_presets import network_arguments
from edm2_guidance.reproduction.verification.check import Finding, Place, preset_for
from torch_utils.distributed import pick_device

IMAGENET = 1_281_167  # images that img512.pkl is of: ILSVRC 2012, all that it has to train on
#: How far features may lie apart, relative to their size, that two devices compute in float32.
FLOAT32 = 1e-3
#: Of the latents of the VAE, over ImageNet: arXiv 2312.02696, as network files have it.
RAW_MEAN, RAW_STD, FINAL_STD = (5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28), 0.5


@dataclass(frozen=True)
class Expected:
    """What is known of a network: parameters, about how many bytes its file has, constructor arguments."""

    parameters: int
    num_bytes: int
    arguments: Mapping[str, Any]


def expected(source: str) -> Expected:
    """Of a published network, by its URL."""
    name = source.rpartition("/")[2]
    facts = facts_of(name)
    return Expected(facts.params, facts.bytes, {"sigma_data": 0.5, "use_fp16": True, **network_arguments(run_of(name))})


def networks(place: Place, metric: str) -> Finding:
    """The networks of a setting: size, parameters, arguments, encoder. Nobody published hashes: they are noted."""
    found = Finding()
    sources = preset_for(metric).sources
    for source in sources:
        _check_network(found, source, place.offline)
    found.summary = f"{len(sources)} networks"
    return found


def _check_network(found: Finding, source: str, offline: bool) -> None:
    name, known = source.rpartition("/")[2].removesuffix(".pkl"), expected(source)
    report = family_of(source, offline=offline).inspect(source, offline=offline)
    found.about(f"{name}: size", report["bytes"], known.num_bytes)
    found.row(f"{name}: SHA-256", report["sha256"], "none published", fine=True)
    if report["refusal"] is not None:
        raise ValueError(f"{name}: {report['refusal']}")
    found.row(f"{name}: parameters", report["network"]["parameters"], known.parameters)
    found.row(f"{name}: tensors", report["network"]["tensors"], "of float16", fine=True)
    model: Any = open_model(source, offline=offline)
    given = report["network"]["arguments"]
    for argument, wanted in known.arguments.items():
        found.row(f"{name}: {argument}", getattr(model.net, argument, given.get(argument, "not given")), wanted)
    scale = np.divide(FINAL_STD, RAW_STD)
    for attribute, values in {"scale": scale, "bias": -np.multiply(RAW_MEAN, scale)}.items():
        ours = np.ravel(getattr(model.encoder, attribute, ()))
        fine = ours.shape == values.shape and bool(np.allclose(ours, values, rtol=1e-5))
        found.row(f"{name}: encoder.{attribute}", _numbers(ours), _numbers(values), fine=fine)


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.5g}" for value in values)


def statistics(place: Place) -> Finding:
    """Reference statistics, read, and found to be possible ones of such features."""
    found, named = Finding(), REFERENCES["img512"]
    size = fetch(named.source, offline=place.offline).stat().st_size
    metrics = [find_metric(name) for name in named.metrics]
    found.about("size", size, sum(8 * (metric.dim + metric.dim**2) for metric in metrics))
    reference = open_reference(named.source, named.metrics, offline=place.offline)
    found.row("SHA-256", reference.statistics.sha256, "none published", fine=True)
    for name, moments in reference.moments.items():
        found.row(f"{name}: images", moments.num_images, IMAGENET)
        values = np.linalg.eigvalsh(moments.cov)
        low, high = float(values[0]), float(values[-1])
        found.row(f"{name}: eigenvalues", f"{low:.3g} to {high:.3g}", "none below 0", fine=low >= -1e-6 * abs(high))
    lowest = float(reference.moments["fid"].mean.min())
    found.row("fid: lowest mean", f"{lowest:.3g}", "0 or more: they are after a ReLU", fine=lowest >= 0)
    found.summary = f"{size:,} bytes"
    return found


def vae(place: Place) -> Finding:
    """The VAE, fetched; a smooth picture must come through it."""
    found = Finding()
    model: Any = open_model(preset_for("fid").net, offline=True)
    model.load_decoder(offline=place.offline)
    found.row("decoded images", f"{model.image_size} pixels wide", f"{8 * model.shape[-1]} pixels wide")
    for name, digest in model.identity["encoder"].get("vae_sha256", {}).items():
        found.row(f"SHA-256 of {name}", digest, "none published", fine=True)
    weights = sum(each.numel() for each in model.encoder._vae.parameters())
    found.about("weights, in float32", 4 * weights, VAE_BYTES)
    picture = _picture()
    again = model.decode(model.encode(picture))
    alike = float(torch.corrcoef(torch.stack([picture.flatten().float(), again.flatten().float()]))[0, 1])
    found.row("a picture, encoded and decoded: correlation", f"{alike:.4f}", "0.9 or more", fine=alike >= 0.9)
    apart = float((picture.float() - again.float()).abs().mean())
    found.row("the same: levels of 255 apart, mean", f"{apart:.2f}")
    found.summary = f"correlation {alike:.4f}"
    return found


def detector(place: Place, metric: str) -> Finding:
    """An extractor: its weights pinned by hash, its features finite, and the device's those of the CPU."""
    spec: Extractor = find_metric(metric).extractor
    path = find_weights(spec, offline=place.offline)
    found = Finding(summary=path.name)
    if spec.weights.num_bytes:
        found.row("size", path.stat().st_size, spec.weights.num_bytes)
    on_cpu = load_detector(metric, offline=True)
    found.row("SHA-256", on_cpu.identity["weights_sha256"], spec.weights.sha256 or "that of the file that ships",
              fine=on_cpu.identity["published"])  # fmt: skip
    features = on_cpu(_picture())[metric]
    found.row("features", list(features.shape), [1, spec.features["pool"]])
    found.row("finite", bool(features.isfinite().all()), True)
    device = pick_device(place.device)
    if device.type != "cpu":
        apart = relative(load_detector(metric, device, offline=True)(_picture())[metric].cpu(), features)
        found.row(f"{device}: from the CPU's", f"{apart:.2e}", f"{FLOAT32:g} or less", fine=apart <= FLOAT32)
    return found


def _picture() -> Tensor:
    """A smooth colourful one: uint8 [1, 3, 128, 128]."""
    y, x = torch.meshgrid(torch.linspace(0, 6, 128), torch.linspace(0, 6, 128), indexing="ij")
    return (torch.stack([x.sin(), (x + y).cos(), (y - 1).sin()])[None] * 100 + 128).to(torch.uint8)


def relative(found: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference, relative to that of what is wanted; NaN if anything is not finite."""
    return float((found - wanted).double().square().mean().sqrt() / wanted.double().square().mean().sqrt())
