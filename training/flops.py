"""What one evaluation of a network costs, counted by torch on its meta device: no memory, no weights, any machine."""

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from training.network_inspect import inspect_network
from training.network_records import NETWORK_CLASSES, checked_arguments, empty_network
from training.networks_edm2 import Precond


@dataclass(frozen=True)
class Cost:
    """Of one evaluation of D for one image.

    parameters: count, buffers not included. multiply_adds: in convolutions, linear layers and attention; by_kind: the
    same, per kind of operation. input_shape: of the image that was evaluated.
    """

    parameters: int
    multiply_adds: int
    by_kind: dict[str, int]
    input_shape: tuple[int, ...]

    @property
    def gflops(self) -> float:
        """10^9 multiply-adds: what the papers call Gflops. They count elementwise work too, about 1 % more."""
        return self.multiply_adds / 1e9


def network_cost(arguments: dict[str, Any], class_name: str = "Precond") -> Cost:
    """Cost of the network that these constructor arguments make; ValueError if they make none."""
    if class_name not in NETWORK_CLASSES:
        raise ValueError(f"network class {class_name} is not known here (only {', '.join(NETWORK_CLASSES)})")
    net: Precond = empty_network(
        NETWORK_CLASSES[class_name], checked_arguments(class_name, arguments, "network"), "network"
    )
    image = torch.empty([1, net.img_channels, net.img_resolution, net.img_resolution], device="meta")
    labels = torch.empty([1, net.label_dim], device="meta") if net.label_dim > 0 else None
    return cost_of(net, image, torch.empty([], device="meta"), labels)


def file_cost(source: str | os.PathLike[str], *, offline: bool = False) -> Cost:
    """Cost of the network in a file (path or URL), as `network_cost`.

    Raises ValueError, with the reason, for a file that is refused; OSError if it cannot be had.
    """
    report = inspect_network(source, offline=offline)
    if report["refusal"] is not None:
        raise ValueError(f"{os.fspath(source)}: {report['refusal']}")
    return network_cost(report["network"]["arguments"], report["network"]["class"])


@torch.no_grad()
def cost_of(net: nn.Module, image: Tensor, *others: Tensor | None) -> Cost:
    """Cost of net(image, *others), all of it on the meta device, for one image [1,C,H,W]."""
    with FlopCounterMode(display=False) as counter:
        net.eval()(image, *others)
    by_kind: Counter[str] = Counter()
    for operation, flops in counter.get_flop_counts()["Global"].items():
        by_kind[_KINDS.get(str(operation), str(operation))] += flops // 2  # torch counts a multiply-add as two
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return Cost(parameters, by_kind.total(), dict(by_kind), tuple(image.shape))


_KINDS = {
    "aten.convolution": "convolutions",
    "aten.mm": "linear layers",
    "aten.addmm": "linear layers",
    "aten.bmm": "attention",
    "aten._scaled_dot_product_flash_attention": "attention",
    "aten._scaled_dot_product_efficient_attention": "attention",
    "aten._scaled_dot_product_flash_attention_for_cpu": "attention",
}
