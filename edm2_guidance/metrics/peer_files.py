"""Statistics in the files of other evaluators, as `statistics_formats` describes them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnnlib.atomic import atomic_path
from edm2_guidance.images.npz import write_npz
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.statistics_formats import StatisticsFormat


def write_peer_files(dest: str | Path, chosen: StatisticsFormat, moments: Mapping[str, Moments]) -> None:
    """Writes the files of a format that has `arrays`; moments: of these features. Each appears when it is whole.

    A file of features of the same name that was there before, of other images, does not stay beside them.

    guided-diffusion's, EDM's and pytorch-fid's arrays are float64, as ours. torch-fidelity compares means of float32
    and covariances of float64, and takes numpy's arrays alone.
    """
    fid = moments["fid"]
    if fid.features is None and chosen.features == "always":
        raise ValueError(f"{dest}: {chosen.name} takes mean and covariance together with the features themselves")
    files = chosen.paths(dest, kept=fid.features is not None)
    for path in set(chosen.paths(dest, kept=True).values()).difference(files.values()):
        path.unlink(missing_ok=True)
    for end, path in files.items():
        with atomic_path(path) as temporary:
            if end.endswith("_kid.npz"):
                write_npz(temporary, {"feats": _features(fid)})
            elif end.endswith(".npz"):
                write_npz(temporary, _arrays(chosen, moments))
            else:
                import torch

                is_features = end == chosen.kept_file
                mu_sigma = {"mu": fid.mean.astype(np.float32), "sigma": fid.cov}
                with open(temporary, "wb") as file:  # by its name, torch would store that of the temporary file
                    torch.save(torch.from_numpy(_features(fid)) if is_features else mu_sigma, file)


def _arrays(chosen: StatisticsFormat, moments: Mapping[str, Moments]) -> dict[str, NDArray[np.float64]]:
    found: dict[str, NDArray[np.float64]] = {}
    for name, (mu, sigma) in chosen.arrays.items():
        found |= {mu: moments[name].mean, sigma: moments[name].cov}
    return found


def _features(moments: Moments) -> NDArray[np.float32]:
    assert moments.features is not None  # `StatisticsFormat.features`
    return moments.features.astype(np.float32, copy=False)
