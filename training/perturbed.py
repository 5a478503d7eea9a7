"""EDM2's U-Net with something inside computed otherwise: the blocks of `networks_edm2`, gone through from outside.

Files hold the text of that module, which knows nothing of this. At layers that a perturbation leaves alone, the
module's own blocks are called.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from edm2_guidance.recipe.perturbation import Attention, Layer, Perturbation
from torch_utils.transfer import to_device
from training.networks_edm2 import Block, UNet, mp_cat, mp_silu, mp_sum, normalize, resample


def layers_of(net: UNet) -> list[Layer]:
    """Its blocks, encoder first, in the order of evaluation."""
    return [*_side(net, "encoder"), *_side(net, "decoder")]


def _side(net: UNet, side: str) -> Iterator[Layer]:
    blocks = {name: each for name, each in _modules(net, side) if isinstance(each, Block)}
    smallest = min(map(_size, net.dec))
    for index, (name, block) in enumerate(blocks.items()):
        yield Layer(
            name=f"{side[:3]}.{name}",
            side="encoder" if side == "encoder" else "decoder",
            index=index,
            size=_size(name),
            coarsest=_size(name) == smallest,
            attends=block.num_heads > 0,
            resizes=block.resample_mode != "keep",
        )


def _modules(net: UNet, side: str) -> list[tuple[str, torch.nn.Module]]:
    return list((net.enc if side == "encoder" else net.dec).items())


def _size(name: str) -> int:
    """Of a block by its name, such as 16 of "16x16_down"."""
    return int(name.split("x")[0])


def perturbed_unet(
    net: UNet, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None, how: Perturbation
) -> Tensor:
    """As `net(x, noise_labels, class_labels)`, otherwise where `how` says so."""
    layers = iter(layers_of(net))
    noise = net.emb_noise(net.emb_fourier(noise_labels))
    usual = _embedded(net, noise, class_labels)
    told = usual if how.noise is None else _embedded(net, how.noise(noise), class_labels)
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    skips = []
    for name, module in net.enc.items():
        x = module(x) if name.endswith("conv") else _block(module, next(layers), x, usual, told, how)
        skips.append(x)
    for name, module in net.dec.items():
        if "block" in name:
            x = mp_cat(x, skips.pop(), net.concat_balance)
        x = _block(module, next(layers), x, usual, told, how)
    made: Tensor = net.out_conv(x, gain=net.out_gain)
    return made


def _embedded(net: UNet, noise: Tensor, class_labels: Tensor | None) -> Tensor:
    if net.emb_label is not None and class_labels is not None:
        label = net.emb_label(class_labels * math.sqrt(class_labels.shape[1]))
        noise = mp_sum(noise, label, net.label_balance)
    return mp_silu(noise)


def _block(block: torch.nn.Module, layer: Layer, x: Tensor, usual: Tensor, told: Tensor, how: Perturbation) -> Tensor:
    """One block. usual, told: the embedding, as it is and as perturbed layers see it."""
    assert isinstance(block, Block)
    if not how.at(layer):
        unchanged: Tensor = block(x, usual)
        return unchanged
    x = resample(x, block.resample_filter, block.resample_mode)
    trunk = x if block.conv_skip is None else block.conv_skip(x)
    if block.flavor == "enc":
        x = trunk = normalize(trunk, dim=[1])
    skipped = None if how.skip is None else how.skip(layer)
    if skipped is True:
        return clipped(trunk, block.clip_act)
    y = block.conv_res0(mp_silu(x))
    y = mp_silu(y * (block.emb_linear(told, gain=block.emb_gain) + 1)[:, :, None, None].to(y.dtype))
    if how.dropout is not None:
        y = how.dropout(layer, y)
    made = mp_sum(trunk, block.conv_res1(y), block.res_balance)
    if block.num_heads > 0:
        attend = how.attention or functional.scaled_dot_product_attention
        made = mp_sum(made, _attended(block, made, attend), block.attn_balance)
    return clipped(made if skipped is None else passed_by(skipped, trunk, made), block.clip_act)


def _attended(block: Block, x: Tensor, attend: Attention) -> Tensor:
    assert block.attn_qkv is not None
    assert block.attn_proj is not None
    qkv = block.attn_qkv(x).reshape(len(x), block.num_heads, -1, 3, x.shape[2] * x.shape[3])
    q, k, v = (part.contiguous() for part in normalize(qkv, dim=[2]).transpose(2, 4).unbind(3))
    made: Tensor = block.attn_proj(attend(q, k, v).transpose(2, 3).reshape(x.shape))
    return made


def passed_by(skipped: Tensor, trunk: Tensor, made: Tensor) -> Tensor:
    """The trunk of the images that skip a block, bool [N], and for the others what it made; all [N,C,H,W]."""
    return torch.where(to_device(skipped, made.device)[:, None, None, None], trunk, made)


def clipped(x: Tensor, bound: float | None) -> Tensor:
    return x if bound is None else x.clamp(-bound, bound)
