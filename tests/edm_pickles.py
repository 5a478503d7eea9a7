"""Pickles as EDM's code base writes them, of our networks, for tests."""

import io
from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from edm2_guidance.models.networks.edm import PRECONDS, Architecture
from torch_utils import persistence, pickle_writer

CONV = ("in_channels", "out_channels", "up", "down", "fused_resample")
SONG = ("label_dropout", "map_label", "map_augment")
PRECOND = ("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_min", "sigma_max")
ATTRIBUTES = {  # those in files, by class
    "EDMPrecond": (*PRECOND, "sigma_data"),
    "VPPrecond": (*PRECOND, "beta_d", "beta_min", "M", "epsilon_t"),
    "VEPrecond": PRECOND,
    "iDDPMPrecond": (*PRECOND, "C_1", "C_2", "M"),
    "SongUNet": SONG,
    "DhariwalUNet": SONG,
    "UNetBlock": (
        "in_channels", "out_channels", "emb_channels", "num_heads", "dropout", "skip_scale", "adaptive_scale", "skip"
    ),
    "Conv2d": (*CONV, "weight", "bias"),
    "Linear": ("in_features", "out_features", "bias"),
    "GroupNorm": ("num_groups", "eps"),
    "PositionalEmbedding": ("num_channels", "max_positions", "endpoint"),
    "FourierEmbedding": (),
}  # fmt: skip
HOOKS = ("_backward_hooks", "_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks")


class Stored:
    """Pickles as a persistent object."""

    def __init__(self, class_name, state, source="# networks.py"):
        self.class_name, self.state, self.source = class_name, state, source

    def __reduce__(self):
        meta = {
            "type": "class",
            "version": 6,
            "module_src": self.source,
            "class_name": self.class_name,
            "state": self.state,
        }
        return persistence._reconstruct_persistent_obj, (meta,)


def stored(module):
    """What a file has of a module, without its constructor arguments."""
    children = OrderedDict((name, stored(child)) for name, child in module._modules.items() if child is not None)
    if isinstance(module, nn.ModuleDict):
        made = nn.ModuleDict().eval()
        made.__dict__["_modules"] = children
        return made
    state = {"training": False, "_non_persistent_buffers_set": set(), **{name: OrderedDict() for name in HOOKS}}
    for name in ATTRIBUTES[type(module).__name__]:
        value = getattr(module, name)
        if not hasattr(value, "requires_grad") and not isinstance(value, nn.Module):
            state[name] = np.float64(value) if name == "skip_scale" and value != 1 else value
    tensors = {name: OrderedDict(getattr(module, name)) for name in ("_parameters", "_buffers")}
    init = {"init_mode": "kaiming_uniform", "init_weight": np.float64(0.2)}
    arguments = {"_init_args": (), "_init_kwargs": init}
    return Stored(type(module).__name__, {**state, **tensors, "_modules": children, **arguments})


def content_of(net, arguments, class_names=None):
    """The dictionary of a file. arguments: of the preconditioner's constructor."""
    ema = stored(net)
    ema.state["_init_kwargs"] = dict(arguments)
    loss = Stored("EDMLoss", {"P_mean": -1.2, "P_std": 1.2, "sigma_data": 0.5}, "# loss.py")
    dataset = {"class_name": "training.dataset.ImageFolderDataset", "path": "x.zip", "resolution": 16, "max_size": 9}
    if class_names is not None:
        dataset["class_names"] = class_names
    return {"ema": ema, "loss_fn": loss, "augment_pipe": None, "dataset_kwargs": dataset}


def pickled(content):
    file = io.BytesIO()
    pickle_writer.dump(content, file)
    return file.getvalue()


SMALL = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8], "dropout": 0.0}


def write_small(path, class_name, seed, *, label_dim=0, **song):
    """A file of a network of 16x16 RGB with random weights: `DhariwalUNet` for iDDPMPrecond, else a `SongUNet`."""
    kind = "DhariwalUNet" if class_name == "iDDPMPrecond" else "SongUNet"
    unet = {**SMALL, **song, "label_dim": label_dim}
    arch = Architecture(
        kind, 16, 3, 6 if kind == "DhariwalUNet" else 3,
        **{name: tuple(value) if isinstance(value, list) else value for name, value in unet.items()},
    )  # fmt: skip
    net, noise = PRECONDS[class_name](arch), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in net.parameters():
            weights.copy_(torch.randn(weights.shape, generator=noise) * 0.1)
    arguments = {"img_resolution": 16, "img_channels": 3, "model_type": kind, **unet}
    path.write_bytes(pickled(content_of(net.eval().requires_grad_(False), arguments)))
    return str(path)
