"""Whole commands made small: few images, the smallest training, tiny extractors in place of those that are downloaded.

In the process of a test: `make_small(monkeypatch.setattr, folder)`, then the command as always. In processes of their
own, as torchrun starts them: python tests/small.py generate_images.py --preset=...
"""

import sys
import tempfile
from pathlib import Path

import click
import torch
from safetensors.torch import save_file
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
NUM_IMAGES = 4  # at most, of a command
FEATURE_DIM = 32

# The smallest training there is: snapshots are named by 1024 images, and attention needs whole heads.
TRAINING = {
    **dict.fromkeys(("duration", "snapshot", "checkpoint", "status"), 1024),
    "batch": 512,
    "channels": 8,
    "channels_per_head": 8,
    "channel_mult": (1,),
    "num_blocks": 1,
}
TOY_TRAINING = {"iterations": 2, "batch": 64}


class TinyFeatures(nn.Module):
    """The image shrunk to 4 x 4 means, projected by a matrix."""

    def __init__(self):
        super().__init__()
        self.register_buffer("projection", torch.zeros(48, FEATURE_DIM))

    def forward(self, images):
        """uint8 [N, 3, H, W] -> float32 [N, FEATURE_DIM]."""
        return nn.functional.adaptive_avg_pool2d(images.float() / 255, 4).flatten(1) @ self.projection

    def named(self, images, wanted):
        """Features by name, each other ones."""
        pool = self(images)
        return {"pool": pool, "spatial": pool.square(), "logits": 4 * pool}


def register_tiny_extractors(setattr, folder):
    """Tiny ones, with weights in `folder`, in place of those whose weights are downloaded."""
    from edm2_guidance.metrics.catalog import extractors
    from edm2_guidance.metrics.extractors.base import Weights

    weights = Path(folder, "tiny.safetensors")
    save_file({"projection": torch.randn(48, FEATURE_DIM, generator=torch.Generator().manual_seed(0))}, weights)
    tiny = {"build": lambda self: TinyFeatures(), "run": lambda self, net, images, wanted: net.named(images, wanted)}
    for extractor in extractors().values():
        if extractor.weights.sha256:
            features = dict.fromkeys(extractor.features, FEATURE_DIM)
            for name, value in {**tiny, "features": features, "weights": Weights(str(weights))}.items():
                setattr(type(extractor), name, value)


def make_small(setattr, folder):
    """Cut every command that runs from now on; setattr: the function itself, or that of monkeypatch."""
    from edm2_guidance.cli.command import Command

    register_tiny_extractors(setattr, folder)
    invoke = Command.invoke

    def small(command, context):
        cut(context)
        return invoke(command, context)

    setattr(Command, "invoke", small)


def cut(context):
    """Cut what the command line asks for, after it was parsed and before the work."""
    params = context.params
    fixed = TRAINING if "duration" in params else TOY_TRAINING if "iterations" in params else {}
    if params.get("figs") is not None:
        fixed = {"steps": 2}  # pictures are many; their intervals follow the schedule
    for name, value in fixed.items():
        params[name] = value
        context.set_parameter_source(name, click.core.ParameterSource.COMMANDLINE)  # stronger than a preset
    if "num" in params and context.command.name in ("calc", "gen"):
        params["num"] = min(params["num"] or NUM_IMAGES, NUM_IMAGES)  # None is the papers' 50,000
    if params.get("num_images") is not None:
        params["num_images"] = min(params["num_images"], NUM_IMAGES)
    if params.get("seeds") is not None:
        params["seeds"] = params["seeds"][:NUM_IMAGES]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from edm2_guidance.cli.start import run

    sys.argv = sys.argv[1:]
    with tempfile.TemporaryDirectory() as made:
        make_small(setattr, made)
        run(Path(sys.argv[0]).stem)
