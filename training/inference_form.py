"""Forms in which an EDM2 network computes D(x; sigma): as trained, rearranged once for inference, or compiled.

The plain form is `networks_edm2.Precond` itself: every call normalises all weights anew, and every constant of the
magnitude-preserving layers (arXiv 2312.02696, Eqs. 47 to 103) is a pass over the activations. Inference needs none of
that. The prepared form holds weights that are normalised, scaled by their gains (rounded as files have them, see
`effective_gain`), cast and laid out once. Into them go the constants that follow or precede a convolution: SiLU's, and
those of residual sums. What is left of a sum is one fused addition. Channels are last in memory, so that norms over
channels, and attention, read what lies together. The embeddings of all blocks are one product; that of the classes is
kept as long as the classes are.

Both compute the same function, up to rounding: about 1e-6 of D in float32. The compiled form is the prepared one
through torch.compile. On CUDA both are recorded as a graph per size of the batch, and replayed.

A call with a perturbation, and one that takes a gradient, is computed by the prepared form's modules, without either.
"""

import importlib.util
import math
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnnlib import inference
from edm2_guidance.recipe.perturbation import Attention, Layer, Perturbation
from torch_utils.memory import give_back_freed
from training.networks_edm2 import Block, MPConv, Precond, UNet, compute_dtype, effective_gain, normalize, resample
from training.perturbed import clipped, layers_of, passed_by, perturbed_unet

FORMS, PRECISIONS = inference.FORMS, tuple(inference.PRECISIONS.values())  # as recorded
# x [N,C,H,W], sigma [] or [N], one-hot classes [N or 1, label_dim] or None -> D [N,C,H,W], float32. By name
# label_embedding: what to make of the embedded classes; perturbation: what else is computed otherwise inside.
Denoiser = Callable[..., Tensor]
# Embedded classes, float32 [N or 1, E], as `UNet.emb_label` makes them -> others.
Change = Callable[[Tensor], Tensor]

_SILU = 1 / 0.596  # of networks_edm2.mp_silu
_EPS = 1e-4  # of networks_edm2.normalize


def usual_precision(net: nn.Module, device: torch.device) -> str:
    """As published: float16 on a CUDA device if the network allows it, else float32."""
    return str(compute_dtype(getattr(net, "use_fp16", False), False, device.type)).removeprefix("torch.")


def check_precision(precision: str, device: torch.device) -> None:
    """ValueError, saying what to take, for a precision that this kind of device does not compute in."""
    where = {"tf32": ("cuda",), "float16": ("cuda", "mps"), "bfloat16": ("cuda", "cpu", "mps"), "float32": None}
    if precision not in where:
        raise ValueError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    kinds = where[precision]
    if kinds is not None and device.type not in kinds:
        raise ValueError(f"a device of kind {device.type} does not compute in {precision}: take float32 or bfloat16")


def cannot_compile(device: torch.device) -> str | None:
    """Why torch.compile cannot work for this kind of device here; None if nothing is known to be in its way."""
    if device.type not in ("cpu", "cuda"):
        return f"devices of kind {device.type} are not compiled for"
    compilers = {"win32": "cl", "darwin": "clang++"}
    compiler = os.environ.get("CXX", compilers.get(sys.platform, "g++"))
    if device.type == "cuda":
        compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang", "cl")), "cc")
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed"
    if shutil.which(compiler) is None:
        return f"there is no compiler ({compiler})"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python's headers are not installed (python3-dev)"
    return None


