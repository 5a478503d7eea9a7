"""One evaluation of a network, in each of its forms and precisions, beside the plain one."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.plain_network import plain
from benchmarks.side_by_side import Options, Result, Way, compare
from dnnlib.places import find_file
from training.flops import cost_of
from training.network_io import load_network
from training.networks_edm2 import Precond

LATENTS = {"img_resolution": 64, "img_channels": 4, "label_dim": 1000}  # of ImageNet at 512x512
PUBLISHED: dict[str, dict[str, Any]] = {
    "XS": {**LATENTS, "model_channels": 128},
    "S": {**LATENTS, "model_channels": 192},
}


@dataclass(frozen=True)
class Case:
    """A network and the batch that it is evaluated on. name: of `PUBLISHED`, or of a file that ships."""

    name: str
    batch: int

    def __str__(self) -> str:
        return f"{self.name}, batch {self.batch}"


def cases(options: Options) -> list[Case]:
    """What is evaluated on this device; quick: little of the smallest."""
    if options.quick:
        return [Case("mnist16-weak", 8)]
    digits = [Case(f"mnist16-{kind}", 64) for kind in ("cond", "uncond", "weak")]
    large = 32 if options.device.type == "cuda" else None
    return [Case("XS", large or 2), Case("S", large or 1), *digits]


@cache
def network(name: str) -> Precond:
    """The network, on the CPU: one that ships, or a published architecture with random weights, float16 as in files."""
    if name not in PUBLISHED:
        return load_network(find_file(name), device="cpu").net
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Precond(**PUBLISHED[name])
    for key, weights in net.named_parameters():
        if key.endswith("gain"):
            torch.nn.init.constant_(weights, 0.3)  # they begin at 0, which would make all else idle
    return net.half().eval().requires_grad_(False)


def inputs(net: Precond, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """x, sigma and labels of an evaluation in the middle of sampling."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(batch, net.img_channels, net.img_resolution, net.img_resolution, generator=draws)
    labels = None
    if net.label_dim > 0:
        labels = torch.nn.functional.one_hot(torch.arange(batch) % net.label_dim, net.label_dim).float().to(device)
    return x.to(device), torch.tensor(0.7, device=device), labels


def flops(net: Precond, batch: int) -> float:
    """Floating-point operations of an evaluation, two per multiply-add."""
    x, sigma, labels = (None if each is None else each.to("meta") for each in inputs(net, 1, torch.device("cpu")))
    assert x is not None
    return 2 * batch * cost_of(copy.deepcopy(net).to("meta"), x, sigma, labels).multiply_adds


def precisions(device: torch.device) -> list[tuple[str, list[str]]]:
    """Pairs of a plain precision, and those of the toolkit's that are set beside it."""
    if device.type == "cuda":
        return [("float16", ["float16", "bfloat16"]), ("float32", ["float32", "tf32"])]
    units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return [("float32", ["float32", "bfloat16"] if units else ["float32"])]


def forms_of(case: Case, precision: str, options: Options) -> list[str]:
    """What is worth its time: compiling takes up to a minute, of a large network minutes of a processor."""
    cuda = options.device.type == "cuda"
    worth = case.name in ("XS", "mnist16-cond") if cuda else case.name in ("mnist16-cond", "mnist16-weak")
    compiled = worth and precision == ("float16" if cuda else "float32") and not options.quick
    plain = precision in ("float16", "float32")
    return ["plain"] * plain + ["prepared"] + ["compiled"] * compiled


def run(options: Options) -> Iterator[Result]:
    """Lines of all networks; the plain form, `training.networks_edm2` itself, is one of the ways."""
    for case in cases(options):
        for plain_precision, ours in precisions(options.device):
            yield from _evaluations(case, plain_precision, ours, options)
    if options.device.type == "cpu" and len(precisions(options.device)[0][1]) == 1:
        yield Result("evaluation", "all", "bfloat16", note="left out: this processor has no bfloat16 matrix units")


def _evaluations(case: Case, plain_precision: str, ours: list[str], options: Options) -> list[Result]:
    from training.inference_form import prepare

    net, device = network(case.name), options.device
    x, sigma, labels = inputs(net, case.batch, device)
    work = flops(net, case.batch)

    def way(name: str, precision: str, make: Callable[[Precond], Callable[..., Tensor]]) -> Way:
        before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
        made = make(copy.deepcopy(net).to(device))
        weights = torch.cuda.memory_allocated() - before if device.type == "cuda" else 0
        return Way(name, no_grad(partial(made, x, sigma, labels)), work, f"matmul {precision}", weights)

    yardstick = way(f"as published, {plain_precision}", plain_precision, partial(plain, precision=plain_precision))
    ways = [
        way(f"{form} {precision}", precision, partial(prepare, form=form, precision=precision))
        for precision in ours
        for form in forms_of(case, precision, options)
    ]
    return compare("evaluation", str(case), yardstick, ways, options)


def no_grad(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call, in inference alone, as sampling makes it."""

    @torch.no_grad()
    def run() -> Any:
        return call()

    return run
