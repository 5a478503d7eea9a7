"""Networks in files of several families: told by what is in the file."""

import torch

from dnnlib.download import fetch
from edm2_guidance.models import adm, adm_files, edm2
from edm2_guidance.models.base import Model


def open_by_header(source: str, device: torch.device, *, trust_pickle: bool, offline: bool) -> Model:
    """A network by path, URL or name; as `open_model`."""
    ours = adm_files.is_adm(fetch(source, offline=offline))
    opener = adm.open_adm if ours else edm2.open_edm2
    model: Model = opener(source, device, trust_pickle=trust_pickle, offline=offline)
    return model