def prepare(net: Precond, form: str, precision: str, batch: int | None = None) -> Denoiser:
    """The network in a form, ready to be called many times without gradients to its weights.

    The prepared and compiled forms take the weights over: `net` is left without them, so that memory holds them once.
    batch: how many images most calls will have. Where shapes are fixed (compiled, or a graph on CUDA), fewer are filled
    up to it, or to a half of it, a quarter ..., whichever is the next; so their last bits depend on their number and
    on `batch`, and on nothing that was called before.

    ValueError for a form or precision that there is not, or not on the device of the network.
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r} is none of {', '.join(FORMS)}")
    device = next(net.parameters()).device
    check_precision(precision, device)
    if form == "plain":
        return _Plain(net, precision)
    with torch.inference_mode(False):  # whose tensors autograd refuses, also when x has a gradient later
        prepared = Prepared(net, getattr(torch, "float32" if precision == "tf32" else precision)).eval()
    give_back_freed()
    denoise: Any = prepared
    if form == "compiled":
        reason = cannot_compile(device)
        if reason is not None:
            raise ValueError(f"form 'compiled': {reason}: take 'prepared'")
        denoise = _compiled(prepared)
    if device.type == "cuda":
        denoise = _Graphs(denoise)
    fixed = form == "compiled" or device.type == "cuda"
    return _Inference(prepared, denoise, precision, batch, fixed)


class _Plain:
    """The network as it is, in any precision of activations; its weights are normalised in float32, call by call."""

    def __init__(self, net: Precond, precision: str) -> None:
        self.net, self.precision = net, precision
        self.dtype = getattr(torch, "float32" if precision == "tf32" else precision)

    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        label_embedding: Change | None = None,
        perturbation: Perturbation | None = None,
    ) -> Tensor:
        net, how = self.net, perturbation
        with matmul_precision(self.precision, x.device), _changed_labels(net.unet, label_embedding):
            if how is None and self.precision in ("float32", "tf32", usual_precision(net, x.device)):
                denoised: Tensor = net(x, sigma, labels, force_fp32=self.dtype == torch.float32)
                return denoised
            if net.label_dim > 0 and labels is None:
                labels = torch.zeros([1, net.label_dim], device=x.device)
            around = Around(x, sigma, net.sigma_data)
            asked = around.inputs.to(self.dtype), around.noise, labels
            return around.denoised(net.unet(*asked) if how is None else perturbed_unet(net.unet, *asked, how))


@contextmanager
def _changed_labels(unet: UNet, change: Change | None) -> Iterator[None]:
    """Inside, the embedded classes are changed on their way."""
    if change is None or unet.emb_label is None:
        yield
        return
    hook = unet.emb_label.register_forward_hook(lambda module, inputs, made: change(made))
    try:
        yield
    finally:
        hook.remove()


class Around:
    """The preconditioning of EDM (arXiv 2206.00364, Table 1; 2312.02696, Eq. 7): what goes in, and D of what comes out.

    inputs: c_in x, float32 [N,C,H,W]. noise: c_noise, float32 [1] or [N].
    """

    def __init__(self, x: Tensor, sigma: Tensor, sigma_data: float) -> None:
        self._x = x.to(torch.float32)
        sigma = sigma.to(torch.float32).reshape(-1, 1, 1, 1)
        variance = sigma**2 + sigma_data**2
        self._skip = sigma_data**2 / variance
        self._out = sigma * sigma_data / variance.sqrt()
        self.inputs = self._x / variance.sqrt()
        self.noise = sigma.flatten().log() / 4

    def denoised(self, output: Tensor) -> Tensor:
        return torch.addcmul(self._skip * self._x, self._out, output.to(torch.float32))


@contextmanager
def matmul_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Inside, on CUDA: TF32 for float32 products and convolutions if `precision` is "tf32", full float32 if not."""
    if device.type != "cuda" or precision not in ("float32", "tf32"):
        yield
        return
    cudnn, matmul, allow = torch.backends.cudnn, torch.backends.cuda.matmul, precision == "tf32"
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = allow
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


# ----------------------------------------------------------------------------
# Weights.


