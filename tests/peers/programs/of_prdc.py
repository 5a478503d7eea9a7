"""prdc 0.2."""

import numpy as np
from answering import answer
from prdc import compute_prdc


def features(a, b, k):
    """Precision, recall, density and coverage of features: .npy of images and of the reference."""
    found = compute_prdc(real_features=np.load(b), fake_features=np.load(a), nearest_k=k)
    return {name: float(value) for name, value in found.items()}


answer(features=features)
