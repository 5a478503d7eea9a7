"""pytorch-fid 0.3.0. Its network takes the weights of a file in place of those that it would download."""

import contextlib
import io
import sys

import numpy as np
import torch
import torchvision_first  # noqa: F401 (before what imports torchvision)
from answering import answer
from pytorch_fid import fid_score, inception


def features(a, b):
    """Frechet distance of features, .npy: by its mean, covariance and matrix square root."""
    sets = (np.load(path).astype(np.float64) for path in (a, b))  # as its own come
    moments = [(np.mean(rows, axis=0), np.cov(rows, rowvar=False)) for rows in sets]
    return float(fid_score.calculate_frechet_distance(*moments[0], *moments[1]))


def network(weights, images, features):
    """Its network alone: .npy of images as they enter the first layer, [N, 3, 299, 299], to .npy [N, 2048]."""
    give(weights)
    net = inception.InceptionV3(resize_input=False, normalize_input=False).eval()
    with torch.no_grad():
        found = net(torch.from_numpy(np.load(images)))[0]
    np.save(features, found.flatten(1).numpy())


def command(weights, arguments):
    """The program itself, as from the command line; the number that it prints, if it prints one."""
    give(weights)
    sys.argv = ["pytorch-fid", "--device=cpu", "--num-workers=0", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        fid_score.main()
    return float(said.getvalue().partition("FID:")[2] or "nan")


def give(weights):
    """The state dict of a file in place of the one that would be downloaded."""
    inception.load_state_dict_from_url = lambda url, progress: torch.load(weights, weights_only=True)


answer(features=features, network=network, command=command)