def _weight(conv: nn.Module, gain: Tensor | float = 1, factor: float = 1) -> Tensor:
    """What `MPConv` multiplies by, float32, times a constant. The module is left without its weight."""
    assert isinstance(conv, MPConv)
    weight = conv.weight.to(torch.float32)
    weight = normalize(weight) * effective_gain(gain, weight[0].numel())
    conv.weight = None  # type: ignore[assignment]
    made: Tensor = weight.mul_(factor)
    return made


def _shares(t: float) -> tuple[float, float]:
    """The factors of a and b in `networks_edm2.mp_sum`."""
    norm = math.sqrt((1 - t) ** 2 + t**2)
    return (1 - t) / norm, t / norm


class _Conv(nn.Module):
    """A convolution that keeps the size, its weight ready."""

    weight: Tensor

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", weight.to(dtype).contiguous(memory_format=_layout(weight.device)))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = functional.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)
        return made


def _layout(device: torch.device) -> torch.memory_format:
    """How activations and weights lie in memory."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def _magnitude(x: Tensor, dim: int) -> Tensor:
    """Root of the mean square over a dimension, which is kept, plus epsilon, as `normalize` divides by; like x."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float32)
    made: Tensor = norm * (1 / math.sqrt(x.shape[dim])) + _EPS
    return made.to(x.dtype)


# ----------------------------------------------------------------------------
# The prepared network.


class _Block(nn.Module):
    """`networks_edm2.Block`: x [N,C,H,W] and the factor of each channel in the residual branch [N or 1, C', 1, 1]."""

    def __init__(self, block: nn.Module, dtype: torch.dtype, layer: Layer) -> None:
        super().__init__()
        assert isinstance(block, Block)
        self.layer = layer
        self.mode, self.taps, self.clip = block.resample_mode, block.resample_filter, block.clip_act
        self.encodes = block.flavor == "enc"
        self.keep, add = _shares(block.res_balance)
        self.res0 = _Conv(_weight(block.conv_res0, factor=_SILU), dtype)
        self.res1 = _Conv(_weight(block.conv_res1, factor=_SILU * add), dtype)
        self.skip, self.trunk = None, 1.0  # trunk: what makes of x, before it is added, what comes out alone
        if block.conv_skip is not None:
            # Of a decoder what comes out of it is added at once, and takes the factor of the sum with it.
            self.skip = _Conv(_weight(block.conv_skip, factor=1 if self.encodes else self.keep), dtype)
            self.trunk = 1.0 if self.encodes else 1 / self.keep
            self.keep = self.keep if self.encodes else 1.0
        # Else x is the caller's, who needs it again, until it is normalised.
        self.changes_size = self.mode != "keep" or self.skip is not None
        self.attention = _Attention(block, dtype) if block.num_heads > 0 else None

    def forward(self, x: Tensor, factor: Tensor, how: Perturbation | None = None) -> Tensor:
        """how: of this block; None for one that is as always."""
        in_place = not torch.is_grad_enabled()  # autograd needs what would be written over
        x = resample(x, self.taps, self.mode)
        if self.encodes:
            x = x if self.skip is None else self.skip(x)
            magnitude = _magnitude(x, 1)
            x = x.div_(magnitude) if in_place and self.changes_size else x / magnitude
        if self.encodes or self.skip is None:
            y = functional.silu(x)
        else:  # x was concatenated for this block alone
            x, y = self.skip(x), functional.silu(x, inplace=in_place)
        skipped = None if how is None or how.skip is None else how.skip(self.layer)
        if skipped is True:
            return clipped(x * self.trunk, self.clip)
        y = functional.silu(self.res0(y).mul_(factor), inplace=in_place)
        y = self.res1(y if how is None or how.dropout is None else how.dropout(self.layer, y))
        trunk = None if skipped is None else x * self.trunk
        x = y.add_(x, alpha=self.keep)
        if self.attention is not None:
            x = self.attention(x, None if how is None else how.attention)
        if skipped is not None and trunk is not None:
            x = passed_by(skipped, trunk, x)
        if self.clip is None:
            return x
        return x.clamp_(-self.clip, self.clip) if in_place else x.clamp(-self.clip, self.clip)


