"""torch-fidelity 0.4.0."""

import numpy as np
import torch
import torchvision_first  # noqa: F401 (before what imports torchvision)
from answering import answer
from torch_fidelity import calculate_metrics, metric_fid, metric_isc, metric_kid, metric_prc


def features(a, b, logits, kid_subset_size):
    """All of its measures of features, .npy of images (input 1) and of the reference (input 2)."""
    a, b, logits = (torch.from_numpy(np.load(path)) for path in (a, b, logits))
    return {
        "fid": frechet_distance(a, b),
        "fid_of_float64": frechet_distance(a.double(), b.double()),
        **metric_isc.isc_features_to_metric(logits),
        **metric_kid.kid_features_to_metric(a, b, kid_subset_size=kid_subset_size, verbose=False),
        **metric_prc.prc_features_to_metric(a, b, verbose=False),
    }


def frechet_distance(a, b):
    statistics = map(metric_fid.fid_features_to_statistics, (a, b))
    return metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID]


def images(**arguments):
    """The program itself: of folders of images, or of what its cache has."""
    return calculate_metrics(cuda=False, verbose=False, save_cpu_ram=True, **arguments)


answer(features=features, images=images)
