"""EDM2's networks as their own code base evaluates them: the yardstick of `training.inference_form`.

The same sums in the order and layout of that code, in our words: every weight is normalised in every call, halving
and doubling are convolutions, and attention is two products in five dimensions with a softmax between.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.networks_edm2 import Block, Precond, normalize


class _PlainBlock(Block):
    """A block whose resampling and attention are plain; what else it does, `Block` does as published."""

    plain_mode: str
    kernel: Tensor

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return super().forward(self._resampled(x), emb)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.plain_mode == "keep":
            return x
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).tile([channels, 1, 1, 1])
        if self.plain_mode == "down":
            return functional.conv2d(x, kernel, groups=channels, stride=2)
        return functional.conv_transpose2d(x, kernel * 4, groups=channels, stride=2)

    def _attend(self, x: Tensor) -> Tensor:
        assert self.attn_qkv is not None
        assert self.attn_proj is not None
        parts = self.attn_qkv(x).reshape(x.shape[0], self.num_heads, -1, 3, x.shape[2] * x.shape[3])
        q, k, v = normalize(parts, dim=[2]).unbind(3)
        weights = torch.einsum("nhcq,nhck->nhqk", q, k / math.sqrt(q.shape[2])).softmax(dim=3)
        attended: Tensor = self.attn_proj(torch.einsum("nhqk,nhck->nhcq", weights, v).reshape(x.shape))
        return attended


def plain(net: Precond, precision: str) -> nn.Module:
    """A copy of a network that is evaluated so; precision: float32, or float16 as published on CUDA."""
    made = copy.deepcopy(net).eval().requires_grad_(False)
    made.use_fp16 = precision == "float16"
    for block in made.modules():
        if isinstance(block, Block):
            block.__class__ = _PlainBlock
            assert isinstance(block, _PlainBlock)
            block.plain_mode, block.resample_mode = block.resample_mode, "keep"
            kernel = torch.full([1, 1, 2, 2], 0.25, device=block.emb_gain.device)
            block.register_buffer("kernel", kernel, persistent=False)
    return made