class _Attention(nn.Module):
    """The attention of a block, with the sum around it: x [N,C,H,W] -> [N,C,H,W]."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        super().__init__()
        assert block.attn_qkv is not None
        assert block.attn_proj is not None
        self.heads = block.num_heads
        self.keep, add = _shares(block.attn_balance)
        qkv = _weight(block.attn_qkv)  # rows in the order [head, channel, which]; wanted: [which, head, channel]
        rows = qkv.unflatten(0, (self.heads, -1, 3)).permute(2, 0, 1, 3, 4, 5).flatten(0, 2)
        self.qkv = _Conv(rows, dtype)
        self.proj = _Conv(_weight(block.attn_proj, factor=add), dtype)

    def forward(self, x: Tensor, attend: Attention | None = None) -> Tensor:
        """attend: in the place of softmax attention."""
        n, channels, height, width = x.shape
        qkv = self.qkv(x).permute(0, 2, 3, 1).reshape(n, height * width, 3, self.heads, channels // self.heads)
        qkv = qkv / _magnitude(qkv, 4)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [N, heads, H*W, channels per head], without a copy
        y = functional.scaled_dot_product_attention(q, k, v) if attend is None else attend(q, k, v)
        y = y.transpose(1, 2).reshape(n, height, width, channels).permute(0, 3, 1, 2)
        made: Tensor = self.proj(y)
        return made.add_(x, alpha=self.keep)


class Prepared(nn.Module):
    """`networks_edm2.Precond` for inference: (x, sigma, embedded classes or None) -> D, float32 [N,C,H,W].

    All weights are made here, once, from those of `net`, which are taken out of it. dtype: of the activations.
    """

    noise_weight: Tensor
    label_weight: Tensor | None
    factor_weight: Tensor

    def __init__(self, net: Precond, dtype: torch.dtype) -> None:
        super().__init__()
        unet = net.unet
        self.dtype, self.label_dim, self.sigma_data = dtype, net.label_dim, net.sigma_data
        self.concat = unet.concat_balance
        self.fourier = unet.emb_fourier
        noise, label = _shares(unet.label_balance) if unet.emb_label is not None else (1.0, 0.0)
        self.label_share = label
        self.register_buffer("noise_weight", _weight(unet.emb_noise, factor=noise))
        self.register_buffer("label_weight", _label_weight(unet, label * math.sqrt(max(net.label_dim, 1))))
        self.register_buffer("factor_weight", _factor_weights(unet))
        (first, *encoder), decoder, layers = unet.enc.values(), unet.dec.items(), iter(layers_of(unet))
        self.conv_in = _Conv(_weight(first), dtype)
        self.encoder = nn.ModuleList(_Block(block, dtype, next(layers)) for block in encoder)
        self.joins = ["block" in name for name, _ in decoder]
        self.decoder = nn.ModuleList(_Block(block, dtype, next(layers)) for _, block in decoder)
        self.conv_out = _Conv(_weight(unet.out_conv, unet.out_gain), dtype)
        self.widths = [block.out_channels for block in (*encoder, *(block for _, block in decoder))]

    def embed(self, labels: Tensor | None) -> Tensor | None:
        """Classes [N or 1, label_dim] as the network adds them to the noise level, float32; zeros for None."""
        if self.label_weight is None:
            return None
        if labels is None:
            return self.label_weight.new_zeros(1, self.label_weight.shape[0])
        return functional.linear(labels.to(torch.float32).reshape(-1, self.label_dim), self.label_weight)

    def changed(self, classes: Tensor, change: Change) -> Tensor:
        """What `embed` made, after a change of the embedded classes."""
        return change(classes / self.label_share) * self.label_share

    def forward(self, x: Tensor, sigma: Tensor, classes: Tensor | None, how: Perturbation | None = None) -> Tensor:
        around = Around(x, sigma, self.sigma_data)
        inputs = around.inputs
        x = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
        x = self.conv_in(x.to(self.dtype).contiguous(memory_format=_layout(x.device)))
        blocks = [*self.encoder, *self.decoder]
        hows = [how if how is not None and how.at(block.layer) else None for block in blocks]
        factors = self._factors(around.noise, classes, hows)
        skips, count = [x], len(self.encoder)
        for block, factor, own in zip(self.encoder, factors[:count], hows[:count], strict=True):
            x = block(x, factor, own)
            skips.append(x)
        for block, joins, factor, own in zip(self.decoder, self.joins, factors[count:], hows[count:], strict=True):
            x = block(_joined(x, skips.pop(), self.concat) if joins else x, factor, own)
        return around.denoised(self.conv_out(x))

    def _factors(self, noise: Tensor, classes: Tensor | None, hows: Sequence[Perturbation | None]) -> Sequence[Tensor]:
        """What the embedding multiplies the residual branch of each block by, [N or 1, C, 1, 1] in `dtype`."""
        emb = functional.linear(self.fourier(noise), self.noise_weight)
        usual = self._factors_of(emb, classes)
        perturbs = next((how.noise for how in hows if how is not None and how.noise is not None), None)
        if perturbs is None:
            return usual
        others = self._factors_of(perturbs(emb), classes)
        return [own if how is None else other for how, own, other in zip(hows, usual, others, strict=True)]

    def _factors_of(self, emb: Tensor, classes: Tensor | None) -> Sequence[Tensor]:
        emb = functional.silu(emb if classes is None else emb + classes)
        factors = functional.linear(emb, self.factor_weight).add_(1).to(self.dtype)
        return list(factors[:, :, None, None].split(self.widths, dim=1))


def _label_weight(unet: UNet, factor: float) -> Tensor | None:
    return None if unet.emb_label is None else _weight(unet.emb_label, factor=factor)


def _factor_weights(unet: UNet) -> Tensor:
    """The weights of `emb_linear` of all blocks, one below the other."""
    blocks = [each for each in (*unet.enc.values(), *unet.dec.values()) if isinstance(each, Block)]
    return torch.cat([_weight(block.emb_linear, block.emb_gain, _SILU) for block in blocks])


def _joined(a: Tensor, b: Tensor, t: float) -> Tensor:
    """`networks_edm2.mp_cat`."""
    total = math.sqrt((a.shape[1] + b.shape[1]) / ((1 - t) ** 2 + t**2))
    factors = [total / math.sqrt(a.shape[1]) * (1 - t), total / math.sqrt(b.shape[1]) * t]
    return torch.cat([x if abs(f - 1) < 1e-9 else x * f for x, f in zip((a, b), factors, strict=True)], dim=1)


# ----------------------------------------------------------------------------
# Calls.


class _Inference:
    """A prepared network as a denoiser: classes embedded once, batches filled up where shapes are fixed."""

    def __init__(
        self, prepared: Prepared, denoise: Callable[..., Tensor], precision: str, batch: int | None, fixed: bool
    ) -> None:
        self._prepared, self._denoise, self._precision = prepared, denoise, precision
        self._batch, self._fixed = batch, fixed
        self._embedded: list[tuple[Tensor | None, int, Tensor | None]] = []  # the last two, of main and guide

    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        label_embedding: Change | None = None,
        perturbation: Perturbation | None = None,
    ) -> Tensor:
        with matmul_precision(self._precision, x.device):
            classes = self._classes(labels)
            if label_embedding is not None and classes is not None:
                classes = self._prepared.changed(classes, label_embedding)
            if perturbation is not None or (torch.is_grad_enabled() and x.requires_grad):
                made: Tensor = self._prepared(x, sigma, classes, perturbation)
                return made
            if not self._fixed:
                return self._denoise(x, sigma, classes)
            size = filled_size(len(x), self._batch)
            x_full, sigma_full, classes_full = (_filled(each, len(x), size) for each in (x, sigma, classes))
            denoised = self._denoise(x_full, sigma_full, classes_full)
            return denoised if size == len(x) else denoised[: len(x)]

    def _classes(self, labels: Tensor | None) -> Tensor | None:
        version = 0 if labels is None or labels.is_inference() else labels._version
        for known, at, classes in self._embedded:
            if known is labels and at == version:
                return classes
        with torch.inference_mode(False), torch.no_grad():
            classes = self._prepared.embed(labels)
        self._embedded = [(labels, version, classes), *self._embedded[:1]]
        return classes


def filled_size(count: int, batch: int | None) -> int:
    """How many images a batch of `count` is filled up to: `batch` or the next of its halves, or multiples of it."""
    if batch is None:
        return 1 << max(count - 1, 0).bit_length()
    if count > batch:
        return -(-count // batch) * batch
    while (half := (batch + 1) // 2) >= count and half < batch:
        batch = half
    return batch


def _filled(x: Tensor | None, count: int, size: int) -> Tensor | None:
    """Rows repeated from the last one, [size, ...]; what is one for all stays."""
    if x is None or x.ndim == 0 or len(x) != count or count == size or (x.ndim < 3 and len(x) == 1):
        return x
    return torch.cat([x, x[-1:].expand(size - count, *x.shape[1:])])


def _compiled(prepared: Prepared) -> Callable[..., Tensor]:
    """Through torch.compile, for one shape after the other. RuntimeError, in one line, if the compiler fails."""
    denoise: Any = torch.compile(prepared, fullgraph=True, dynamic=False)

    def call(x: Tensor, sigma: Tensor, classes: Tensor | None) -> Tensor:
        try:
            made: Tensor = denoise(x, sigma, classes)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = next(filter(None, map(str.strip, str(error).splitlines())), "")
            raise RuntimeError(f"--form=compiled: the compiler failed: {reason}; give --form=prepared") from error
        return made

    return call


class _Pool:
    """Memory for what graphs have in between. It is gone with the last graph, and its handle must not be used then."""

    def __init__(self) -> None:
        self.handle = torch.cuda.graph_pool_handle()


@dataclass(frozen=True)
class _Recorded:
    graph: Any
    pool: _Pool
    places: Sequence[Tensor | None]
    output: Tensor


class _Graphs:
    """Calls recorded once for every shape, as CUDA graphs, and replayed: no launch waits for Python.

    All graphs of a stream share one pool: they run one after the other, and what comes out of one is copied before the
    next begins.
    """

    _pools: ClassVar[WeakValueDictionary[tuple[torch.device, int], _Pool]] = WeakValueDictionary()

    def __init__(self, denoise: Callable[..., Tensor]) -> None:
        self._denoise = denoise
        self._recorded: dict[Any, _Recorded] = {}

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        stream = torch.cuda.current_stream().cuda_stream
        key = stream, *(None if each is None else (tuple(each.shape), each.dtype) for each in inputs)
        if key not in self._recorded:
            self._recorded[key] = self._record(inputs)
        recorded = self._recorded[key]
        for place, each in zip(recorded.places, inputs, strict=True):
            if place is not None and each is not None:
                place.copy_(each)
        recorded.graph.replay()
        return recorded.output.clone()

    def _record(self, inputs: Sequence[Tensor | None]) -> _Recorded:
        places = [None if each is None else each.clone() for each in inputs]
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(2):  # libraries choose their ways, and memory runs out here if it does
                self._denoise(*places)
        current.wait_stream(side)
        of = current.device, current.cuda_stream
        pool = self._pools.get(of) or _Pool()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool.handle, capture_error_mode="thread_local"):
            output = self._denoise(*places)
        self._pools[of] = pool
        return _Recorded(graph, pool, places, output)
