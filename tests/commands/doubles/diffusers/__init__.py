"""Stands in for diffusers where a command needs a VAE but its numbers do not matter: importing the real one takes
longer than the command. `tests/training` has the real class."""

from types import SimpleNamespace

import torch


class AutoencoderKL(torch.nn.Module):
    """Averages over 8 x 8 pixels in place of the encoder, repeats in place of the decoder."""

    config = SimpleNamespace(latent_channels=4, block_out_channels=(1, 1, 1, 1))

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))  # a network has parameters

    @classmethod
    def from_pretrained(cls, folder, **_):
        return cls(), {"missing_keys": [], "mismatched_keys": []}

    def encode(self, x):
        means = torch.nn.functional.avg_pool2d(x, 8)
        mean = torch.cat([means, means.mean(dim=1, keepdim=True)], dim=1)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.full_like(mean, 0.1)))

    def decode(self, latents):
        return SimpleNamespace(sample=latents[:, :3].repeat_interleave(8, dim=2).repeat_interleave(8, dim=3) / 10 + 0.5)
