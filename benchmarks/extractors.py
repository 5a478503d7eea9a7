"""Features of images: the networks of FID and FD-DINOv2, with random weights."""

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.networks import no_grad
from benchmarks.side_by_side import Options, Result, Way, compare
from edm2_guidance.metrics.detectors import Detector
from edm2_guidance.metrics.extractors.networks.dinov2 import Attention, DinoV2
from edm2_guidance.metrics.extractors.networks.inception import InceptionV3
from training.flops import cost_of


class _PlainAttention(Attention):
    """Attention as two products with a softmax between."""

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        weights = (query * key.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1)
        attended: Tensor = self.proj((weights @ value).transpose(1, 2).reshape(batch, tokens, width))
        return attended


def plain_extractor(net: nn.Module) -> nn.Module:
    """A copy whose attention is plain; of Inception the network as it is."""
    made = copy.deepcopy(net)
    for layer in made.modules():
        if isinstance(layer, Attention):
            layer.__class__ = _PlainAttention
    return made


def extractors(options: Options) -> Mapping[str, tuple[nn.Module, int, int]]:
    """Network, features and images at a time of each."""
    batches = (1, 2) if options.quick else (64, 64) if options.device.type == "cuda" else (8, 1)
    vit: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 4} if options.quick else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inception, dinov2 = InceptionV3(), DinoV2(**vit)
    return {"Inception-v3": (inception, 2048, batches[0]), "DINOv2": (dinov2, vit.get("embed_dim", 1024), batches[1])}


def run(options: Options) -> Iterator[Result]:
    for name, (net, dim, batch) in extractors(options).items():
        net = net.eval().requires_grad_(False)
        images = torch.arange(batch * 3 * 64 * 64).mul(37).remainder(256).to(torch.uint8).reshape(batch, 3, 64, 64)
        meta = torch.empty([1, 3, 64, 64], dtype=torch.uint8, device="meta")
        work = 2.0 * batch * cost_of(copy.deepcopy(net).to("meta"), meta).multiply_adds
        net, images = net.to(options.device), images.to(options.device)
        detector = Detector(name, {name: dim}, MappingProxyType({}), net, options.device)
        yardstick = Way("plain network", no_grad(partial(plain_extractor(net), images)))
        ways = [Way("Detector", partial(_features, detector, images), work, "matmul float32")]
        yield from compare("features", f"{name}, batch {batch}, 64x64", yardstick, ways, options)


def _features(detector: Detector, images: Tensor) -> Tensor:
    return detector(images)[detector.name]
