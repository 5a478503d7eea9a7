"""Networks in safetensors files: the family is told by the metadata."""

import torch

from dnnlib.download import fetch
from edm2_guidance.models import adm, adm_files, edm2
from edm2_guidance.models.base import Model


def open_safetensors(source: str, device: torch.device, *, trust_pickle: bool, offline: bool) -> Model:
    """A network by path or URL; as `open_model`."""
    ours = adm_files.is_adm(fetch(source, offline=offline))
    opener = adm.open_adm if ours else edm2.open_edm2
    model: Model = opener(source, device, trust_pickle=trust_pickle, offline=offline)
    return model
