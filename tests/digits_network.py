"""The network of tests that run whole commands on digits, also outside pytest."""

import torch

from training.encoders import StandardRGBEncoder
from training.network_safetensors import save_safetensors
from training.networks_edm2 import Precond


def save_digits_network(path, **dataset_kwargs):
    """An untrained network of 16x16 digits in ten classes, as small as they come.

    As safetensors, which open eight times as fast as a pickle; tests/commands runs every command on pickles.
    """
    torch.manual_seed(0)
    net = Precond(16, 3, 10, model_channels=8, channel_mult=[1], num_blocks=1, attn_resolutions=[])
    save_safetensors(path, net.half(), encoder=StandardRGBEncoder(), dataset_kwargs=dataset_kwargs or None)
    return path
