"""Inception Score: how sure a classifier is of each image, and how evenly it sees all classes.

IS = exp(mean_x KL(p(y | x) || p(y)))   (Salimans et al. 2016, Sec. 4)

p(y) is the mean over a part of the images; the mean over parts is reported. Class scores are those without bias, and
the softmax is over all 1008 of the Inception network. Evaluators differ in the parts:

    (default), fidelity   shuffled by a fixed seed, 10 parts of all images: torch-fidelity 0.4.0
    adm                   parts of 5000 as the images come, a short last one counts as much: guided-diffusion

In the given order, parts of images that are sorted by class hold few classes each, and the score is far too low. All
is computed in float64; guided-diffusion's float32 moves the score by 1e-7 of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from edm2_guidance.metrics.measures.base import Comparison, Measure, features_of
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from edm2_guidance.metrics.moments import Moments

SEED = 2020


@dataclass(frozen=True)
class InceptionScore(Measure):
    """Inception Score: exp of the mean divergence of an image's class probabilities from those of all."""

    kind = "is"
    limits = (1, math.inf)
    source = "arXiv 1606.03498, Sec. 4"
    few = "lower"
    features = "logits"
    needs = "features"
    needs_reference = "nothing"
    better = "higher"
    variants = MappingProxyType({"fidelity": {}, "adm": {"order": "given", "size": 5000}})

    order: Literal["shuffled", "given"] = option("shuffled", "Order in which images are parted")
    parts: int = option(10, "Parts, of sizes as equal as can be", low=1)
    size: int | None = option(None, "Images in a part, in place of a number of parts", unit="images", low=1)

    def check_count(self, count: int, what: str, metric: str) -> None:
        if self.size is None and count < self.parts:
            raise ValueError(f"{metric}: {count} {what} are too few for {self.parts} parts: give more, or fewer parts")

    def against(self, reference: "Moments", name: str) -> Comparison:
        def compare(images: "Moments") -> Mapping[str, float]:
            """The mean and the standard deviation over parts."""
            import numpy as np

            self.check_count(images.num_images or 0, "images", name)
            logits = features_of(images)
            scores = [score(logits[which]) for which in self.split(len(logits))]
            return {self.kind: float(np.mean(scores)), "std": float(np.std(scores))}

        return compare

    def influence(self, images: "Moments", reference: "Moments") -> "NDArray[Any]":
        """By the divergence of each image: that of p(y) moves the score to second order alone."""
        import numpy as np

        logits = features_of(images)
        found, parts = np.zeros(len(logits)), self.split(len(logits))
        for which in parts:
            each = divergences(logits[which]).numpy()
            found[which] = np.exp(each.mean()) * (each - each.mean()) * len(logits) / (len(which) * len(parts))
        return found

    def split(self, count: int) -> "list[NDArray[Any]]":
        """The places of the images of each part, of so many."""
        import numpy as np

        order = np.random.RandomState(SEED).permutation(count) if self.order == "shuffled" else np.arange(count)
        if self.size is not None:
            ends = list(range(self.size, count, self.size))
        else:
            ends = [part * count // self.parts for part in range(1, self.parts)]
        return np.split(order, ends)


def score(logits: "Tensor") -> float:
    """The score of one part, [N, C]."""
    return float(divergences(logits).mean().exp())


def divergences(logits: "Tensor") -> "Tensor":
    """KL(p(y | x) || p(y)) of each image of one part, float64 [N], by class scores [N, C]."""
    import torch

    log_each = logits.double().log_softmax(dim=1)
    each = log_each.exp()
    log_all = each.mean(dim=0).clamp(min=torch.finfo(torch.float64).tiny).log()  # 0 log 0 = 0
    found: Tensor = (each * log_each).sum(dim=1) - each @ log_all
    return found
