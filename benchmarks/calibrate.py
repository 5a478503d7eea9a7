"""Rates of this machine for `reproduce.py plan`, in a minute: networks in their forms, the VAE, the extractors."""

import copy
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.extractors import extractors
from benchmarks.networks import Case, flops, inputs, network, no_grad, precisions
from benchmarks.report import device_kind
from benchmarks.side_by_side import Options, Watch, Way
from benchmarks.vae import decoder
from edm2_guidance.metrics.extractors.networks.mnist import DigitClassifier
from edm2_guidance.papers.rates import Rates, keep_rates, read_rates
from training.flops import cost_of

CALLS = 3
SECONDS = 3.0  # after which one call is enough
FORMS = ("plain", "prepared")  # compiling takes longer than all of this


def calibrate(options: Options) -> None:
    """Measure, say what, and keep it; of `quick`, which has no time for networks of a size that counts, nothing."""
    before = [] if options.quick else _kept()
    measured = list(rates(options))
    kept = "not kept: --quick measures small work alone" if options.quick else f"kept in {keep_rates(measured, before)}"
    for each in measured:
        networks = ", ".join(f"{rate:.3g} TFLOP/s at {size:.3g} Gflops" for size, rate in each.networks)
        others = ", ".join(f"{name} {rate:.3g} images/s" for name, rate in each.extractors.items())
        vae = "" if each.decoder is None else f"; VAE {each.decoder:.3g} TFLOP/s"
        print(f"{each.device}, {each.form}, {each.precision}: {networks}; {others}{vae}")
    print(kept)


def _kept() -> list[Rates]:
    """What was measured before; none, with a warning, if that cannot be read."""
    try:
        return read_rates()
    except (ValueError, OSError) as error:
        print(f"warning: replaced, as it cannot be read: {error}", file=sys.stderr)
        return []


def rates(options: Options) -> Iterator[Rates]:
    """Of every form and precision; the VAE and the extractors compute in float32 beside all of them."""
    device, name = options.device, device_kind(options.device)
    images = {kind: per_second(work, options) * count for kind, work, count in _extractors(options)}
    vae, decode = decoder(options), None
    if vae is not None:
        net, latents = vae
        decode = tera(cost_of(_Decoding(copy.deepcopy(net).to("meta")), latents[:1].to("meta")).multiply_adds)
        decode *= len(latents) * per_second(no_grad(partial(_Decoding(net), latents)), options)
    for precision in dict.fromkeys(each for _, ours in precisions(device) for each in ours):
        for form in FORMS:
            if form == "plain" and precision not in ("float16", "float32"):
                continue
            sizes = sorted(_network(case, form, precision, options) for case in _cases(options))
            source = f"measured on {name}, {form}, {precision}"
            yield Rates(sizes, source, decode, images, name, device.type, form, precision)


def _cases(options: Options) -> list[Case]:
    large = options.device.type == "cuda"
    digits = Case("mnist16-cond", 8 if options.quick else 64)
    return [digits] if options.quick else [digits, Case("XS", 32 if large else 2), *([Case("S", 32)] if large else [])]


def _network(case: Case, form: str, precision: str, options: Options) -> tuple[float, float]:
    """G operations of an evaluation of one image, and T operations per second of the batch."""
    from training.inference_form import prepare

    net = network(case.name)
    made = prepare(copy.deepcopy(net).to(options.device), form, precision)
    run = no_grad(partial(made, *inputs(net, case.batch, options.device)))
    one = flops(net, 1) / 2
    return one / 1e9, tera(one) * case.batch * per_second(run, options)


def _extractors(options: Options) -> Iterator[tuple[str, Callable[[], Any], int]]:
    """Name of the features in files, a call, and the images that it takes."""
    nets: list[tuple[str, nn.Module, int, int]] = [("fd_mnist", DigitClassifier(), 64, 16)]
    for name, (net, _, batch) in zip(("fid", "fd_dinov2"), extractors(options).values(), strict=True):
        nets.append((name, net, batch, 64))
    for name, net, batch, size in nets:
        ready = net.eval().requires_grad_(False).to(options.device)
        images = torch.zeros(batch, 3, size, size, dtype=torch.uint8, device=options.device)
        yield name, no_grad(partial(ready, images)), batch


class _Decoding(nn.Module):
    """The VAE's decoder, as a module that is called."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        decoded: Tensor = self.vae.decode(latents).sample
        return decoded


def tera(count: float) -> float:
    return count / 1e12


def per_second(run: Callable[[], Any], options: Options) -> float:
    """Calls per second, median of a few."""
    watch = Watch(Way("", run), options.device)
    watch.warm_up()
    while len(watch.seconds) < CALLS and sum(watch.seconds) < SECONDS:
        watch.time()
    return 1 / statistics.median(watch.seconds)
