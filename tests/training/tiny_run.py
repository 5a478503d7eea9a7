"""The smallest run that has every part, for tests of training."""

from dataclasses import replace

from training.config import TrainingConfig


def tiny_state(images_seen):
    """A checkpoint of no network."""
    return {
        "images_seen": images_seen,
        "seconds": 0.0,
        "identity": {"batch": 1},
        "net": {},
        "optimizer": {"state": {}, "param_groups": []},
        "ema": {"sigma_rels": [], "averages": []},
    }


def tiny_config(**changes):
    base = TrainingConfig(
        data="tiny.zip",
        duration=2048,
        batch=64,
        lr=0.01,
        decay=20,
        rampup=512,
        channels=8,
        channel_mult=(1,),
        num_blocks=1,
        attn_resolutions=(),
        channels_per_head=8,
        status=1024,
        snapshot=1024,
        checkpoint=512,
    )
    return replace(base, **changes)
